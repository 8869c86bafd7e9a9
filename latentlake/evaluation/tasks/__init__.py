"""Kinds of task, one file each, registered by its name; a third party adds one by an entry point of `latentlake.evaluation`."""
