"""The library of the loop: acquisition, selection, optimization, refinement, evaluation.

Pure functions over frames and engines. Nothing here imports dagster.
"""
