"""Policies on disk: where their weights come from, what identifies them, how they are loaded."""
