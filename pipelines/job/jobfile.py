"""Job files: YAML, or the same as a dict, to a `JobSpec`; every mistake is found at once, with its place and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ValidationError

from latentlake.storage import OBJECT_STORES, is_reference, is_secret, scheme_of
from latentlake.stored import check_metric, default_metric
from operators.chain import Chain, Step
from operators.decode import embedded_as, find_decoder, modality_names
from operators.embedders import config_class
from operators.errors import InvalidSpec, SpecError, UnknownName, did_you_mean, redact_url
from operators.preprocess import find_operator, operators_by_name
from operators.presets import find_preset, preset_names
from pipelines.job.spec import (
    EmbedSpec,
    GateSpec,
    IndexSpec,
    JobSpec,
    LimitSpec,
    PoolSpec,
    PublishSpec,
    ShardSpec,
    TableSpec,
)
from pipelines.sources import source_class
from pipelines.sources.base import column_names
from pipelines.values.conversions import is_encodable

M = TypeVar("M", bound=BaseModel)
Where = tuple[str | int, ...]

KEYS = (
    "name",
    "modality",
    "source",
    "decode",
    "preprocess",
    "embed",
    "table",
    "index",
    "gates",
    "publish",
    "shard",
    "limits",
)
REQUIRED = ("name", "modality", "source", "embed", "table")
COLUMN_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
TABLE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
RESERVED = frozenset(
    {"id", "object_id", "uri", "content_hash", "object_hash", "text", "image", "audio", "chunk", "start", "end"}
)
EMBED_KEYS = ("column", "dtype", "batch_cost", "pool")


class Problems:
    """Mistakes found so far, each with its path in the file and, where known, its line."""

    def __init__(self, lines: Mapping[Where, int] | None = None) -> None:
        self.lines = lines or {}
        self.found: list[str] = []

    def add(self, where: Where, message: str) -> None:
        """Note a mistake at a place."""
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
        line = next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), None)
        self.found.append(f"{path or 'job'}{f' (line {line})' if line else ''}: {message}")

    def check(self, model: type[M], data: Any, where: Where) -> M | None:
        """Validate a section; None, with its mistakes noted, where it is wrong."""
        if not isinstance(data, dict):
            self.add(where, f"must be a mapping of keys to values, not {type(data).__name__}.")
            return None
        try:
            return model.model_validate(data)
        except ValidationError as failure:
            for error in failure.errors():
                place = tuple(part for part in error["loc"] if part in data or not str(part).startswith("function-"))
                if error["type"] == "extra_forbidden":
                    key = str(error["loc"][-1])
                    known = sorted(model.model_fields)
                    self.add((*where, *place), f"unknown key.{did_you_mean(key, known)} Known: {', '.join(known)}.")
                elif error["type"] == "missing":
                    self.add((*where, *place), "is missing; it is required.")
                else:
                    # A mistake of the section as a whole has no one value to show.
                    secret = any(is_secret(str(part)) for part in place)
                    got = "" if secret or not place else f" (got {error['input']!r})"
                    self.add((*where, *place), f"{error['msg'].removeprefix('Value error, ')}{got}.")
            return None


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job file and apply `path=value` overrides. Raises `InvalidSpec` with every mistake."""
    spec = parse_yaml(read_text(path), str(path), overrides)
    return spec.model_copy(update={"source": spec.source.from_file(str(path))})


def load_section(model: type[M], path: str | Path) -> M:
    """Read a file that is one section, a cluster's profile say. Raises `InvalidSpec` with every mistake."""
    data, problems = read_yaml(read_text(path), str(path))
    section = problems.check(model, {} if data is None else data, ())
    if section is None or problems.found:
        raise InvalidSpec(problems.found, str(path))
    return section


def read_text(path: str | Path) -> str:
    """The text of a file. Raises `InvalidSpec`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as failure:
        raise InvalidSpec([f"cannot read the file: {failure.strerror}."], str(path)) from failure
    except UnicodeDecodeError as failure:
        raise InvalidSpec([f"not UTF-8 text: byte {failure.start} cannot be read."], str(path)) from failure


def parse_yaml(text: str, source: str = "job", overrides: Sequence[str] = ()) -> JobSpec:
    """Parse a job file's text; see `load_job`."""
    data, problems = read_yaml(text, source)
    if not isinstance(data, dict):
        raise InvalidSpec(["a job is a mapping of keys to values; see `examples/`."], source)
    return parse_job(apply_overrides(data, overrides), source, problems)


