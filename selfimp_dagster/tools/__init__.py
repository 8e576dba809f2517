"""Tools that a policy may call: they take text, give text, and never raise on what a policy wrote."""
