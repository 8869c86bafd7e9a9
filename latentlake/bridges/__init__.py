"""Bridges: queries of a new model, answered by the column of an old one while the new column is being made."""
