"""The job: what is read, how it is prepared, which models embed it, where it goes. Data, frozen, checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from latentlake.column_indexes import ColumnIndex, Language, ScalarType, text_index
from latentlake.indexes import IndexType
from latentlake.segments import SPLIT_TYPES
from latentlake.storage import Storage, open_storage
from latentlake.stored import Metric, StoredDtype, default_metric, stored_length
from latentlake.tuning.goal import Goal
from operators.chain import Chain
from operators.decode import embedded_as
from operators.embedders.base import EmbedderConfig
from operators.errors import SpecError
from pipelines.sources.base import SourceConfig

BuildMode = Literal["auto", "single", "distributed"]  # of an index: where, and by how many processes


class Section(BaseModel):
    """A part of a job: frozen, and no key is taken that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    renamed: ClassVar[Mapping[str, str]] = {}  # keys of earlier releases, and what they are called now


class PoolSpec(Section):
    """Actors of one model. What is None is planned from the machine or the cluster's profile."""

    min: int | None = Field(default=None, ge=1)
    initial: int | None = Field(default=None, ge=1)
    max: int | None = Field(default=None, ge=1)
    num_cpus: float | None = Field(default=None, gt=0)  # Ray's logical CPUs of an actor; its threads are apart from it
    num_gpus: float | None = Field(default=None, ge=0)
    threads: int | None = Field(default=None, ge=1)  # CPU threads of the model's library in an actor

    @model_validator(mode="after")
    def ordered(self) -> PoolSpec:
        """`min <= initial <= max`, as far as they are given."""
        given = [n for n in (self.min, self.initial, self.max) if n is not None]
        if given != sorted(given):
            raise ValueError("min <= initial <= max must hold")
        return self


class EmbedSpec(Section):
    """One vector column: the model that fills it, how it is stored, its pool."""

    column: str
    config: EmbedderConfig
    dtype: StoredDtype = "float32"
    batch_cost: int | None = Field(default=None, ge=1)
    pool: PoolSpec = PoolSpec()


class TableSpec(Section):
    """The table that the job writes. `prune` deletes rows whose object is gone from the source."""

    uri: str
    name: str
    mode: Literal["incremental", "rebuild"] = "incremental"
    prune: bool = False
    storage_options: dict[str, str] = Field(default_factory=dict)

    @property
    def lake(self) -> Storage:
        """The place that holds the table."""
        return open_storage(self.uri, self.storage_options)


class DeduplicateSpec(Section):
    """Rows that a run does not keep, because their vector is nearly that of a row that stays. See `publish.near_rows`."""

    column: str
    threshold: float = Field(default=0.05, ge=0, lt=2)  # cosine distance
    keep: Literal["nearest", "farthest"] = "nearest"  # to the centroid of its cluster
    clusters: int | None = Field(default=None, ge=1)  # None: by the number of rows


class IndexSpec(Section):
    """How a vector column is searched: its metric (None: the usual one of its dtype), and the index that speeds it up."""

    column: str
    metric: Metric | None = None
    type: IndexType = "auto"
    target_recall: float | None = Field(default=None, gt=0, le=1)  # @k; None: the index is not tuned
    k: int = Field(default=10, ge=1, le=1000)
    max_p95_ms: float | None = Field(default=None, gt=0)
    queries: str | None = None  # Parquet or JSON lines, with a column `text`, `file` or `vector`
    build: BuildMode = "auto"

    @model_validator(mode="after")
    def tuned(self) -> IndexSpec:
        """What tuning needs is given with a target alone, and each build has a type that it can build."""
        if self.target_recall is None and (self.queries or self.max_p95_ms or self.k != 10):
            raise ValueError("k, max_p95_ms and queries are of a tuned index: give target_recall too")
        if self.target_recall is not None and self.type == "none":
            raise ValueError("type none has no recall to tune: leave target_recall out")
        if self.build == "distributed" and self.type not in ("auto", *SPLIT_TYPES):
            raise ValueError(f"build distributed is for types {', '.join(SPLIT_TYPES)} and auto, not for {self.type}")
        return self

    @property
    def goal(self) -> Goal | None:
        """What the index is tuned to; None: it is not."""
        return None if self.target_recall is None else Goal(self.target_recall, self.k, self.max_p95_ms)

    def to_json(self) -> dict[str, Any]:
        """The section as a job has it. A local file of queries is made absolute; of tuning and build there is only what is given."""
        values = self.model_dump(mode="json")
        if self.build == "auto":
            del values["build"]
        given = {name: values.pop(name) for name in ("target_recall", "k", "max_p95_ms", "queries")}
        if self.target_recall is None:
            return values
        if self.queries is not None:
            given["queries"] = open_storage(self.queries).lance_uri
        return values | {name: value for name, value in given.items() if value is not None}


