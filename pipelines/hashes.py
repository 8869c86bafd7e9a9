"""Which way objects are hashed, so that no run goes on with what was hashed another way."""

from __future__ import annotations

# Raise it where `object_hash` changes for objects that have not changed. It is part of the key by which a run that was cut
# short is found again, and of no other: a table whose hashes are of an earlier scheme stays as it is, and an object of it is
# written again, with the vectors that it has, once it is read.
HASH_SCHEME = 2  # metadata as the source has it; 1: as the table has it
