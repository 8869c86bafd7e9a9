"""Every shell command of the documentation runs: here, in the test that says so, or it stands in a list that says why not.

A job of these worlds has the name that the page uses, and a model that needs no files; the commands are the page's own.
"""

from __future__ import annotations

import ast
import json
import shlex
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import latentlake_here
from doc_commands import ROOT, block_of, commands, shell_blocks
from PIL import Image

from clusters.kuberay import faults_of
from pipelines.child import end_children

LAKE = "s3://lake/embeddings"
# Run here, one after another in one folder.
IN_ORDER = [
    ("README.md", "LatentLake"),
    ("docs/operations.md", "A new column beside the old one"),
    ("docs/operations.md", "Roll back"),
    ("docs/operations.md", "The same column, all at once"),
    ("docs/publishing.md", "A candidate first"),
    ("docs/publishing.md", "Publish a version"),
    ("docs/publishing.md", "Roll back"),
    ("examples/README.md", "Examples"),
]
# Run here, each in a fresh folder and lake: these blocks list what there is, and are no procedures.
EACH = [
    ("README.md", "Your own data"),
    ("docs/comparing.md", "Comparing tables, versions and columns"),
    ("docs/job.md", "A first look"),
    ("docs/job.md", "Presets"),
    ("docs/job.md", "The job file"),
    ("docs/observability.md", "Log lines"),
    ("docs/planning.md", "The forecast"),
    ("docs/sources.md", "AWS credentials"),
    ("docs/tables.md", "Deleting objects"),
    ("docs/tables.md", "Upkeep"),
]
# Run here: they print manifests, which are checked.
MANIFESTS = [
    ("docs/clusters.md", "Where Ray runs"),
    ("docs/kubernetes.md", "Kubernetes"),
    ("docs/kubernetes.md", "Machines at AWS or GCP"),
    ("docs/kubernetes.md", "Schedules"),
    ("docs/quickstart.md", "On Kubernetes"),
]
SUBMIT = "tests/clusters/test_submit.py::"
# Run by other tests, which take them from the page.
ELSEWHERE = {
    (
        "docs/indexes.md",
        "Indexes that meet a recall",
    ): "tests/pipelines/test_tuned_index.py::test_a_table_is_tuned_by_command",
    ("docs/quickstart.md", "In a terminal"): "tests/test_doc_commands.py::test_the_quickstart_in_a_terminal",
    ("docs/quickstart.md", "On a Ray cluster"): SUBMIT + "test_a_slot_is_submitted_to_two_nodes_and_run_once",
    ("docs/quickstart.md", "With Ray's own tool"): SUBMIT + "test_ray_s_own_tool_submits_it_too",
    (
        "docs/quickstart.md",
        "From Airflow",
    ): "infra/airflow/tests/test_dags.py::test_the_nightly_run_a_backfill_and_upkeep",
    (
        "docs/observability.md",
        "Spans",
    ): "tests/pipelines/test_spans.py::test_the_command_sends_spans_where_the_standard_variables_say",
    (
        "docs/exploring.md",
        "A map that the table keeps",
    ): "tests/pipelines/test_report_page.py::test_the_commands_of_the_page",
    ("docs/exploring.md", "Duplicates"): "tests/pipelines/test_report_page.py::test_the_commands_of_the_page",
    (
        "docs/exploring.md",
        "A page about a version",
    ): "tests/pipelines/test_report_page.py::test_the_commands_of_the_page",
    ("docs/clusters.md", "Submit a job"): SUBMIT + "test_a_slot_is_submitted_to_two_nodes_and_run_once",
    ("docs/planning.md", "A budget"): "tests/clusters/test_admission.py::test_a_budget_is_passed_on_to_the_run",
    (
        "docs/comparing.md",
        "A bridge between two models",
    ): "tests/latentlake/test_bridges.py::test_the_commands_of_the_page",
    ("docs/search.md", "Options"): "tests/latentlake/test_searching.py::test_the_commands_of_the_page",
    ("docs/planning.md", "doctor"): "tests/pipelines/test_doctor.py::test_the_commands_of_the_page",
    ("docs/evaluation.md", "Evaluation"): "tests/pipelines/test_cli_evaluate.py::test_the_commands_of_the_page",
    ("docs/airflow.md", "Connection"): "infra/airflow/tests/test_dags.py::test_the_nightly_run_a_backfill_and_upkeep",
    (
        "infra/kuberay/README.md",
        "A job on Kubernetes, by kustomize",
    ): "tests/clusters/test_infra.py::test_overlays_are_valid",
}
NO_KUBERNETES = (
    "There is no Kubernetes here. What is applied is checked against KubeRay's schemas and rules in tests/clusters."
)
NO_CLOUD = (
    "It needs an account of a cloud. The file is checked against Ray's schema in tests/clusters/test_launcher.py."
)
NO_ENGINE = "There is no container engine here. The files are checked in tests/infra."
NO_NETWORK = "It installs from a package index."
A_SERVER = "It opens a server, of 6 GB that uv fetches. tests/latentlake/test_atlas.py looks at what it opens."
LONG = "It is a test, or a measurement, of minutes to hours."
SHARE = "It takes minutes. tests/test_scaling_benchmark.py runs a hundredth of it."
# Not run, and why.
NOT_RUN = {
    'latentlake promote s3://lake/embeddings products candidate prod --if "ndcg@10 >= prod - 0.01"': "The pictures here "
    "are judged by nobody. docs/publishing.md promotes in the same way, and that is run.",
    "kubectl -n embeddings create secret generic s3-keys --from-env-file keys.env": NO_KUBERNETES,
    "kubectl -n embeddings get rayjob docs -o yaml": NO_KUBERNETES,
    "kubectl apply -f docs-nightly.yaml": NO_KUBERNETES,
    "kubectl apply -f docs.yaml": NO_KUBERNETES,
    "kubectl apply -f notes.yaml": NO_KUBERNETES,
    "kubectl get rayjob docs -o jsonpath={.status.rayClusterName}": NO_KUBERNETES,
    "kubectl get secret docs-abcde -o jsonpath={.data.auth_token} | base64 -d > token": NO_KUBERNETES,
    "kubectl port-forward service/docs-abcde-head-svc 8265": NO_KUBERNETES,
    "export RAY_AUTH_TOKEN_PATH=token": NO_KUBERNETES,
    "latentlake list --address http://localhost:8265": NO_KUBERNETES,
    "docker build --file infra/docker/Dockerfile --target cpu --tag latentlake:0.1.0 .": NO_ENGINE,
    "docker build --file infra/docker/Dockerfile --target gpu --tag latentlake:0.1.0-gpu .": NO_ENGINE,
    "docker build --file infra/docker/airflow.Dockerfile --tag latentlake-airflow:0.1.0 .": NO_ENGINE,
    "docker compose --file infra/docker/compose.yaml up --build --detach": NO_ENGINE,
    "export RAY_AUTH_TOKEN_PATH=infra/docker/secrets/ray-token": NO_ENGINE,
    "latentlake submit job.yaml --address http://localhost:8265": NO_ENGINE,
    "python infra/docker/make_secrets.py": NO_ENGINE + " tests/infra/test_docker.py runs this one.",
    "ray get-auth-token --generate": NO_CLOUD,
    "ray up ray-cluster.yaml": NO_CLOUD,
    "ray dashboard ray-cluster.yaml": NO_CLOUD,
    "latentlake submit job.yaml --cluster aws.yaml --address http://localhost:8265": NO_CLOUD,
    'pip install ".[sentence-transformers]"': NO_NETWORK,
    "pip install dist/latentlake_airflow-0.1.0-py3-none-any.whl": NO_NETWORK,
    "pip wheel --no-deps --wheel-dir dist ./infra/airflow": NO_NETWORK
    + " tests/test_airflow_wheel.py builds this wheel.",
    "latentlake submit docs.yaml --cluster cluster.yaml": "docs/quickstart.md has the same command, run on a real cluster.",
    "latentlake explore ./lake texts": A_SERVER,
    "make acceptance ISSUE=3": LONG,
    "make bench": LONG,
    "make demo": LONG,
    "make faults": LONG,
    "make soak MINUTES=10 SEED=0": LONG,
    "python benchmarks/scaling.py": SHARE,
    "python benchmarks/scaling.py --gpu L4=300:0.8 H100=3000:7": SHARE,
    "make test": "It is what runs this.",
    "make test-airflow": LONG,
    "make test-airflow RUNS=20": LONG,
}


