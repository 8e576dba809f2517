"""What the store knows of rounds and rows: SQL views, the history of a row, gaps, the tree, reproduction."""
