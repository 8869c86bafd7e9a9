"""Job files: every mistake at once, each with its place, its line and the remedy."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.chain import Chain, Step
from operators.embedders.hashing import Config
from operators.errors import InvalidSpec
from pipelines.job.jobfile import load_job, parse_job, parse_yaml

GOOD = {
    "name": "products",
    "modality": "text",
    "source": {"kind": "jsonl", "uri": "in", "id": "id", "content": "body", "metadata": ["title"]},
    "preprocess": [{"op": "clean_text"}, {"op": "chunk_text", "column": "words", "max_tokens": 8, "overlap": 2}],
    "embed": [
        {"column": "words", "family": "hashing", "dim": 64, "dtype": "float16", "pool": {"min": 1, "max": 2}},
        {"column": "more", "family": "hashing"},
    ],
    "table": {"uri": "lake", "name": "products"},
    "index": [{"column": "words", "metric": "l2"}],
    "gates": {"max_reject_rate": 0.2},
    "publish": {"tag": None},
    "shard": {"max_objects": 10},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """`GOOD` with `value` at a path such as `embed.0.dim`."""
    job = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = job
    for part in parents:
        target = target[part]
    target[last] = value
    return job


def without(path: str) -> dict[str, Any]:
    job = changed(path, None)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = job
    for part in parents:
        target = target[part]
    del target[last]
    return job


def problems_of(job: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as failure:
        parse_job(job)
    assert failure.value.exit_code == 2
    return failure.value.problems


def test_a_good_job():
    job = parse_job(GOOD)
    assert (job.name, job.modality, job.source.kind, job.columns) == ("products", "text", "jsonl", ["words", "more"])
    assert job.embed[0].config == Config(dim=64)
    assert (job.embed[0].dtype, job.embed[0].pool.max, job.embed[1].dtype) == ("float16", 2, "float32")
    chunk = Step("chunk_text", {"column": "words", "max_tokens": 8, "overlap": 2})
    assert job.chain == Chain("text", (Step("clean_text", {"fix_encoding": True, "collapse_whitespace": True}), chunk))
    assert (job.metric("words"), job.metric("more"), job.index_type("words")) == ("l2", "cosine", "auto")
    assert (job.gates.max_reject_rate, job.gates.max_objects_removed, job.publish.tag) == (0.2, 0.1, None)
    assert (job.table.mode, job.table.prune, job.shard.max_objects, job.shard.max_mb) == ("incremental", False, 10, 64)


def test_yaml_and_dict_are_one():
    assert parse_yaml(yaml.safe_dump(GOOD)) == parse_job(GOOD)


def test_sections_that_may_be_left_out():
    for key in ("preprocess", "index", "gates", "publish", "shard"):
        assert parse_job({name: value for name, value in GOOD.items() if name != key}).name == GOOD["name"]


ONE_MISTAKE = [
    # unknown keys, at every level, with the nearest known one
    ({**GOOD, "sauce": 1}, "sauce: unknown key. Did you mean 'source'?"),
    (changed("source.includes", ["a"]), "source.includes: unknown key. Did you mean 'include'?"),
    (changed("preprocess.0.fix_encodin", True), "preprocess[0].fix_encodin: unknown key. Did you mean 'fix_encoding'?"),
    (changed("preprocess.1.tokenizer", "x"), "preprocess[1].tokenizer: unknown key."),
    (changed("embed.1.dims", 3), "embed[1].dims: unknown key. Did you mean 'dim'?"),
    (changed("embed.0.pool.maxi", 3), "embed[0].pool.maxi: unknown key. Did you mean 'max'?"),
    (changed("table.moed", "x"), "table.moed: unknown key. Did you mean 'mode'?"),
    (changed("index.0.kind", "x"), "index[0].kind: unknown key."),
    (changed("gates.max_reject", 1), "gates.max_reject: unknown key. Did you mean 'max_reject_rate'?"),
    (changed("publish.tags", "x"), "publish.tags: unknown key. Did you mean 'tag'?"),
    (changed("shard.max_object", 1), "shard.max_object: unknown key. Did you mean 'max_objects'?"),
    ({**GOOD, "deduplicate": {"column": "words", "treshold": 1}}, "deduplicate.treshold: unknown key. Did you mean 'threshold'?"),
    ({**GOOD, "deduplicate": {"column": "words", "threshold": 2}}, "deduplicate.threshold: Input should be less than 2"),
    ({**GOOD, "deduplicate": {"column": "words", "keep": "first"}}, "deduplicate.keep: Input should be 'nearest' or 'farthest'"),
    ({**GOOD, "deduplicate": {"column": "wrods"}}, "deduplicate.column: no vector column 'wrods'. Did you mean 'words'? The job's: words, more."),
    ({**changed("embed.1.dtype", "binary"), "deduplicate": {"column": "more"}}, "deduplicate.column: 'more' holds bits"),
    ({**GOOD, "deduplicate": "words"}, "deduplicate: must be a mapping"),
    # missing
    ({**GOOD, "deduplicate": {}}, "deduplicate.column: is missing"),
    *((without(key), f"{key}: is missing") for key in ("name", "modality", "table")),
    (without("source.kind"), "source.kind: is missing"),
    (without("source.uri"), "source.uri: is missing"),
    (without("source.id"), "source.id: is missing"),
    (without("preprocess.0.op"), "preprocess[0].op: is missing"),
    (without("preprocess.1.column"), "preprocess[1].column: is missing"),
    (without("embed.1.family"), "embed[1].family: is missing"),
    (without("embed.1.column"), "embed[1].column: is missing"),
    (without("table.uri"), "table.uri: is missing"),
    (without("table.name"), "table.name: is missing"),
    (without("index.0.column"), "index[0].column: is missing"),
    # wrong types
    (changed("source", "in"), "source: must be a mapping"),
    (changed("preprocess", {"op": "clean_text"}), "preprocess: must be a list, not dict."),
    (changed("preprocess.0", "clean_text"), "preprocess[0]: must be a mapping of keys to values, not str."),
    (changed("table", ["a"]), "table: must be a mapping of keys to values, not list."),
    (changed("gates", 3), "gates: must be a mapping of keys to values, not int."),
    (changed("publish", None), "publish: must be a mapping of keys to values, not NoneType."),
    (changed("embed.1.pool", [1]), "embed[1].pool: must be a mapping of keys to values, not list."),
    (changed("source.metadata", "title"), "source.metadata: Input should be a valid list (got 'title')."),
    (changed("source.metadata.0", 5), "source.metadata[0]: give a column's name, or {column: NAME, type: TYPE} (got 5)."),
    (changed("table.prune", "perhaps"), "table.prune: "),
    (changed("name", 3), "name: 3 is not a valid name"),
    (changed("name", "a b"), "name: 'a b' is not a valid name"),
    (changed("name", "ab\n"), r"name: 'ab\n' is not a valid name"),
    # ranges
    (changed("embed.0.dim", 1), "embed[0].dim: Input should be greater than or equal to 2 (got 1)."),
    (changed("embed.0.batch_cost", 0), "embed[0].batch_cost: "),
    (changed("embed.0.dtype", "float64"), "embed[0].dtype: "),
    (changed("embed.0.pool.num_cpus", 0), "embed[0].pool.num_cpus: "),
    (changed("embed.0.pool", {"min": 3, "max": 2}), "embed[0].pool: min <= initial <= max must hold"),
    (changed("embed.0.pool", {"initial": 3, "max": 2}), "embed[0].pool: min <= initial <= max must hold"),
    (changed("preprocess.1.overlap", -1), "preprocess[1].overlap: "),
    (changed("gates.max_reject_rate", 1.5), "gates.max_reject_rate: Input should be less than or equal to 1 (got 1.5)."),
    (changed("shard.max_objects", 0), "shard.max_objects: "),
    (changed("table.mode", "append"), "table.mode: "),
    (changed("publish.tag", "pro d"), "publish.tag: "),
    (changed("index.0.metric", "manhattan"), "index[0].metric: "),
    # names that no registry has
    (changed("modality", "txt"), "modality: no modality 'txt'. Did you mean 'text'?"),
    (changed("source.kind", "parqet"), "source.kind: no source kind 'parqet'. Did you mean 'parquet'?"),
    (changed("source.kind", "_tables"), "source.kind: no source kind '_tables'."),
    (changed("embed.1.family", "hashin"), "embed[1].family: no embedder family 'hashin'. Did you mean 'hashing'?"),
    (changed("preprocess.0.op", "clean_txt"), "preprocess[0].op: no operator 'clean_txt'. Did you mean 'clean_text'?"),
    # what the sections say of one another
    (changed("preprocess.0", {"op": "resize_image", "size": 5}), "preprocess[0].op: 'resize_image' is for image"),
    (changed("embed.1", {"column": "more", "family": "torchvision", "model": "m", "weights": "w"}), "embed[1].family: "),
    (changed("embed.1.column", "words"), "embed[1].column: 'words' is taken by another model"),
    (changed("embed.1.column", "words_tokens"), "embed[1].column: 'words_tokens' counts the tokens of 'words'"),
    (changed("index.0.column", "word"), "index[0].column: no vector column 'word'. Did you mean 'words'?"),
    (changed("index", [{"column": "words"}, {"column": "words"}]), "index[1].column: 'words' has an index already"),
    (changed("preprocess.1.column", "wordz"), "preprocess[1].column: no vector column 'wordz'. Did you mean 'words'?"),
    # names that are taken or cannot be
    *((changed("embed.1.column", name), f"embed[1].column: '{name}' is not") for name in ("id", "text", "_x", "a-b", "")),
    (changed("embed.1.column", "a\n"), r"embed[1].column: 'a\n' is not"),
    (changed("embed.1.column", 5), "embed[1].column: 5 is not a valid column name"),
    *(
        (changed("source.metadata", [name]), f"source.metadata[0]: '{name}' is a column the table makes itself")
        for name in ("id", "object_hash", "words", "words_tokens", "more_truncated", "_status")
    ),
    (changed("source.metadata", ["a", "a"]), "source.metadata[1]: 'a' appears twice"),
    (changed("source.metadata", ["a.b"]), "source.metadata[0]: 'a.b' holds '.', and no column is found by such a name"),
    (changed("source.metadata", ["a`b"]), "source.metadata[0]: 'a`b' holds '`', and"),
    (changed("source.metadata", ["a\0b"]), "source.metadata[0]: 'a\\x00b' holds '\\x00', and"),
    (changed("source.metadata", ["*"]), "source.metadata[0]: '*' means all columns in Lance"),
    (changed("source.metadata", [""]), "source.metadata[0]: '' is an empty name"),
    (changed("source.metadata", ["\ud800"]), "source.metadata[0]: '\\ud800' cannot be stored as text"),
    (changed("source.metadata", [{"column": "uri", "type": "string"}]), "source.metadata[0]: 'uri' is a column the table makes"),
    (changed("source.metadata", ["a", {"column": "a", "type": "string"}]), "source.metadata[1]: 'a' appears twice"),
    (changed("source.metadata", [{"column": "a"}]), "source.metadata[0]: give a column's name, or {column: NAME, type: TYPE}"),
    (changed("source.metadata", [{"column": "a", "type": 5}]), "source.metadata[0]: `column` and `type` are names"),
    (changed("source.metadata", [{"column": "a", "type": "int"}]), "source.metadata[0]: no type 'int'. Did you mean 'int8'? Known: bool"),
    *((changed("table.name", name), "table.name: ") for name in ("_runs", "a/b", "..", "t__rejects", "a b", "t\n")),
    # secrets and places
    (changed("table.storage_options", {"aws_secret_access_key": "abc"}), "table.storage_options.aws_secret_access_key: "),
    (changed("source.storage_options", {"AWS_SESSION_TOKEN": "abc"}), "source.storage_options.AWS_SESSION_TOKEN: "),
    (changed("source.storage_options", {"aws_region": 5}), "source.storage_options.aws_region: "),
    (changed("source.uri", "s3://key:secret@bucket/a"), "source.uri: holds credentials before '@'"),
    (changed("table.uri", "s3://key@bucket/a"), "table.uri: holds credentials before '@'"),
    (changed("source.uri", "https://b.s3.amazonaws.com/a?X-Amz-Signature=word"), "source.uri: is signed, or holds a token"),
    (
        changed("source.storage_options", {"aws_endpoint": "http://user:word@host"}),
        "source.storage_options.aws_endpoint: holds credentials; give env:AWS_ENDPOINT or file:PATH",
    ),
    (changed("table.uri", ""), "table.uri: is empty"),
    (changed("table.uri", "s3://[bucket/a"), "table.uri: is not a path or URI"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "message"), ONE_MISTAKE, ids=[message for _, message in ONE_MISTAKE])
def test_one_mistake(job: dict[str, Any], message: str):
    (problem,) = problems_of(job)
    assert problem.startswith(message)


def test_secrets_are_not_repeated():
    job = changed("table.storage_options", {"aws_secret_access_key": "do-not-print-me"})
    (problem,) = problems_of(job)
    assert "do-not-print-me" not in problem
    assert "env:AWS_SECRET_ACCESS_KEY" in problem


@pytest.mark.parametrize("value", ["env:KEY", "file:/run/secrets/key"])
def test_references_to_secrets_pass(value: str):
    options = {"aws_secret_access_key": value, "aws_region": "eu-west-1"}
    assert parse_job(changed("table.storage_options", options)).table.storage_options == options


@pytest.mark.parametrize("value", [5, "words", {"column": "words"}, None, True, []])
def test_embed_that_is_no_list(value: Any):
    assert any(problem.startswith("embed: ") for problem in problems_of(changed("embed", value)))


def test_a_wrong_entry_does_not_shift_the_places_of_others():
    job = changed("preprocess", [{"op": "nothing"}, {"op": "resize_image", "size": 5}])
    first, second = problems_of(job)
    assert first.startswith("preprocess[0].op: no operator 'nothing'.")
    assert second.startswith("preprocess[1].op: 'resize_image' is for image")
    job = changed("embed", [{"column": "a"}, {"column": "b", "family": "torchvision", "model": "m", "weights": "w"}])
    del job["preprocess"], job["index"]
    first, second = problems_of(job)
    assert first.startswith("embed[0].family: is missing")
    assert second.startswith("embed[1].family: 'torchvision' embeds image")


MANY = """\
name: products
modality: image
source:
  kind: files
  uri: s3://user:word@bucket/products
  incldue: ["*.jpg"]