def read_yaml(text: str, source: str) -> tuple[Any, Problems]:
    """What a YAML file holds, and the mistakes found so far. Raises `InvalidSpec` where it is no YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as failure:
        raise InvalidSpec([f"not YAML: {' '.join(str(failure).split())}"], source) from failure
    problems = Problems(dict(lines_of(node)) if node else {})
    for where, key, line in repeated_keys(node):
        problems.add(where, f"key '{key}' stands twice (line {line} again); keep one.")
    return data, problems


def parse_job(data: Mapping[str, Any], source: str = "job", problems: Problems | None = None) -> JobSpec:
    """Check a whole job. Raises `InvalidSpec` with every mistake."""
    problems = problems or Problems()
    for key in data:
        if key not in KEYS:
            problems.add((str(key),), f"unknown key.{did_you_mean(str(key), KEYS)} Known: {', '.join(KEYS)}.")
    for key in REQUIRED:
        if key not in data:
            problems.add((key,), "is missing; it is required.")
    if "name" in data and not (isinstance(data["name"], str) and TABLE_NAME.fullmatch(data["name"])):
        problems.add(("name",), f"{data['name']!r} is no name: use letters, digits, '_', '-' and '.'.")
    modality = str(data.get("modality"))
    if "modality" in data and modality not in modality_names():
        known = modality_names()
        problems.add(
            ("modality",), f"no modality '{modality}'.{did_you_mean(modality, known)} Known: {', '.join(known)}."
        )
    origin = parse_source(data["source"], problems) if "source" in data else None
    options = parse_decode(data.get("decode") or {}, modality, problems)
    embeds = parse_list(data, "embed", parse_embed, problems)
    if "embed" in data and not data["embed"]:
        problems.add(("embed",), "names no model; give at least one.")
    steps = parse_list(data, "preprocess", parse_step, problems)
    indexes = parse_list(data, "index", parse_index, problems)
    table = problems.check(TableSpec, data["table"], ("table",)) if "table" in data else None
    gates = problems.check(GateSpec, data.get("gates", {}), ("gates",))
    publish = problems.check(PublishSpec, data.get("publish", {}), ("publish",))
    shard = problems.check(ShardSpec, data.get("shard", {}), ("shard",))
    limits = problems.check(LimitSpec, data.get("limits", {}), ("limits",))
    if table is not None:
        check_table(table, problems)
    check_columns(data, modality, origin, embeds, steps, problems)
    if problems.found:
        raise InvalidSpec(problems.found, source)
    assert origin and table and gates and publish and shard and limits
    return JobSpec(
        name=data["name"],
        modality=modality,
        source=origin,
        chain=Chain(modality, tuple(steps), options),
        embed=tuple(embeds),
        table=table,
        index=tuple(indexes),
        gates=gates,
        publish=publish,
        shard=shard,
        limits=limits,
    )


def parse_list(data: Mapping[str, Any], key: str, parse: Any, problems: Problems) -> list[Any]:
    """Parse each entry of a list section; None stands for a wrong one. An absent section is an empty list."""
    if data.get(key) and not isinstance(data[key], list):
        problems.add((key,), f"must be a list, not {type(data[key]).__name__}.")
    parsed = []
    for index, entry in enumerate(entries_of(data, key)):
        if isinstance(entry, dict):
            parsed.append(parse(entry, (key, index), problems))
        else:
            problems.add((key, index), f"must be a mapping of keys to values, not {type(entry).__name__}.")
            parsed.append(None)
    return parsed


def entries_of(data: Mapping[str, Any], key: str) -> list[Any]:
    """Entries of a list section; none where it is absent, or no list."""
    entries = data.get(key)
    return entries if isinstance(entries, list) else []


def parse_source(data: Any, problems: Problems) -> Any:
    """The source section, by its kind."""
    if not isinstance(data, dict):
        problems.add(("source",), "must be a mapping with `kind` and `uri`.")
        return None
    if "kind" not in data:
        problems.add(("source", "kind"), "is missing; it is required.")
        return None
    try:
        kind = source_class(str(data["kind"]))
    except UnknownName as failure:
        problems.add(("source", "kind"), one_line(failure))
        return None
    source = problems.check(kind, data, ("source",))
    if source is not None:
        check_place(source.uri, source.storage_options, ("source",), problems)
    return source


def parse_decode(data: Any, modality: str, problems: Problems) -> dict[str, Any]:
    """The section `decode`: what is not the default of the options that the modality's decoder takes."""
    if not data or modality not in modality_names():
        return {}
    model = getattr(find_decoder(modality), "Options", None)
    if model is None:
        problems.add(("decode",), f"'{modality}' is decoded without options; leave it out.")
        return {}
    options = problems.check(model, data, ("decode",))
    return {} if options is None else options.model_dump(mode="json", exclude_defaults=True)