class TextIndexSpec(Section):
    """A full-text index of a column of texts. `phrase` keeps where words stand, which phrases need; it makes the index larger."""

    column: str
    language: Language = "English"  # of stemming, and of the words that are left out
    stemming: bool = True
    phrase: bool = False

    @property
    def wanted(self) -> ColumnIndex:
        """The index."""
        return text_index(self.column, self.language, self.stemming, self.phrase)


class ScalarIndexSpec(Section):
    """An index that filters use: of values in order, of few values, or of lists of labels."""

    column: str
    type: ScalarType = "btree"

    @property
    def wanted(self) -> ColumnIndex:
        """The index."""
        return ColumnIndex(self.column, self.type)


class GateSpec(Section):
    """What must hold for a version to be published."""

    renamed: ClassVar[Mapping[str, str]] = {"max_rows_removed": "max_objects_removed"}

    max_reject_rate: float = Field(default=0.05, ge=0, le=1)  # share of the objects listed
    max_objects_removed: float = Field(default=0.1, ge=0, le=1)  # share of the objects in the table
    min_recall: float | None = Field(default=None, ge=0, le=1)  # @10 of an index against exact search
    min_rows: int | None = Field(default=None, ge=1)  # of the table
    suite: str | None = Field(default=None, min_length=1)  # file that says how `latentlake eval` measures a version
    min_ndcg: float | None = Field(default=None, ge=0, le=1)  # nDCG@10 of the suite
    min: dict[str, float] = Field(default_factory=dict)  # by measure of the suite
    max_drop: Annotated[float, Field(ge=0)] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    max_drift: float | None = Field(default=None, ge=0)  # MMD of a column's vectors from the tagged version's

    @model_validator(mode="after")
    def measured(self) -> GateSpec:
        """What is measured by a suite needs one."""
        asked = [name for name in ("min_ndcg", "min", "max_drop") if getattr(self, name) not in (None, {})]
        if asked and self.suite is None:
            raise ValueError(f"{' and '.join(asked)} measure by a suite: give gates.suite: FILE (docs/evaluation.md)")
        if self.suite is not None and not asked:
            raise ValueError("a suite is given, and no gate asks for a measure of it: give min_ndcg, min or max_drop")
        return self

    @property
    def reads_version(self) -> bool:
        """Whether a gate before the tag looks at the version itself, and not at its indexes alone."""
        return any(asked is not None for asked in (self.min_rows, self.suite, self.max_drift))

    def to_json(self) -> dict[str, Any]:
        """The section without what it does not ask for: it reads as one of a release that did not know that. The suite's path is absolute."""
        asked = self.model_dump(mode="json")
        if self.suite is not None:
            asked["suite"] = str(Path(self.suite).expanduser().absolute())
        return {name: value for name, value in asked.items() if value not in (None, {}) or name == "min_recall"}


