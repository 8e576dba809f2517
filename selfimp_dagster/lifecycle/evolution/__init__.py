"""Self-evolution, bounded (survey 4.4): a search over a typed space of recipes. Nothing here edits code."""