def lines_here(page: str, section: str) -> list[str]:
    return [command for command in commands(page, section) if command not in NOT_RUN]


ALL_OF_EACH = {command for place in EACH for command in lines_here(*place)}
COMMANDS_ON_A_LAKE = sorted(command for command in ALL_OF_EACH if LAKE in command)
# The pages' job.yaml and docs.yaml are one job here.
COMMANDS_ON_A_JOB = sorted({line.replace("docs.yaml", "job.yaml") for line in ALL_OF_EACH if LAKE not in line})


def test_every_command_is_run_or_has_a_reason():
    sections = {(block.page, block.section): block.commands for block in shell_blocks()}
    run = {*IN_ORDER, *EACH, *MANIFESTS, *ELSEWHERE}
    assert run <= set(sections), "a section that is named here is gone"
    everything = {command for found in sections.values() for command in found}
    assert set(NOT_RUN) <= everything, "a command that is not run is gone"
    unknown = {command for place, found in sections.items() if place not in run for command in found} - set(NOT_RUN)
    assert not unknown, "run these commands in a test, or say in NOT_RUN why not"


@pytest.mark.parametrize("name", sorted(set(ELSEWHERE.values())))
def test_the_tests_that_run_commands_exist(name: str):
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def write_light(job: Path, target: Path, **widths: int) -> None:
    """Write the job with models that need no files, and so say no length of a window; dimensions by column."""
    made = yaml.safe_load(job.read_text(encoding="utf-8"))
    columns = widths or {one["column"]: 32 for one in made["embed"]}
    made["embed"] = [{"column": name, "family": "hashing", "dim": dim} for name, dim in columns.items()]
    made["preprocess"] = [
        {"max_tokens": 200, **one} if one["op"] == "chunk_text" else one for one in made["preprocess"]
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(made), encoding="utf-8")


