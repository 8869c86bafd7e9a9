"""Work on tables outside runs: maintenance, publishing, rollback, deletion, stored jobs."""
