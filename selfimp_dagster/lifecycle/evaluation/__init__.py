"""Evaluation: scores with intervals, the verdict on a candidate, and whether a next round starts."""
