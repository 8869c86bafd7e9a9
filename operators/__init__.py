"""Pure functions and models over batches. No Ray, no Lance, no I/O policy."""
