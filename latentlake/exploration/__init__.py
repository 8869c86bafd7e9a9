"""Looking at a table's vectors: maps, plots, clusters, outliers, duplicates, and a page about a version."""