def parse_embed(data: dict[str, Any], where: Where, problems: Problems) -> EmbedSpec | None:
    """One entry of `embed`: its own keys, and those of its family's config."""
    before = len(problems.found)
    fields = {key: value for key, value in data.items() if key not in EMBED_KEYS}
    pool = problems.check(PoolSpec, data.get("pool") or {}, (*where, "pool"))
    config = None
    if "family" not in data and data.get("model") in preset_names():
        preset = find_preset(data["model"])
        given = {key: value for key, value in fields.items() if key != "model"}
        fields = {"family": preset.family, **preset.settings, **given}
        config = problems.check(config_class(preset.family), fields, where)
    elif "family" not in data:
        problems.add((*where, "family"), no_family(data.get("model")))
    else:
        try:
            config = problems.check(config_class(str(data["family"])), fields, where)
        except UnknownName as failure:
            problems.add((*where, "family"), one_line(failure))
    if "column" not in data:
        problems.add((*where, "column"), "is missing; it is required.")
    elif not isinstance(data["column"], str) or not COLUMN_NAME.fullmatch(data["column"]) or data["column"] in RESERVED:
        problems.add(
            (*where, "column"),
            f"{data['column']!r} is no column name: a letter, then letters, digits and '_'; not one of {', '.join(sorted(RESERVED))}.",
        )
    if len(problems.found) > before:
        return None
    own = {key: data[key] for key in ("column", "dtype", "batch_cost") if key in data}
    return problems.check(EmbedSpec, {**own, "config": config, "pool": pool}, where)


def no_family(model: Any) -> str:
    """What is wrong with an entry of `embed` that names no family, and is not a preset's."""
    known = f"Presets: {', '.join(preset_names())}."
    if model is None:
        return f"is missing; name the model's family, or give a preset as `model`. {known}"
    return f"is missing, and '{model}' is no preset.{did_you_mean(str(model), preset_names())} {known}"


def parse_step(data: dict[str, Any], where: Where, problems: Problems) -> Step | None:
    """One entry of `preprocess`: `op`, and the operator's parameters."""
    if "op" not in data:
        problems.add((*where, "op"), "is missing; name an operator.")
        return None
    try:
        operator = find_operator(str(data["op"]))
    except UnknownName as failure:
        problems.add((*where, "op"), one_line(failure))
        return None
    params = problems.check(operator.params, {k: v for k, v in data.items() if k != "op"}, where)
    return None if params is None else Step(operator.name, params.model_dump(mode="json"))


def parse_index(data: dict[str, Any], where: Where, problems: Problems) -> IndexSpec | None:
    """One entry of `index`."""
    return problems.check(IndexSpec, data, where)


def check_table(table: TableSpec, problems: Problems) -> None:
    """The table's name and place."""
    if not TABLE_NAME.fullmatch(table.name) or table.name.endswith("__rejects"):
        problems.add(
            ("table", "name"),
            f"{table.name!r} is no table name: use letters, digits, '_', '-' and '.', not beginning with '_' nor ending in '__rejects'.",
        )
    check_place(table.uri, table.storage_options, ("table",), problems)


