"""Inference engines: how responses are sampled from a set of weights."""
