"""Runs Python programs that a model wrote; docs/sandbox.md says what they can do and what not."""