preprocess:
  - {op: clean_text}
  - op: resize_image
embed:
  - column: squeeze
    family: hashing
    dim: 1
  - column: squeeze
    family: sentence_transformers
    model: x
table:
  uri: lake
  name: products
  storage_options: {aws_secret_access_key: written-out}
index:
  - {column: sqeeze}
publish: {tag: prod}
pubish: {tag: prod}
"""


def test_every_mistake_at_once_with_its_line(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(MANY)
    with pytest.raises(InvalidSpec) as failure:
        load_job(path)
    found = {problem.partition(": ")[0] for problem in failure.value.problems}
    assert found == {
        "source.incldue (line 6)",
        "preprocess[0].op (line 8)",
        "preprocess[1].size (line 9)",
        "embed[0].dim (line 13)",
        "embed[1].column (line 14)",
        "embed[1].family (line 15)",
        "table.storage_options.aws_secret_access_key (line 20)",
        "index[0].column (line 22)",
        "pubish (line 24)",
    }
    text = str(failure.value)
    assert text.startswith(f"{path}: 9 mistakes\n  ")
    assert "written-out" not in text and "word@" not in text


def test_credentials_are_found_beside_other_mistakes_of_the_section():
    (problem,) = problems_of(changed("source.uri", "s3://user:word@bucket"))
    assert "user" not in problem and "word" not in problem.replace("password", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML: "),
        ("a: 1\n b: 2", "not YAML: "),
        ("- a", "a job is a mapping"),
        ("", "a job is a mapping"),
        ("just text", "a job is a mapping"),
        ("a: !!python/object:os.system {}", "not YAML: "),
    ],
)
def test_what_is_no_job(text: str, message: str):
    with pytest.raises(InvalidSpec) as failure:
        parse_yaml(text)
    assert failure.value.problems[0].startswith(message)


def test_keys_that_stand_twice():
    text = yaml.safe_dump(GOOD, sort_keys=False) + "name: other\n"
    with pytest.raises(InvalidSpec) as failure:
        parse_yaml(text)
    (problem,) = failure.value.problems
    line = text.count("\n")
    assert problem.endswith(f"key 'name' appears twice (line {line} again); keep one.")
    nested = text.replace("name: other\n", "").replace("  uri: lake\n", "  uri: lake\n  uri: lake2\n")
    with pytest.raises(InvalidSpec, match=r"table\.uri \(line \d+\): key 'uri' appears twice"):
        parse_yaml(nested)


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="cannot read the file: No such file"):
        load_job(tmp_path / "absent.yaml")
    with pytest.raises(InvalidSpec, match="cannot read the file: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: gr\xfc\xdfe\n".encode("latin-1"))
    with pytest.raises(InvalidSpec, match="not UTF-8 text: byte 8"):
        load_job(tmp_path / "latin.yaml")


# overrides


def override(*overrides: str) -> Any:
    return parse_yaml(yaml.safe_dump(GOOD), overrides=overrides)


def test_overrides():
    job = override(
        "table.mode=rebuild",
        "embed.0.dim=32",
        "embed.1.pool.max=3",  # `pool` is not in the file
        "gates.max_objects_removed=1",
        "source.include=['*.a', '*.b']",
        "publish={tag: next}",
    )
    assert job.table.mode == "rebuild"
    assert job.embed[0].config == Config(dim=32)
    assert job.embed[1].pool.max == 3
    assert job.gates.max_objects_removed == 1
    assert job.source.include == ["*.a", "*.b"]
    assert job.publish.tag == "next"


def test_a_later_override_wins_and_values_may_hold_equals_signs():
    assert override("table.uri=a", "table.uri=b=c").table.uri == "b=c"


def test_an_override_fills_an_empty_section():
    text = yaml.safe_dump(changed("gates", None))
    assert parse_yaml(text, overrides=["gates.max_reject_rate=0.5"]).gates.max_reject_rate == 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("table.mode", "--set table.mode: write path=value"),
        ("embed.7.dim=3", "--set embed.7.dim=3: 'embed' has 2 entries, numbered from 0; there is no 7."),
        ("name.first=3", "--set name.first=3: 'name' is a value, and has no 'first'."),
        ("embed.first.dim=3", "--set embed.first.dim=3: 'embed' is a list: name an entry by its number, from 0."),
        ("table.name=[", "--set table.name=[: not YAML"),
    ],
)
def test_overrides_that_lead_nowhere(wrong: str, message: str):
    with pytest.raises(InvalidSpec) as failure:
        override(wrong)
    assert failure.value.problems[0].startswith(message)


def test_a_wrong_value_in_an_override_is_a_mistake_of_the_job():
    with pytest.raises(InvalidSpec, match=r"table\.mode \(line \d+\): |table\.mode: "):
        override("table.mode=sideways")


def test_validation_loads_neither_engines_nor_models():
    families = ({"family": "sentence_transformers", "model": "m"}, {"family": "hashing"})
    job = {**GOOD, "embed": [{"column": "words", **families[0]}, {"column": "more", **families[1]}]}
    code = (
        "import json, sys; from pipelines.job.jobfile import parse_job; parse_job(json.loads(sys.argv[1]));"
        "print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, json.dumps(job)], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert "pydantic" in loaded  # the list is real
    assert not loaded & {"ray", "torch", "torchvision", "transformers", "sentence_transformers", "lance", "tokenizers"}


def test_options_of_the_decoder():
    job = parse_job({**GOOD, "modality": "text", "decode": {"encoding": "IBM437"}} | text_sections())
    assert job.chain.decode == {"encoding": "cp437"}
    assert parse_job(job.to_json()).chain == job.chain
    assert Chain.from_json(job.chain.to_json()) == job.chain
    plain = parse_job({**GOOD, "modality": "text"} | text_sections())
    assert "decode" not in plain.to_json() and "decode" not in plain.chain.to_json()
    assert plain.chain.fingerprint_fields() == {"modality": "text", "decode": 1, "preprocess": []}
    assert job.chain.fingerprint_fields() == {
        **plain.chain.fingerprint_fields(),
        "decode_options": {"encoding": "cp437"},
    }


@pytest.mark.parametrize(
    ("modality", "options", "message"),
    [
        ("text", {"encoding": "cp4370"}, "decode.encoding: no encoding of that name"),
        ("text", {"encodin": "cp437"}, "decode.encodin: unknown key. Did you mean 'encoding'?"),
        ("image", {"encoding": "cp437"}, "decode: 'image' is decoded without options; leave it out."),
    ],
)
def test_options_that_the_decoder_has_not(modality: str, options: dict[str, Any], message: str):
    job = {**GOOD, "modality": modality, "decode": options} | text_sections()
    assert any(problem.startswith(message) for problem in problems_of(job))


def text_sections() -> dict[str, Any]:
    return {
        "source": {"kind": "files", "uri": "in"},
        "preprocess": [],
        "embed": [{"column": "v", "family": "hashing"}],
        "index": [],
    }
