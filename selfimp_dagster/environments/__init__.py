"""Worlds that a policy acts in, turn by turn; docs/environments.md defines each with its scores."""

from selfimp_dagster.environments import code, toy_text

__all__ = ["code", "toy_text"]
