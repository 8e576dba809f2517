"""What a step is handed: the store, the campaigns, the engines."""
