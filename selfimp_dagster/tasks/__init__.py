"""Where tasks come from, which pool each belongs to, and how a response is judged."""
