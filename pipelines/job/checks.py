"""What the sections of a job say about one another, and about the places that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from latentlake.keys import KEY_COLUMNS
from latentlake.storage import OBJECT_STORES, is_reference, is_secret, scheme_of
from latentlake.stored import PART_TYPES, check_metric, default_metric
from operators.chain import Step
from operators.decode import embedded_as, modality_names
from operators.errors import InvalidSpec, SpecError, did_you_mean, redact_url
from operators.preprocess import find_operator, operators_by_name
from pipelines.job.document import TABLE_NAME, reserved
from pipelines.job.problems import Problems, Where, one_line
from pipelines.job.spec import DeduplicateSpec, EmbedSpec, GateSpec, TableSpec
from pipelines.sources.base import column_names
from pipelines.values.conversions import is_encodable

if TYPE_CHECKING:
    from latentlake.evaluation import Suite


def entries_of(data: Mapping[str, Any], key: str) -> list[Any]:
    """Entries of a list section; none where it is absent, or no list."""
    entries = data.get(key)
    return entries if isinstance(entries, list) else []


def check_table(table: TableSpec, problems: Problems) -> None:
    """The table's name and place."""
    if not TABLE_NAME.fullmatch(table.name) or table.name.endswith("__rejects"):
        problems.add(
            ("table", "name"),
            f"{table.name!r} is not a valid table name: use letters, digits, '_', '-' and '.'; it may not begin with '_' or end in '__rejects'.",
        )
    check_place(table.uri, table.storage_options, ("table",), problems)


def check_suite(gates: GateSpec) -> str | None:
    """Hash of the suite that a job's gates measure by, and of its files; None: it names none. Raises `SpecError`."""
    suite = suite_of(gates)
    return None if suite is None else suite.hash()


def suite_of(gates: GateSpec) -> Suite | None:
    """The suite that a job's gates measure by; None: they name none. Raises `SpecError`."""
    if gates.suite is None:
        return None
    from latentlake.evaluation import load_suite

    try:
        return load_suite(gates.suite)
    except InvalidSpec as failure:
        raise InvalidSpec([f"gates.suite: {problem}" for problem in failure.problems], failure.source) from failure


def check_gates(gates: GateSpec, problems: Problems) -> None:
    """The suite is there, and right, and gives the measures that gates ask for."""
    try:
        suite = suite_of(gates)
        if suite is not None:
            suite.hash()
            check_measures(gates, suite, problems)
    except InvalidSpec as failure:
        for problem in failure.problems:
            problems.add(("gates", "suite"), f"{gates.suite}: {problem.removeprefix('gates.suite: ')}")
    except SpecError as failure:
        problems.add(("gates", "suite"), one_line(failure))


def check_measures(gates: GateSpec, suite: Suite, problems: Problems) -> None:
    """What gates ask for is among the measures of the suite, where these are known before it is run."""
    from latentlake.evaluation import canonical_measure

    known = suite.measures()
    asked: list[tuple[Where, str]] = [(("gates", "min", name), name) for name in gates.min]
    if gates.min_ndcg is not None:
        asked.append((("gates", "min_ndcg"), "nDCG@10"))
    if isinstance(gates.max_drop, Mapping):
        asked += [(("gates", "max_drop", name), name) for name in gates.max_drop]
    for where, name in asked if known else ():
        measure = canonical_measure(name.rpartition("/")[2])
        if measure not in known:
            problems.add(
                where,
                f"the suite '{suite.name}' has no '{measure}'.{did_you_mean(measure, known)} It has {', '.join(known)}.",
            )


def check_deduplicate(asked: DeduplicateSpec, embeds: Sequence[EmbedSpec | None], problems: Problems) -> None:
    """The column is one of the job's, and its vectors have a cosine. Where an entry of `embed` is wrong, that is told alone."""
    dtypes = {embed.column: embed.dtype for embed in embeds if embed is not None}
    if asked.column not in dtypes and None not in embeds:
        known = f"{did_you_mean(asked.column, dtypes)} The job's: {', '.join(dtypes)}."
        problems.add(("deduplicate", "column"), f"no vector column '{asked.column}'.{known}")
    elif dtypes.get(asked.column) == "binary":
        problems.add(
            ("deduplicate", "column"),
            f"'{asked.column}' holds bits, and rows are compared by cosine; name a column of float32 or float16.",
        )


def check_place(uri: str, options: Mapping[str, str], where: Where, problems: Problems) -> None:
    """No secret stands in a URI or in storage options; only references to secrets do."""
    if not uri:
        problems.add((*where, "uri"), "is empty; give a path or a URI.")
    try:
        place = urlsplit(uri).netloc
    except ValueError as failure:
        return problems.add((*where, "uri"), f"is not a path or URI: {failure}.")
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


def check_references(
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
    counts = {name: column for column in columns for name in (column + end for end in PART_TYPES)}
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
    for key in ("text_index", "scalar_index"):
        named = [entry.get("column") if isinstance(entry, dict) else None for entry in entries_of(data, key)]
        for index, column in enumerate(named):
            if column in columns:
                problems.add((key, index, "column"), f"'{column}' holds vectors; its index is declared under `index`.")
            elif column in KEY_COLUMNS and key == "scalar_index":
                problems.add((key, index, "column"), f"'{column}' has an index by itself.")
            elif column is not None and column in named[:index]:
                problems.add((key, index, "column"), f"'{column}' has an index already; one column has one index.")
    if modality in modality_names():
        check_steps(modality, steps, problems)
    places: list[tuple[str, int, str]] = []
    if source is not None:
        places += [("metadata", at, name) for at, name in enumerate(source.metadata_names)]
        places += [("partitions", at, name) for at, name in enumerate(column_names(source.partitions))]
    for at, (section, index, name) in enumerate(places):
        if name in reserved() or name in columns or name in counts or name.startswith("_"):
            problems.add(
                ("source", section, index), f"'{name}' is a column the table makes itself; rename it in the source."
            )
        elif name in [earlier for _, _, earlier in places[:at]]:
            problems.add(("source", section, index), f"'{name}' appears twice; keep one.")
        elif problem := name_problem(name):
            problems.add(("source", section, index), f"{name!r} {problem}; rename it in the source.")


def name_problem(name: str) -> str | None:
    """Why Lance cannot have, or cannot find, a column of a name; None where it can. Backticks quote all others in a filter."""
    if not name:
        return "is an empty name, by which no column is found"
    if name == "*":
        return "means all columns in Lance"
    held = next((sign for sign in (".", "`", "\0") if sign in name), None)
    if held is not None:
        return f"holds {held!r}, and no column is found by such a name"
    return None if is_encodable(name) else "cannot be stored as text"


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
