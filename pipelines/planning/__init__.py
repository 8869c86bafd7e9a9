"""A run before it starts: what is listed, what has changed, which columns and pools there are."""
