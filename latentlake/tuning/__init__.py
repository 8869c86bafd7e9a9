"""Indexes tuned to a measured recall: queries, choice, tuning, and what a column's field remembers of it."""
