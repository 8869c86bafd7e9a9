"""From finished shards to a version that readers see: accounting, gates, commit, index, tag, report."""