def product(colour: str) -> bytes:
    made = BytesIO()
    Image.new("RGB", (8, 8), colour).save(made, "JPEG")
    return made.getvalue()


def write_products(folder: Path, count: int) -> dict[str, Any]:
    """Images as rows, one of them damaged; the job that makes the lake of the pages from them."""
    colours = ("red", "green", "blue", "orange")[:count]
    rows = {
        "id": [f"shoes/{40 + number:04}.jpg" for number in range(count)] + ["hats/damaged.jpg"],
        "content": [product(colour) for colour in colours] + [b"no image"],
        "owner": [*["ada", "ben", "cleo", "ada"][:count], "ben"],
    }
    pq.write_table(pa.table(rows), folder / "products.parquet")
    source = {"kind": "parquet", "uri": str(folder / "products.parquet"), "id": "id", "content": "content"}
    return {
        "name": "products",
        "modality": "image",
        "source": source | {"metadata": ["owner"]},
        "embed": [{"column": "clip", "family": "hashing", "dim": 32}],
        "table": {"uri": LAKE, "name": "products"},
        "gates": {"max_reject_rate": 0.5},
    }


class Bucket:
    """The bucket of the lake, and what it held when it was made."""

    def __init__(self, endpoint: str) -> None:
        self.client = boto3.client("s3", "us-east-1", endpoint_url=endpoint)
        self.kept: dict[str, tuple[str, bytes]] = {}  # tag of the content and content, by key

    def tags(self) -> dict[str, str]:
        """The tag of each object's content, by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="lake", Prefix="embeddings/")
        return {found["Key"]: found["ETag"] for page in pages for found in page.get("Contents", ())}

    def keep(self) -> None:
        """Remember what is there."""
        for key, tag in self.tags().items():
            self.kept[key] = tag, self.client.get_object(Bucket="lake", Key=key)["Body"].read()

    def restore(self) -> None:
        """Bring back what was there, and nothing else."""
        there = self.tags()
        for key in there.keys() - self.kept.keys():
            self.client.delete_object(Bucket="lake", Key=key)
        for key, (tag, content) in self.kept.items():
            if there.get(key) != tag:
                self.client.put_object(Bucket="lake", Key=key, Body=content)


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A lake in S3 of one table, published twice, with one reject; its address and keys are in the environment."""
    folder = tmp_path_factory.mktemp("products")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        patch.setenv("LAKE_SECRET", "testing")
        end_children()  # they have another environment
        made = Bucket(s3_endpoint)
        for count in (3, 4):
            job = folder / "products.yaml"
            job.write_text(json.dumps(write_products(folder, count)))
            done = latentlake_here("run", str(job), cwd=folder)
            assert done.returncode == 0, done.stderr
        made.keep()
        yield made
        end_children()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all files that the pages' commands name."""
    (tmp_path / "docs").mkdir()
    for name in ("report.md", "tables.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    write_light(ROOT / "examples" / "docs.yaml", tmp_path / "docs.yaml")
    write_light(ROOT / "examples" / "docs.yaml", tmp_path / "job.yaml")
    write_light(ROOT / "examples" / "docs.yaml", tmp_path / "two-columns.yaml", minilm=32, second=16)
    write_light(ROOT / "examples" / "docs.yaml", tmp_path / "new-model.yaml", minilm=16)
    write_light(ROOT / "examples" / "texts.yaml", tmp_path / "examples" / "texts.yaml")
    shutil.copytree(ROOT / "examples" / "suites", tmp_path / "examples" / "suites")
    texts = [{"id": str(number), "text": f"how to return order {number}", "title": "t"} for number in range(3)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (tmp_path / "cluster.yaml").write_text("kind: local\n")
    (tmp_path / "suite.yaml").write_text("name: shape\ntasks: [{kind: geometry}]\n")
    (tmp_path / "red-shoe.jpg").write_bytes(product("red"))
    (tmp_path / "ids.txt").write_text("shoes/0040.jpg\n")
    return tmp_path


def run_here(command: str, folder: Path) -> None:
    """Run one command as a shell would; it must end with exit code 0."""
    words, _, target = command.partition(" > ")
    program, *arguments = shlex.split(words)
    assert program == "latentlake", f"say in NOT_RUN why '{command}' is not run"
    done = latentlake_here(*arguments, cwd=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stdout, f"{command} prints nothing"
    if target:
        (folder / target).write_text(done.stdout, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("place", IN_ORDER, ids=" ".join)
def test_procedures(place: tuple[str, str], folder: Path):
    if place[0] in ("docs/operations.md", "docs/publishing.md"):  # where the table is there
        run_here("latentlake run docs.yaml", folder)
    if place[1] == "Roll back":
        (folder / "docs" / "new.md").write_text("A page that should not have been published.")
        run_here("latentlake run docs.yaml", folder)
    for command in lines_here(*place):
        run_here(command, folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS_ON_A_LAKE)
def test_commands_on_a_lake(command: str, folder: Path, bucket: Bucket):
    bucket.restore()
    run_here(command, folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS_ON_A_JOB)
def test_commands_on_a_job(command: str, folder: Path):
    run_here(command, folder)


@pytest.mark.parametrize(("page", "section"), MANIFESTS)
def test_manifests(page: str, section: str, folder: Path):
    """Each with the profile of its page, or one for AWS, and a job that a cluster can run. What they print is valid."""
    job = json.loads((folder / "job.yaml").read_text())
    job |= {"source": {"kind": "files", "uri": "s3://objects/docs"}, "table": {"uri": LAKE, "name": "docs"}}
    (folder / "job.yaml").write_text(json.dumps(job))
    profile = ("docs/quickstart.md", "On Kubernetes") if "quickstart" in page else ("docs/kubernetes.md", "Kubernetes")
    for name in ("cluster.yaml", "kuberay.yaml"):
        (folder / name).write_text(block_of(*profile, "yaml"))
    group = {"name": "cpu", "cpus": 8, "memory_mb": 32768, "instance_type": "m7i.2xlarge"}
    aws = {"kind": "aws", "image": "latentlake:0.1.0", "worker_groups": [group], "head": {"instance_type": "m7i.large"}}
    (folder / "aws.yaml").write_text(json.dumps(aws | {"launcher": {"region": "eu-central-1"}}))
    for command in lines_here(page, section):
        run_here(command, folder)
        for made in yaml.safe_load_all((folder / command.rpartition(" > ")[2]).read_text()):
            assert "cluster_name" in made or list(faults_of(made)) == []


@pytest.mark.slow
def test_the_quickstart_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm: str):
    """With its own model, found as a hub's model is."""
    repository = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("1" * 40)).symlink_to(minilm)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    end_children()
    (tmp_path / "job.yaml").write_text(block_of("docs/quickstart.md", "Quickstart", "yaml"))
    (tmp_path / "notes").mkdir()
    for name, text in {"ray": "Ray runs the models.", "lance": "Lance keeps the vectors."}.items():
        (tmp_path / "notes" / f"{name}.txt").write_text(text)
    done = [
        latentlake_here(*shlex.split(line)[1:], cwd=tmp_path)
        for line in commands("docs/quickstart.md", "In a terminal")
    ]
    end_children()
    assert [one.returncode for one in done] == [0] * len(done), done
    assert done[2].stdout.startswith("./lake/notes: version 1, tag 'prod'\n  minilm: 2 listed, 2 embedded\n")
    assert done[3].stdout.splitlines()[1].split()[1] == "ray.txt"
    assert done[4].stdout.startswith("./lake/notes: nothing to embed; version 1 stands.\n")