def check_place(uri: str, options: Mapping[str, str], where: Where, problems: Problems) -> None:
    """No secret stands in a URI or in storage options; only references to secrets do."""
    if not uri:
        problems.add((*where, "uri"), "is empty; give a path or a URI.")
    try:
        place = urlsplit(uri).netloc
    except ValueError as failure:
        return problems.add((*where, "uri"), f"is no path or URI: {failure}.")
    if "@" in place:
        problems.add(
            (*where, "uri"), "holds credentials before '@'; put them in storage_options as env:NAME or file:PATH."
        )
    elif scheme_of(uri) not in {"file", *OBJECT_STORES} and redact_url(uri) != uri:
        problems.add(
            (*where, "uri"),
            "is signed, or holds a token; name the store (s3://…, gs://…, az://…), and put its keys in storage_options as "
            "env:NAME or file:PATH.",
        )
    for name, value in options.items():
        if is_secret(name) and not is_reference(value):
            problems.add(
                (*where, "storage_options", name),
                f"is a secret written out; give env:{name.upper()} or file:PATH instead.",
            )
        elif not is_reference(value) and redact_url(value) != value:
            problems.add(
                (*where, "storage_options", name),
                f"holds credentials; give env:{name.upper()} or file:PATH instead.",
            )
    return None


def check_columns(
    data: Mapping[str, Any],
    modality: str,
    source: Any,
    embeds: Sequence[EmbedSpec | None],
    steps: Sequence[Step | None],
    problems: Problems,
) -> None:
    """What the sections say of one another: columns are there, once, and of the right modality."""
    names = [str(e.get("column", "")) if isinstance(e, dict) else "" for e in entries_of(data, "embed")]
    columns = [name for name in names if name]
    counts = {name: column for column in columns for name in (f"{column}_tokens", f"{column}_truncated")}
    for index, (name, embed) in enumerate(zip(names, embeds, strict=True)):
        if name and name in names[:index]:
            problems.add(("embed", index, "column"), f"'{name}' is taken by another model; one column holds one model.")
        if name in counts:
            problems.add(("embed", index, "column"), f"'{name}' counts the tokens of '{counts[name]}'; name another.")
        if embed and modality in modality_names() and embedded_as(modality) not in embed.config.modalities:
            problems.add(
                ("embed", index, "family"),
                f"'{embed.config.family}' embeds {', '.join(sorted(embed.config.modalities))}, the job's modality is '{modality}'.",
            )
    for key in ("index", "preprocess"):
        named = [entry.get("column") if isinstance(entry, dict) else None for entry in entries_of(data, key)]
        for index, column in enumerate(named):
            if column is not None and column not in columns:
                problems.add(
                    (key, index, "column"),
                    f"no vector column '{column}'.{did_you_mean(str(column), columns)} The job's: {', '.join(columns)}.",
                )
            elif key == "index" and column is not None and column in named[:index]:
                problems.add((key, index, "column"), f"'{column}' has an index already; one column has one index.")
            elif key == "index" and (problem := misfit(entries_of(data, key)[index], embeds)):
                problems.add((key, index, "metric"), problem)
    if modality in modality_names():
        check_steps(modality, steps, problems)
    places: list[tuple[str, int, str]] = []
    if source is not None:
        places += [("metadata", at, name) for at, name in enumerate(source.metadata_names)]
        places += [("partitions", at, name) for at, name in enumerate(column_names(source.partitions))]
    for at, (section, index, name) in enumerate(places):
        if name in RESERVED or name in columns or name in counts or name.startswith("_"):
            problems.add(
                ("source", section, index), f"'{name}' is a column the table makes itself; rename it in the source."
            )
        elif name in [earlier for _, _, earlier in places[:at]]:
            problems.add(("source", section, index), f"'{name}' stands twice; keep one.")
        elif problem := name_problem(name):
            problems.add(("source", section, index), f"{name!r} {problem}; rename it in the source.")


def name_problem(name: str) -> str | None:
    """Why Lance cannot have, or cannot find, a column of a name; None where it can. Backticks quote all others in a filter."""
    if not name:
        return "is an empty name, by which no column is found"
    if name == "*":
        return "stands for all columns in Lance"
    held = next((sign for sign in (".", "`", "\0") if sign in name), None)
    if held is not None:
        return f"holds {held!r}, and no column is found by such a name"
    return None if is_encodable(name) else "is no text that can be stored"


