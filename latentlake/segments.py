"""An index of vectors built by fragments: models trained once, a segment per group of fragments, one index. See ADR 13."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from latentlake.indexes import vector_field
from latentlake.storage import Storage

# Vectors per partition of the kinds that can be built so: those of Lance's own builds, so that both find the same.
PARTITION_ROWS = {"IVF_FLAT": 4096, "IVF_PQ": 8192, "IVF_RQ": 4096}
SPLIT_TYPES = tuple(kind.lower() for kind in PARTITION_ROWS)
MAX_PARTITIONS = 4096
OWN_SCALE = "each of its segments has a scale of its own, and Lance would mix their codes"
UNFIT = {  # kinds whose segments cannot be put together, and why
    "IVF_SQ": OWN_SCALE,
    "IVF_HNSW_SQ": OWN_SCALE,
    "IVF_HNSW_FLAT": "putting its segments together builds their graphs once more, in one process",
}
# Vectors per partition, or code, that models are trained on: Lance's own number, or fewer to keep the sample within the bytes.
SAMPLE_RATE, LEAST_RATE = 256, 32
SAMPLE_BYTES = 512 * 2**20
CODES = 256  # of a product quantiser, per part of a vector
SPLIT_ROWS = 2 * CODES  # vectors at least: Lance trains on two per code or more
SEGMENT_ROWS = 2_000_000  # of a group of fragments, about


def train_models(dataset: Any, column: str, build: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """`build` (arguments of Lance's `create_index`) with the models that all segments share; `rows` are the column's vectors.

    Only segments of the same centroids, codebook and rotation can be put together. They are trained on a sample of
    `SAMPLE_RATE` vectors per partition, of at most `SAMPLE_BYTES`, or `LEAST_RATE` vectors per partition where that is more.
    """
    from lance.indices import IndicesBuilder
    from lance.lance import indices

    vector = vector_field(dataset, column).type
    kind, width = build["index_type"], vector.list_size * vector.value_type.bit_width // 8
    partitions = count_partitions(kind, rows)
    builder = IndicesBuilder(dataset, column)
    rate = max(LEAST_RATE, min(SAMPLE_RATE, rows // partitions, SAMPLE_BYTES // (partitions * width)))
    ivf = builder.train_ivf(partitions, distance_type=build["metric"], sample_rate=rate)
    trained: dict[str, Any] = {**build, "ivf_centroids": ivf.centroids, "num_partitions": partitions}
    if kind == "IVF_PQ":
        rate = max(2, min(SAMPLE_RATE, rows // CODES))
        trained["pq_codebook"] = builder.train_pq(ivf, build["num_sub_vectors"], sample_rate=rate).codebook
    if kind == "IVF_RQ":
        trained["rabitq_model"] = indices.build_rq_model(vector.list_size, build["num_bits"])
    return trained


def count_partitions(kind: str, rows: int) -> int:
    """Partitions of an index of `rows` vectors, as many as Lance makes by itself."""
    return min(MAX_PARTITIONS, max(1, rows // PARTITION_ROWS[kind]))


def group_fragments(dataset: Any, least: int, most_rows: int = SEGMENT_ROWS) -> list[list[int]]:
    """Ids of all fragments, in groups of about as many rows each: `least` groups, or more where they would be over `most_rows`.

    A fragment is not parted: there are no more groups than fragments, and a group may be larger by one of them.
    """
    sizes = [(fragment.fragment_id, fragment.count_rows()) for fragment in dataset.get_fragments()]
    total = max(1, sum(rows for _, rows in sizes))
    wanted = min(len(sizes), max(least, -(-total // most_rows)))
    groups: list[list[int]] = [[] for _ in range(wanted)]
    ends = accumulate(rows for _, rows in sizes)
    for (number, rows), end in zip(sizes, ends, strict=True):
        middle = end - rows / 2
        groups[min(wanted - 1, int(middle * wanted / total))].append(number)
    return [group for group in groups if group]


def build_segment(dataset: Any, column: str, name: str, trained: Mapping[str, Any], fragments: Sequence[int]) -> Any:
    """Write the segment of some fragments, which no version names yet; what Lance says of it. Safe to repeat."""
    return dataset.create_index_uncommitted(column, name=name, replace=True, fragment_ids=list(fragments), **trained)


def join_segments(dataset: Any, segments: Sequence[Any]) -> Any:
    """Write segments of the same models as one, which no version names yet: as a single build's, that a search visits once."""
    return dataset.merge_existing_index_segments(list(segments))


def commit_segment(dataset: Any, column: str, name: str, segment: Any) -> None:
    """Make a segment of all fragments the index, in place of one of that name; `dataset` moves to the version that has it."""
    dataset.commit_existing_index_segments(name, column, [segment])


def remove_segments(table: Storage, segments: Sequence[Any]) -> None:
    """Remove the files of segments that no version of a table (a place) names."""
    for segment in segments:
        table.remove("_indices", segment.uuid)
