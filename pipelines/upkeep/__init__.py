"""Work on tables beside runs: maintenance, going back, stored jobs."""
