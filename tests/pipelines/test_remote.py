"""Models that a service runs: a family of a third party asks one on loopback, which is busy, down, or refuses a text. No Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosted_service import FAMILY, POISON, Service
from job_maker import check_accounting, make_job, open_table, rows_of, run, write_texts
from run_maker import Here, lake_of
from third_party import installed

import latentlake
from clusters import Capacity, Node
from operators.batch import Batch, make_batch, map_rows
from operators.embedders import load_config
from operators.errors import SpecError, Unavailable
from operators.loading import load_embedder
from pipelines.flow import patience
from pipelines.flow.patience import patient
from pipelines.job.spec import EmbedSpec, PoolSpec
from pipelines.planning.pools import REMOTE_CPUS, plan_pools
from pipelines.state.ledger import read_runs

pytestmark = pytest.mark.usefixtures("family")

TEXTS = {f"{n:02}": "word " * (n % 7) + "end" for n in range(40)}


@pytest.fixture
def family(tmp_path: Path) -> Iterator[None]:
    with installed(tmp_path / "site", FAMILY):
        yield


def job_of(tmp_path: Path, service: Service, texts: dict[str, str] = TEXTS, **sections: Any) -> dict[str, Any]:
    hosted = {"column": "v", "family": "hosted", "base_url": service.url}
    return make_job(tmp_path, write_texts(tmp_path / "in", texts), [hosted], **sections)


def vector_of(text: str) -> list[float]:
    return [1.0, *(float(len(text) >> bit & 1) for bit in range(3))]


def test_a_service_is_asked_several_batches_at_once(tmp_path: Path):
    with Service(takes_s=0.05) as service:
        job = job_of(tmp_path, service)
        report = run(job)
        assert 1 < service.most <= 4
        assert sorted(service.embedded) == sorted(set(TEXTS.values()))  # each content once: none for a calibration
        check_accounting(report)
        assert report["model_rows_per_s"] is None
        assert {name: row["v"] for name, row in rows_of(job).items()} == {n: vector_of(t) for n, t in TEXTS.items()}
        with pytest.raises(SpecError, match=r"a host that you did not allow.*\n.*allow_hosts=\{'127.0.0.1'\}"):
            open_table(job).search("word word end", column="v")
        table = latentlake.connect(str(tmp_path / "lake"), allow_hosts={"127.0.0.1"}).open("t")
        (hit,) = table.search("word word end", column="v", k=1, exact=True)  # a query asks it too
        assert hit["text"] in TEXTS.values() and service.embedded[-1] == "word word end"


@pytest.mark.parametrize("retry_after", [None, "0.2"])
def test_a_service_that_is_down_for_a_while_rejects_nothing(
    tmp_path: Path, retry_after: str | None, caplog: pytest.LogCaptureFixture
):
    with Service(down=7, retry_after=retry_after) as service:
        job = job_of(tmp_path, service)
        report = run(job, runner=Here())
    assert (report["state"], report["counts"]["rejected"], len(rows_of(job))) == ("published", 0, 40)
    assert "asked again in" in caplog.text and "answers 503" in caplog.text


def test_a_service_that_stays_down_ends_the_run_which_can_be_gone_on_with(tmp_path: Path):
    with Service() as service:
        job = job_of(tmp_path, service, limits={"unavailable_timeout_s": 0.1}, shard={"max_objects": 10})
        service.down, shards = 10**6, service.embedded
        with pytest.raises(
            Unavailable, match=r"answers 503\n.*0.1 s \(limits.unavailable_timeout_s\).*run the job again"
        ):
            run(job)
        assert Unavailable.exit_code == 1 and not shards
        (line,) = read_runs(lake_of(job), "t")
        assert (line["state"], line["version"]) == ("failed", None)
        assert latentlake.connect(str(tmp_path / "lake")).tables() == []  # no table, and no rejects
        service.down = 0
        report = run(job)
        assert (report["run_id"], report["state"]) == (line["run_id"], "published")
        assert (report["counts"]["embedded"] + report["counts"]["reused"], report["counts"]["rejected"]) == (40, 0)


def test_shards_that_were_finished_are_not_asked_again(tmp_path: Path):
    with Service() as service:
        texts = {f"{n:02}": f"text number {n}" for n in range(30)}
        job = job_of(tmp_path, service, texts, limits={"unavailable_timeout_s": 0}, shard={"max_objects": 10})

        class Breaks(list[str]):
            """Notes texts, and lets the service go down behind the tenth."""

            def __iadd__(self, more: Any) -> Any:
                if len(self) + len(more) >= 10:
                    service.down = 10**6
                return super().__iadd__(more)

        service.embedded = Breaks()
        with pytest.raises(Unavailable):
            run(job)
        before = list(service.embedded)
        service.down, service.embedded = 0, []
        report = run(job)
        assert report["shards_taken_over"] >= 1
        assert len(set(before) & set(service.embedded)) < len(before) and report["counts"]["rejected"] == 0


def test_what_the_service_refuses_is_rejected_and_the_rest_is_not(tmp_path: Path):
    with Service() as service:
        job = job_of(tmp_path, service, {**TEXTS, "bad": POISON}, gates={"max_reject_rate": 1})
        report = run(job)
        assert (report["counts"]["rejected"], len(rows_of(job))) == (1, 40)
        (reject,) = open_table(job).rejects().to_pylist()
        assert (reject["object_id"], reject["stage"]) == ("bad", "embed") and "HTTP Error 400" in reject["error"]


def test_a_limiter_is_handed_to_whoever_asks():
    class Noting:
        def __init__(self) -> None:
            self.costs: list[int] = []

        async def acquire(self, cost: int) -> None:
            self.costs.append(cost)

    limiter = Noting()
    with Service() as service:
        config = load_config({"family": "hosted", "base_url": service.url}).resolve()
        batch = {**make_batch(["a", "b"], ["one", "two words"]), "text": np.array(["one", "two words"], dtype=object)}
        embedder = load_embedder(config, "cpu", limiter=limiter)
        np.testing.assert_array_equal(
            embedder.embed(config.prepare(batch, "document")), [vector_of("one"), vector_of("two words")]
        )
        assert limiter.costs == [3]


# pools


def pools_of(*configs: dict[str, Any], gpus: int = 0, **pool: Any) -> list[tuple[str, int, float, float]]:
    embeds = tuple(
        EmbedSpec(column=config["family"], config=load_config(config), pool=PoolSpec(**pool)) for config in configs
    )
    planned = plan_pools(embeds, Capacity((Node(16, gpus, 64_000),)))
    return [(pool.device, pool.max, pool.num_cpus, pool.num_gpus) for pool in planned]


HOSTED, STATIC, HASHING = (
    {"family": "hosted", "base_url": "http://h/"},
    {"family": "static", "model": "m"},
    {"family": "hashing"},
)


def test_a_service_takes_no_room_from_the_models_beside_it():
    assert pools_of(HASHING, HOSTED, gpus=2) == [*pools_of(HASHING, gpus=2), ("cpu", 1, REMOTE_CPUS, 0.0)]
    assert pools_of(HASHING, HOSTED)[0][:2] == pools_of(HASHING)[0][:2]
    assert pools_of(HOSTED, max=3)[0][1] == 3


def test_a_model_that_no_gpu_helps_gets_none():
    (static, hashing) = pools_of(STATIC, HASHING, gpus=2)
    assert static[0] == "cpu" and static[3] == 0
    assert (hashing[0], hashing[1], hashing[3]) == ("cuda", 2, 1)
    with pytest.raises(SpecError, match=r"pool.num_gpus of column 'static' is 1, and family 'static' runs on no GPU"):
        pools_of(STATIC, gpus=2, num_gpus=1)


# patience


def test_pauses_are_what_the_service_asks_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "BACKOFF", lambda state: 0.01)
    failures = [Unavailable("no"), Unavailable("busy", 0.3)]
    pauses: list[float] = []
    told = patience.pause_of

    def note(state: Any) -> float:
        pauses.append(told(state))
        return pauses[-1]

    monkeypatch.setattr(patience, "pause_of", note)
    signs: list[int] = []

    def work() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert patient(work, 10, lambda: signs.append(1)) == "done"
    assert pauses == [0.01, 0.3] and len(signs) >= 2


def test_a_pause_that_would_end_too_late_is_not_begun():
    def work() -> None:
        raise Unavailable("busy", 3600)

    with pytest.raises(Unavailable, match="asked again for up to 60 s"):
        patient(work, 60)


def test_an_operator_may_ask_a_service_too():
    def ask(text: str) -> str:
        raise Unavailable("down")

    batch: Batch = {**make_batch(["a"], ["x"]), "text": np.array(["x"], dtype=object)}
    with pytest.raises(Unavailable):
        map_rows(batch, ask, column="text", into="text", stage="ask")


def test_the_error_crosses_processes():
    import pickle

    failure = pickle.loads(pickle.dumps(Unavailable("busy", 2.0)))
    assert (str(failure), failure.retry_after_s) == ("busy", 2.0)
