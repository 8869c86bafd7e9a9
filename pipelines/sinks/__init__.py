"""Where a flow ends, one file a sink."""
