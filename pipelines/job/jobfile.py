"""Job files: YAML, or the same as a dict, to a `JobSpec`. Every error is reported at once, with its location and a fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from operators.chain import Chain, Step
from operators.decode import find_decoder, modality_names
from operators.embedders import config_class
from operators.errors import InvalidSpec, UnknownName, did_you_mean
from operators.preprocess import find_operator
from operators.presets import find_preset, preset_names
from pipelines.job.checks import check_deduplicate, check_gates, check_place, check_references, check_table, entries_of
from pipelines.job.document import KEYS, TABLE_NAME, EmbedKeys, JobFile
from pipelines.job.overrides import apply_overrides
from pipelines.job.problems import M, Problems, Where, no_mapping, one_line
from pipelines.job.spec import (
    DeduplicateSpec,
    EmbedSpec,
    GateSpec,
    IndexSpec,
    JobSpec,
    ScalarIndexSpec,
    TableSpec,
    TextIndexSpec,
)
from pipelines.sources import source_class


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job file and apply `path=value` overrides. Raises `InvalidSpec` with every mistake."""
    spec = parse_yaml(read_text(path), str(path), overrides)
    return spec.model_copy(update={"source": spec.source.from_file(str(path))})


def load_section(model: type[M], given: str | Path | Mapping[str, Any], whole: str = "profile") -> M:
    """One section, such as a cluster profile, from a file or as a dict. Raises `InvalidSpec` with every error.

    `whole` is what a mistake of the section as a whole is said to be of.
    """
    name = model.__name__ if isinstance(given, Mapping) else str(given)
    data, problems = (
        (given, Problems(whole=whole)) if isinstance(given, Mapping) else read_yaml(read_text(given), name, whole)
    )
    section = problems.check(model, {} if data is None else data, ())
    if section is None or problems.found:
        raise InvalidSpec(problems.found, name)
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


def read_yaml(text: str, source: str, whole: str = "job") -> tuple[Any, Problems]:
    """What a YAML file, which is a `whole`, holds, and the mistakes found so far. Raises `InvalidSpec` if it is not YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as failure:
        raise InvalidSpec([f"not YAML: {' '.join(str(failure).split())}"], source) from failure
    problems = Problems(dict(lines_of(node)) if node else {}, whole)
    for where, key, line in repeated_keys(node):
        problems.add(where, f"key '{key}' appears twice (line {line} again); keep one.")
    return data, problems


def parse_job(data: Mapping[str, Any], source: str = "job", problems: Problems | None = None) -> JobSpec:
    """Check a whole job. Raises `InvalidSpec` with every mistake."""
    problems = problems or Problems()
    for key in data:
        if key not in KEYS:
            problems.add((str(key),), f"unknown key.{did_you_mean(str(key), KEYS)} Known: {', '.join(KEYS)}.")
    for key, field in JobFile.model_fields.items():
        if field.is_required() and key not in data:
            problems.add((key,), "is missing; it is required.")
    if "name" in data and not (isinstance(data["name"], str) and TABLE_NAME.fullmatch(data["name"])):
        problems.add(("name",), f"{data['name']!r} is not a valid name: use letters, digits, '_', '-' and '.'.")
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
    indexes = parse_list(data, "index", lambda entry, where, found: found.check(IndexSpec, entry, where), problems)
    declared = {
        key: parse_list(data, key, lambda entry, where, found, kind=kind: found.check(kind, entry, where), problems)
        for key, kind in (("text_index", TextIndexSpec), ("scalar_index", ScalarIndexSpec))
    }
    sections = {
        key: problems.check(model, data.get(key, {}), (key,))
        for key, model in JobFile.sections().items()
        if key in data or not JobFile.model_fields[key].is_required()
    }
    asked = data.get("deduplicate")
    deduplicate = None if asked is None else problems.check(DeduplicateSpec, asked, ("deduplicate",))
    if isinstance(table := sections.get("table"), TableSpec):
        check_table(table, problems)
    if isinstance(gates := sections.get("gates"), GateSpec):
        check_gates(gates, problems)
    if deduplicate is not None:
        check_deduplicate(deduplicate, embeds, problems)
    check_references(data, modality, origin, embeds, steps, problems)
    if problems.found:
        raise InvalidSpec(problems.found, source)
    whole = {
        **sections,
        "name": data["name"],
        "modality": modality,
        "source": origin,
        "embed": embeds,
        "deduplicate": deduplicate,
        "index": indexes,
        **declared,
    }
    return JobSpec(chain=Chain(modality, tuple(steps), options), **whole)


def parse_list(data: Mapping[str, Any], key: str, parse: Any, problems: Problems) -> list[Any]:
    """Parse each entry of a list section; a wrong one becomes None. A missing section is an empty list."""
    if data.get(key) and not isinstance(data[key], list):
        problems.add((key,), f"must be a list, not {type(data[key]).__name__}.")
    parsed = []
    for index, entry in enumerate(entries_of(data, key)):
        if isinstance(entry, dict):
            parsed.append(parse(entry, (key, index), problems))
        else:
            problems.add((key, index), no_mapping(entry))
            parsed.append(None)
    return parsed


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
    own = problems.check(EmbedKeys, {key: data[key] for key in EmbedKeys.model_fields if key in data}, where)
    fields = {key: value for key, value in data.items() if key not in EmbedKeys.model_fields}
    if "family" not in data:
        if data.get("model") not in preset_names():
            problems.add((*where, "family"), no_family(data.get("model")))
            return None
        preset = find_preset(fields.pop("model"))
        fields = {"family": preset.family, **preset.settings, **fields}
    try:
        config = problems.check(config_class(str(fields["family"])), fields, where)
    except UnknownName as failure:
        problems.add((*where, "family"), one_line(failure))
        return None
    return None if own is None or config is None else EmbedSpec(config=config, **dict(own))


def no_family(model: Any) -> str:
    """What is wrong with an entry of `embed` that names no family, and is not a preset's."""
    known = f"Presets: {', '.join(preset_names())}."
    if model is None:
        return f"is missing; name the model's family, or give a preset as `model`. {known}"
    return f"is missing, and '{model}' is not a preset.{did_you_mean(str(model), preset_names())} {known}"


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
    """Keys that appear twice in one mapping, which YAML accepts silently."""
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