class PublishSpec(Section):
    """The tag that readers follow; None: the table is left untagged."""

    tag: str | None = Field(default="prod", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class ShardSpec(Section):
    """Bounds of a shard, the slice that flows from read to write as one block."""

    renamed: ClassVar[Mapping[str, str]] = {"max_rows": "max_objects"}

    max_objects: int = Field(default=2048, ge=1)
    max_mb: int = Field(default=64, ge=1)  # of prepared rows, estimated


class LimitSpec(Section):
    """How long one object may take before its process is ended, and it is rejected; how long a service is waited for."""

    object_timeout_s: float = Field(default=600, gt=0, le=86_400)
    unavailable_timeout_s: float = Field(default=900, ge=0, le=86_400)


class JobSpec(Section):
    """A whole job. Made by `pipelines.job.jobfile`, which finds every mistake at once."""

    name: str
    modality: str
    source: SourceConfig
    chain: Chain
    embed: tuple[EmbedSpec, ...]
    table: TableSpec
    deduplicate: DeduplicateSpec | None = None
    index: tuple[IndexSpec, ...] = ()
    text_index: tuple[TextIndexSpec, ...] = ()
    scalar_index: tuple[ScalarIndexSpec, ...] = ()
    gates: GateSpec = GateSpec()
    publish: PublishSpec = PublishSpec()
    shard: ShardSpec = ShardSpec()
    limits: LimitSpec = LimitSpec()
    limit: int | None = Field(
        default=None, ge=1
    )  # of the objects only so many, spread over the listing; never in a file

    @property
    def columns(self) -> list[str]:
        """The job's vector columns, in its order."""
        return [embed.column for embed in self.embed]

    def metric(self, column: str) -> str:
        """Metric that a column is searched with."""
        given = next((index.metric for index in self.index if index.column == column), None)
        return given or next(default_metric(embed.dtype) for embed in self.embed if embed.column == column)

    def index_of(self, column: str) -> IndexSpec:
        """How a column is searched."""
        return next((index for index in self.index if index.column == column), IndexSpec(column=column))

    def index_type(self, column: str) -> IndexType:
        """Kind of index wanted for a column."""
        return self.index_of(column).type

    @property
    def column_indexes(self) -> list[ColumnIndex]:
        """The full-text and scalar indexes that are wanted."""
        return [*(index.wanted for index in self.text_index), *(index.wanted for index in self.scalar_index)]

    def resolved(self) -> JobSpec:
        """The job with every model looked up: revisions pinned, dimensions known.

        Raises `ModelNotFound`, `SpecError` (vectors that cannot be stored as the job wants, a model of another modality).
        """
        embeds = tuple(e.model_copy(update={"config": e.config.resolve()}) for e in self.embed)
        kind = embedded_as(self.modality)
        for embed in embeds:
            stored_length(embed.dtype, embed.config.dimension)
            if kind not in embed.config.takes:
                raise SpecError(
                    f"the model of column '{embed.column}' ({embed.config.family}) takes {', '.join(sorted(embed.config.takes))}, "
                    f"and the job's modality is '{self.modality}'."
                )
        return self.model_copy(update={"embed": embeds})

    def to_json(self) -> dict[str, Any]:
        """The job as `parse_job` takes it, with local paths made absolute. Secrets are references in it, as in the job itself."""
        source, table = self.source, self.table
        return {
            "name": self.name,
            "modality": self.modality,
            "source": {**source.model_dump(mode="json"), "uri": source.storage.lance_uri},
            **({"decode": dict(self.chain.decode)} if self.chain.decode else {}),
            "preprocess": self.chain.to_json()["steps"],
            "embed": [
                {**e.model_dump(mode="json", exclude={"config"}), **e.config.model_dump(mode="json")}
                for e in self.embed
            ],
            "table": {**table.model_dump(mode="json"), "uri": table.lake.lance_uri},
            **({} if self.deduplicate is None else {"deduplicate": self.deduplicate.model_dump(mode="json")}),
            **{
                name: [index.model_dump(mode="json") for index in declared]
                for name, declared in (("text_index", self.text_index), ("scalar_index", self.scalar_index))
                if declared
            },
            "index": [index.to_json() for index in self.index],
            "gates": self.gates.to_json(),
            **{name: getattr(self, name).model_dump(mode="json") for name in ("publish", "shard", "limits")},
        }


def with_todays_keys(job: Mapping[str, Any]) -> dict[str, Any]:
    """A stored job of an earlier release with its keys as they are called now; whatever else it holds stays as it is."""
    found = dict(job)
    for name, kind in (("gates", GateSpec), ("shard", ShardSpec)):
        if isinstance(section := found.get(name), dict):
            found[name] = {kind.renamed.get(key, key): value for key, value in section.items()}
    return found
