"""Values of a source on their way to a column of the table: their types, their conversion, their hash."""
