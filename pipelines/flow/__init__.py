"""The stages that a shard goes through, from the objects of the source to fragments of the table."""
