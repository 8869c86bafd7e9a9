"""The contract's cases, one file a family of embedders; each has `CASES`."""
