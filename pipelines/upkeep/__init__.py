"""Work on tables outside runs: maintenance, rollback, deletion, stored jobs."""