def check_steps(modality: str, steps: Sequence[Step | None], problems: Problems) -> None:
    """Every operator takes what decoding, or an operator before it, makes; the last makes what models embed."""
    kind = modality
    for index, step in enumerate(steps):
        if step is None:
            continue
        operator = find_operator(step.op)
        if kind in operator.modalities:
            kind = operator.makes or kind
            continue
        made = "the job's modality is" if kind == modality else "the operators before it make"
        takes = " and ".join(operator.modalities)
        problems.add(("preprocess", index, "op"), f"'{step.op}' is for {takes}, {made} '{kind}'.")
    if kind != (wanted := embedded_as(modality)) and None not in steps:
        makers = [o.name for o in operators_by_name().values() if o.makes == wanted and kind in o.modalities]
        problems.add(("preprocess",), f"models embed '{wanted}'; name an operator that makes it: {', '.join(makers)}.")


def one_line(failure: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(failure).split())


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b.0.c=value` in a job; values are YAML. Raises `InvalidSpec` where a path leads nowhere."""
    for override in overrides:
        path, found, text = override.partition("=")
        if not found:
            raise InvalidSpec([f"--set {override}: write path=value, for example table.mode=rebuild."], "--set")
        keys: list[str | int] = [int(part) if part.isdigit() else part for part in path.split(".")]
        if keys[0] not in KEYS:
            hint = did_you_mean(str(keys[0]), KEYS) or f" Known: {', '.join(KEYS)}."
            raise InvalidSpec([f"--set {override}: the job has no section '{keys[0]}'.{hint}"], "--set")
        target: Any = data
        try:
            for key, following in pairwise(keys):
                if isinstance(target, dict) and target.get(key) is None:
                    target[key] = [] if isinstance(following, int) else {}
                target = target[key]
            target[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as failure:
            raise InvalidSpec([f"--set {override}: not YAML: {one_line(failure)}."], "--set") from failure
        except (KeyError, IndexError, TypeError) as failure:
            raise InvalidSpec([f"--set {override}: {no_place(data, keys)}"], "--set") from failure
    return data


def no_place(data: Any, keys: Sequence[str | int]) -> str:
    """Why a path leads to no place of a job."""
    target, walked = data, ""
    for key in keys:
        if isinstance(target, list) and not isinstance(key, int):
            return f"'{walked}' is a list: name an entry by its number, from 0."
        if isinstance(target, list) and isinstance(key, int) and key >= len(target):
            return f"'{walked}' has {len(target)} entries, numbered from 0; there is no {key}."
        if not isinstance(target, dict | list):
            return f"'{walked}' is a value, and has no '{key}'."
        target = target.get(key) if isinstance(target, dict) else target[int(key)]
        walked = f"{walked}.{key}".lstrip(".")
    return f"the job has no place '{walked}'."


def lines_of(node: yaml.Node, where: Where = ()) -> Iterator[tuple[Where, int]]:
    """Line, from 1, of every place in a YAML document."""
    yield where, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*where, key.value), key.start_mark.line + 1
            yield from (
                (place, line) for place, line in lines_of(value, (*where, key.value)) if place != (*where, key.value)
            )
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from lines_of(value, (*where, index))


def repeated_keys(node: yaml.Node | None, where: Where = ()) -> Iterator[tuple[Where, str, int]]:
    """Keys that stand twice in one mapping, which YAML would take without a word."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*where, key.value), key.value, key.start_mark.line + 1
            seen.add(key.value)
            yield from repeated_keys(value, (*where, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from repeated_keys(value, (*where, index))


def misfit(entry: Mapping[str, Any], embeds: Sequence[EmbedSpec | None]) -> str | None:
    """Why an index cannot be of its column, by the column's dtype; None where it can."""
    dtype = next((e.dtype for e in embeds if e and e.column == entry.get("column")), None)
    if dtype is None:
        return None
    try:
        check_metric(str(entry.get("metric") or default_metric(dtype)), dtype)
    except SpecError as failure:
        return str(failure)
    return None
