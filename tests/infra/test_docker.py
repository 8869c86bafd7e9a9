"""`infra/docker`: the images' files and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import find_secrets

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra" / "docker"
DOCKERFILES = sorted(INFRA.glob("*Dockerfile"))
COPY = re.compile(r"^COPY (?!--)(.+)$", re.MULTILINE)


def tool(name: str, *arguments: str) -> None:
    """Run a program of the extra `dev`; it must find nothing wrong."""
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    assert program, f"{name} is part of the extra `dev`"
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_built_as_hadolint_advises(path: Path):
    tool("hadolint", str(path))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_as_a_user(path: Path):
    text = path.read_text()
    values = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    stages = set(re.findall(r" AS ([\w-]+)$", text, re.MULTILINE))
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        name = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], image)
        assert name in stages or re.search(r":v?\d+\.\d+\.\d+", name), name
    last = text[text.index("FROM python:${PYTHON} AS base") :] if "AS base" in text else text
    assert "USER 1000" in last or "FROM apache/airflow" in last  # whose user is `airflow`
    assert "USER root" not in text


def copied(path: Path) -> list[str]:
    """What a Dockerfile takes from the repository."""
    return [name for line in COPY.findall(path.read_text()) for name in line.split()[:-1]]


def is_left_out(name: str) -> bool:
    """Whether `.dockerignore` keeps a file from the build: its last line that matches the file, or a folder above it, decides."""
    left_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(path)) for path in (Path(name), *Path(name).parents)):
            left_out = not line.startswith("!")
    return left_out


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_context_has_what_is_copied_and_little_else(path: Path):
    for name in copied(path):
        files = [name] if (ROOT / name).is_file() else [str(p.relative_to(ROOT)) for p in (ROOT / name).glob("*.py")]
        assert files and not any(is_left_out(file) for file in files), name
    for name in (
        ".git/config",
        ".venv/x",
        "tests/conftest.py",
        "infra/docker/secrets/ray-token",
        "infra/airflow/tests/conftest.py",
        "operators/decode/__pycache__/text.cpython-312.pyc",
    ):
        assert is_left_out(name), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "project", "inside"),
    [
        ("Dockerfile", ".", ("clusters/", "latentlake/", "operators/", "pipelines/")),
        ("airflow.Dockerfile", "infra/airflow", ("latentlake_airflow/", "latentlake_airflow/client/")),
    ],
)
def test_what_is_copied_builds_the_wheel(file: str, project: str, inside: tuple[str, ...], tmp_path: Path):
    for name in copied(INFRA / file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=tmp_path / project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(any(name.startswith(folder) for name in names) for folder in inside)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_follow_their_schema(name: str):
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(INFRA / name))


def test_workers_on_gpus_are_those_of_the_compose_file(compose: dict[str, Any]):
    (name, worker), *others = yaml.safe_load((INFRA / "compose.gpu.yaml").read_text())["services"].items()
    assert not others and worker["image"] == f"{compose['services'][name]['image']}-gpu"
    assert f" AS {worker['build']['target']}\n" in (INFRA / "Dockerfile").read_text()


def test_compose_opens_its_ports_on_this_machine_alone(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
            assert not (name.startswith("ray") and port.endswith(":8080")), "Ray's metrics have no password"
        assert service["networks"] == ["cluster"]


def test_compose_is_pinned_and_names_files_that_there_are(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"]), name
        if "build" in service:
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (INFRA / source).exists() if source.startswith(".") else source in compose["volumes"], volume
    target = compose["services"]["ray-head"]["build"]["target"]
    assert f" AS {target}\n" in (INFRA / "Dockerfile").read_text()


def test_compose_holds_no_secret(compose: dict[str, Any], tmp_path: Path):
    assert list(find_secrets(compose)) == []
    make = runpy.run_path(str(INFRA / "make_secrets.py"))
    make["main"](tmp_path / "secrets")
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    needed = {found["file"] for found in compose["secrets"].values()}
    needed |= {file for service in compose["services"].values() for file in service.get("env_file", ())}
    assert {f"secrets/{name}" for name in made} == needed
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert re.fullmatch(r"[0-9a-f]{64}", made["ray-token"])
    make["main"](tmp_path / "secrets")
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


@pytest.mark.parametrize("service", ["ray-head", "ray-worker"])
def test_ray_knows_the_options_that_compose_gives_it(service: str, compose: dict[str, Any]):
    from ray.scripts.scripts import start

    ray, command, *options = compose["services"][service]["command"]
    assert (ray, command) == ("ray", "start")
    context = start.make_context("start", options)
    assert context.params["metrics_export_port"] == 8080 and context.params["block"]


def test_airflow_gets_its_connection_with_the_token(compose: dict[str, Any], tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    (script,) = compose["services"]["airflow"]["command"]
    script = script.replace("$$", "$").replace("/run/secrets/ray_token", str(token))
    script = script.replace("exec airflow standalone", 'printf %s "$AIRFLOW_CONN_RAY_JOBS_DEFAULT"')
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"conn_type": "ray_jobs", "host": "ray-head", "password": "0123456789abcdef"}


def test_prometheus_scrapes_both_kinds_of_nodes_and_has_the_rules(compose: dict[str, Any], tmp_path: Path):
    configuration = yaml.safe_load((INFRA / "config" / "prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert found["port"] == 8080 and set(found["names"]) == {name for name in compose["services"] if "ray" in name}
    mounted = {v.split(":")[1]: v.split(":")[0] for v in compose["services"]["prometheus"]["volumes"]}
    for place, source in mounted.items():
        if place.startswith("/etc"):
            shutil.copy(INFRA / source, tmp_path / Path(place).name)
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on PATH: install Debian's `prometheus`, or Prometheus itself")
    words = shlex.split("check config prometheus.yml")
    done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "1 rule files found" in done.stdout, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_the_dashboard(compose: dict[str, Any]):
    provisioning = INFRA / "config" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose["services"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "latentlake.yml").read_text())["providers"]
    places = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/latentlake.json" in places
