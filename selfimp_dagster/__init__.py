"""Closed-loop self-improvement of language models as an orchestrated, inspectable pipeline."""

__version__ = "0.1.0"
