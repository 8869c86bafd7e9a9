"""Actor pools: what is planned where the job is silent, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters import Capacity, ClusterProfile, Node
from operators.embedders.hashing import Config
from operators.errors import PoolUnschedulable
from pipelines.job.spec import EmbedSpec, PoolSpec
from pipelines.planning.pools import READER_CPUS, WRITER_CPUS, Pool, plan_pools

NOTHING = Capacity((Node(1),))  # is there beside what the profile states


def plan(models: int | list[dict[str, Any]], shards: int | None = None, **profile: Any) -> list[Pool]:
    asked = [{}] * models if isinstance(models, int) else models
    embeds = tuple(
        EmbedSpec(column=f"c{k}", config=Config(), pool=PoolSpec.model_validate(pool)) for k, pool in enumerate(asked)
    )
    stated = ClusterProfile.model_validate({"memory_mb": 64_000, "gpus": 0, "nodes": 1, **profile})
    return plan_pools(embeds, stated.applied_to(NOTHING), shards=shards)


def sizes(pool: Pool) -> tuple[int, int, int]:
    return pool.min, pool.initial, pool.max


def held(pools: list[Pool]) -> float:
    return sum(pool.min * pool.num_cpus for pool in pools)


def test_one_model_on_two_cores():
    (pool,) = plan(1, cpus=2)
    assert (sizes(pool), pool.threads, pool.device, pool.num_gpus) == ((2, 2, 2), 1, "cpu", 0)
    assert pool.num_cpus == 0.5


def test_one_model_on_one_core():
    (pool,) = plan(1, cpus=1)
    assert (sizes(pool), pool.threads, pool.num_cpus) == ((1, 1, 1), 1, 0.5)


def test_one_model_on_sixteen_cores():
    (pool,) = plan(1, cpus=16)
    assert (sizes(pool), pool.threads) == ((16, 16, 16), 1)
    assert 0.9 < pool.num_cpus < 1


def test_memory_bounds_the_actors_and_their_threads_take_the_cores():
    (pool,) = plan(1, cpus=16, memory_mb=12_000)
    assert (pool.max, pool.threads) == (4, 4)
    (pool,) = plan(1, cpus=16, memory_mb=512)
    assert (pool.max, pool.threads) == (1, 16)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 16, 64])
@pytest.mark.parametrize("models", [1, 2, 3, 5, 6, 7])
def test_what_is_planned_leaves_room_for_reading(cpus: int, models: int):
    pools = plan(models, cpus=cpus)  # raises where it could never run
    assert held(pools) + READER_CPUS + WRITER_CPUS <= cpus + 1e-9
    assert all(pool.num_cpus > 0 and pool.min >= 1 and pool.min <= pool.initial <= pool.max for pool in pools)
    if models <= cpus:
        assert sum(pool.max * pool.threads for pool in pools) <= cpus


def test_a_cluster_of_several_nodes_starts_small():
    (pool,) = plan(1, cpus=16, nodes=4)
    assert sizes(pool) == (1, 1, 16)


# no more actors than shards


def test_one_shard_has_one_actor_with_all_threads():
    (pool,) = plan(1, shards=1, cpus=2)
    assert (sizes(pool), pool.threads) == ((1, 1, 1), 2)
    assert held([pool]) + READER_CPUS + WRITER_CPUS <= 2
    (pool,) = plan(1, shards=3, cpus=16)
    assert (sizes(pool), pool.threads) == ((3, 3, 3), 5)


def test_as_many_shards_as_actors_change_nothing():
    assert plan(2, shards=16, cpus=16) == plan(2, cpus=16)
    assert plan(1, shards=0, cpus=2) == plan(1, shards=1, cpus=2)  # nothing is left of a resumed run


def test_actors_that_a_job_asks_for_are_no_more_than_its_shards():
    (pool,) = plan([{"min": 2, "initial": 3, "max": 4, "threads": 1}], shards=2, cpus=16)
    assert (sizes(pool), pool.threads) == ((2, 2, 2), 1)
    (pool,) = plan([{"num_gpus": 1, "min": 2}], shards=1, cpus=16, gpus=2)
    assert (sizes(pool), pool.num_gpus) == ((1, 1, 1), 1)


# GPUs


def test_gpus_are_used_where_there_are_some():
    (pool,) = plan(1, cpus=16, gpus=4)
    assert (sizes(pool), pool.num_gpus, pool.device) == ((4, 4, 4), 1, "cuda")


def test_models_share_a_gpu():
    pools = plan(2, cpus=8, gpus=1)
    assert [(pool.num_gpus, sizes(pool), pool.device) for pool in pools] == [(0.5, (1, 1, 1), "cuda")] * 2


def test_a_job_may_stay_off_the_gpus():
    (pool,) = plan([{"num_gpus": 0}], cpus=4, gpus=2)
    assert (pool.num_gpus, pool.device, pool.max) == (0, "cpu", 4)


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("models", [1, 2, 3, 5, 6, 7])
def test_planned_fractions_lie_on_single_gpus(gpus: int, models: int):
    pools = plan(models, cpus=32, gpus=gpus)
    a_gpu = {int(1 / pool.num_gpus + 1e-9) for pool in pools}  # all models get the same share
    assert len(a_gpu) == 1
    assert sum(pool.min for pool in pools) <= gpus * a_gpu.pop()


@pytest.mark.parametrize(
    ("asked", "gpus", "fits"),
    [
        ([{"num_gpus": 1, "min": 2}], 2, True),
        ([{"num_gpus": 1, "min": 3}], 2, False),
        ([{"num_gpus": 0.6, "min": 2}], 2, True),
        ([{"num_gpus": 0.6, "min": 3}], 2, False),  # 1.8 of 2, but none holds two of them
        ([{"num_gpus": 2, "min": 1}, {"num_gpus": 0.5, "min": 2}], 3, True),
        ([{"num_gpus": 2, "min": 1}, {"num_gpus": 0.5, "min": 3}], 3, False),
        ([{"num_gpus": 0.25, "min": 4}, {"num_gpus": 0.75, "min": 1}], 2, True),
        ([{"num_gpus": 0.6, "min": 2}], 1, False),
    ],
)
def test_gpus_that_are_asked_for(asked: list[dict[str, Any]], gpus: int, fits: bool):
    if fits:
        assert [pool.min for pool in plan(asked, cpus=32, gpus=gpus)] == [pool["min"] for pool in asked]
        return
    with pytest.raises(PoolUnschedulable, match=rf"the cluster has {gpus}\.\n  Lower pool\.num_gpus .* pool\.min"):
        plan(asked, cpus=32, gpus=gpus)


def test_gpus_where_there_are_none():
    with pytest.raises(
        PoolUnschedulable, match=r"the job asks for GPUs \('c0'\), the cluster has none\.\n  .*num_gpus: 0"
    ):
        plan([{"num_gpus": 0.5, "min": 1}], cpus=32)


# worker groups


def grouped(*groups: dict[str, Any]) -> Capacity:
    named = [{"name": f"g{number}", **group} for number, group in enumerate(groups)]
    profile = ClusterProfile.model_validate({"kind": "ray", "address": "h:1", "worker_groups": named})
    return profile.applied_to(NOTHING)


def test_pools_are_planned_from_the_groups_at_their_largest():
    (pool,) = pools_on(grouped({"cpus": 8, "memory_mb": 64_000, "max": 4}), {})
    assert (sizes(pool), pool.device) == ((1, 1, 32), "cpu")


def test_gpu_pools_count_on_groups_with_gpus_alone():
    both = grouped({"cpus": 64, "memory_mb": 64_000, "max": 8}, {"cpus": 2, "gpus": 4, "max": 3})
    (pool,) = pools_on(both, {})
    assert (sizes(pool), pool.device) == ((1, 1, 12), "cuda")
    assert pool.num_cpus * 4 <= 2  # four actors find room beside the GPUs of a node
    assert pool.threads == 1
    (pool,) = pools_on(both, {"num_gpus": 0})
    assert pool.device == "cpu" and pool.max > 12


def test_a_job_that_asks_for_gpus_which_no_group_has_is_told_so():
    with pytest.raises(PoolUnschedulable) as failure:
        pools_on(grouped({"cpus": 16, "max": 8}), {"num_gpus": 1, "min": 1})
    assert "the job asks for GPUs ('c0'), no group has any: 8 x 16 CPUs of group 'g0'.\n" in str(failure.value)


def test_gpus_of_two_machines_of_a_group_are_not_one_machines():
    with pytest.raises(PoolUnschedulable, match=r"has 4 \(4 x 8 CPUs and 1 GPUs of group 'g0'\)\.\n  Lower"):
        pools_on(grouped({"cpus": 8, "gpus": 1, "max": 4}), {"num_gpus": 2, "min": 1})


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_what_is_planned_from_any_groups_runs_on_them(groups: list[tuple[int, int, int]], models: int):
    capacity = grouped(*({"cpus": c, "gpus": g, "max": m, "memory_mb": 64_000} for c, g, m in groups))
    if max(c for c, _, _ in groups) < 4 or sum(c * m for c, _, m in groups) < 2 * models:
        return  # small ones may be refused, with the remedy
    pools = pools_on(capacity, *[{}] * models)
    gpus = sum(g * m for _, g, m in groups)
    assert all((pool.device == "cuda") == bool(gpus) for pool in pools)
    assert sum(pool.max * pool.num_gpus for pool in pools) <= max(gpus, 0) + 1e-6 or len(pools) > gpus


# what the job says


def test_what_the_job_says_is_kept():
    asked = {"min": 1, "initial": 2, "max": 5, "num_cpus": 0.1, "num_gpus": 0, "threads": 3}
    (pool,) = plan([asked], cpus=2)
    assert {name: getattr(pool, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"min": 1}, (1, 1, 4)),
        ({"max": 2}, (2, 2, 2)),
        ({"max": 9}, (9, 9, 9)),
        ({"initial": 2}, (2, 2, 4)),
        ({"min": 1, "max": 2}, (1, 1, 2)),
        ({"min": 6}, (6, 6, 6)),
        ({"initial": 6}, (6, 6, 6)),
    ],
)
def test_what_it_leaves_out_is_planned_around_it(asked: dict[str, int], expected: tuple[int, int, int]):
    (pool,) = plan([asked], cpus=4)
    assert sizes(pool) == expected
    assert pool.min * pool.num_cpus <= 3.5


def test_a_pool_that_holds_every_cpu_is_refused_with_the_remedy():
    with pytest.raises(PoolUnschedulable) as failure:
        plan([{"min": 2, "num_cpus": 1}, {"min": 1, "num_cpus": 0.25}], cpus=2)
    text = str(failure.value)
    assert "the pools hold 2.25 of 2 logical CPUs" in text
    assert "'c0': 2 x 1; 'c1': 1 x 0.25" in text and "reading needs 0.5" in text
    assert "Lower pool.min or pool.num_cpus" in text
    assert failure.value.exit_code == 2


def test_the_least_that_must_be_held_decides_not_the_most():
    (pool,) = plan([{"min": 1, "max": 8, "num_cpus": 1}], cpus=2)
    assert sizes(pool) == (1, 1, 8)


# nodes

TWO_NODES = Capacity((Node(2, memory_mb=8000), Node(2, memory_mb=8000)))


def pools_on(capacity: Capacity, *asked: dict[str, Any], shrink: bool = False) -> list[Pool]:
    embeds = tuple(
        EmbedSpec(column=f"c{k}", config=Config(), pool=PoolSpec.model_validate(pool)) for k, pool in enumerate(asked)
    )
    return plan_pools(embeds, capacity, shrink)


def test_actors_that_fit_one_to_a_node_are_planned():
    (pool,) = pools_on(TWO_NODES, {"min": 2, "num_cpus": 1.25})
    assert sizes(pool) == (2, 2, 2)


@pytest.mark.parametrize(("cpus", "num_cpus", "most"), [(4, 1, 3), (4, 3.5, 1), (4, 0.5, 4), (1, 0.5, 1)])
def test_a_stated_share_bounds_the_planned_number(cpus: int, num_cpus: float, most: int):
    (pool,) = pools_on(Capacity((Node(cpus, memory_mb=64_000),)), {"num_cpus": num_cpus})
    assert sizes(pool) == (most, most, most)


def test_room_in_sum_is_no_room_on_a_node():
    with pytest.raises(
        PoolUnschedulable, match=r"find no room on the cluster's nodes \(2 x 2 CPUs\): an actor runs on one node"
    ):
        pools_on(TWO_NODES, {"min": 1, "num_cpus": 2.5})
    with pytest.raises(PoolUnschedulable, match="find no room"):
        pools_on(Capacity((Node(1),) * 4), {"min": 2, "num_cpus": 1.25})


def test_reading_needs_room_on_one_node_too():
    with pytest.raises(PoolUnschedulable, match="find no room"):
        pools_on(Capacity((Node(2.2),) * 5), {"min": 5, "num_cpus": 2})


def test_gpus_of_two_nodes_are_not_one_nodes():
    apart = Capacity((Node(4, 1), Node(4, 1)))
    with pytest.raises(PoolUnschedulable, match="GPUs"):
        pools_on(apart, {"min": 1, "num_gpus": 2})
    with pytest.raises(PoolUnschedulable, match="find no room"):  # the GPUs are there, but not beside the CPUs
        pools_on(Capacity((Node(8), Node(1, 2))), {"min": 2, "num_gpus": 1, "num_cpus": 1})
    assert pools_on(apart, {"min": 2, "num_gpus": 1})[0].min == 2


def test_after_a_loss_pools_shrink_to_what_is_left():
    (pool,) = pools_on(Capacity((Node(2),)), {"min": 2, "num_cpus": 1.25}, shrink=True)
    assert sizes(pool) == (1, 1, 1)
    first, second = pools_on(
        Capacity((Node(2),)), {"min": 3, "num_cpus": 0.5}, {"min": 2, "num_cpus": 0.5}, shrink=True
    )
    assert (first.min, second.min) == (1, 1) or first.min + second.min == 3


def test_what_does_not_fit_with_one_actor_each_is_refused_after_a_loss_too():
    with pytest.raises(PoolUnschedulable):
        pools_on(Capacity((Node(1),)), {"min": 2, "num_cpus": 1.25}, shrink=True)


@given(
    st.lists(st.sampled_from([0.5, 1, 2, 4, 7.5, 16]), min_size=1, max_size=6),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
    st.integers(1, 4),
)
def test_what_is_planned_for_any_cluster_runs_on_it(cpus: list[float], gpus: list[int], models: int):
    capacity = Capacity(tuple(Node(c, g, 64_000) for c, g in zip(cpus, gpus, strict=False)))
    if max(cpus) < 4 or sum(cpus) < 2 * models:  # smaller ones may be refused, with the remedy
        return
    pools = pools_on(capacity, *[{"num_gpus": 0}] * models)
    assert all(pool.min >= 1 and pool.threads <= max(cpus) for pool in pools)
    assert sum(pool.min * pool.num_cpus for pool in pools) + READER_CPUS + WRITER_CPUS <= sum(cpus) + 1e-6
