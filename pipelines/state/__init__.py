"""What a lake remembers of its runs, and who may write to a table."""
