"""How two tables, versions or columns differ: drift of the vectors, neighbours, measures, coverage."""
