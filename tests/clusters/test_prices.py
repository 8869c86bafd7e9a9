"""What machines cost, by hand-made sums."""

from __future__ import annotations

from typing import Any

import pytest

from clusters import ClusterProfile, Node
from clusters.prices import price_now, priced_machines, total_cost, uses_of, without_price

CPU = {"name": "cpu", "cpus": 8, "memory_mb": 32_000, "min": 1, "max": 4, "price_per_hour": 0.5, "idle_s": 360}
GPU = {"name": "gpu", "cpus": 4, "memory_mb": 16_000, "gpus": 1, "max": 8, "price_per_hour": 2, "idle_s": 720}


def kube(*groups: dict[str, Any], head: float | None = 0.1) -> ClusterProfile:
    described = {"kind": "kuberay", "image": "i", "worker_groups": groups, "head": {"price_per_hour": head}}
    return ClusterProfile.model_validate(described)


def cost(profile: ClusterProfile, at_work: dict[str, int], seconds: tuple[float, float], lost_s: float = 0) -> Any:
    return total_cost(uses_of(priced_machines(profile), at_work, seconds, lost_s))


def test_machines_by_hours_by_price_with_the_head():
    low, high = cost(kube(CPU, GPU), {"group 'gpu'": 8}, (3600, 7200))
    # The head and the one CPU machine that is always there, and 8 GPU machines.
    assert low == pytest.approx(0.1 + 0.5 + 8 * 2)
    # Two hours; the GPU machines stay 720 s more, as nothing needs them.
    assert high == pytest.approx(2 * 0.1 + 2 * 0.5 + 8 * 2 * (2 + 0.2))


def test_machines_that_are_always_there_have_no_idle_end():
    low, high = cost(kube({**CPU, "min": 4}), {"group 'cpu'": 4}, (3600, 3600))
    assert low == high == pytest.approx(0.1 + 4 * 0.5)


def test_spot_machines_are_lost_once_at_the_high_end():
    spot = {**GPU, "spot": True, "idle_s": 1}
    plain_low, plain_high = cost(kube({**spot, "spot": False}), {"group 'gpu'": 4}, (3600, 3600), lost_s=900)
    low, high = cost(kube(spot), {"group 'gpu'": 4}, (3600, 3600), lost_s=900)
    assert low == plain_low
    # Each of 4 machines does 900 s again, spread over the 4: 0.25 hours for all machines and the head.
    assert high - plain_high == pytest.approx(0.25 * (4 * 2 + 0.1))


def test_without_a_price_there_is_no_sum():
    profile = kube(CPU, {**GPU, "price_per_hour": None}, head=None)
    assert without_price(priced_machines(profile)) == ["head", "group 'gpu'"]
    assert cost(profile, {}, (1, 1)) is None
    assert cost(ClusterProfile(), {"machine": 1}, (1, 1)) is None


def test_a_machine_of_no_group_has_the_price_of_the_profile():
    profile = ClusterProfile(price_per_hour=3, nodes=2)
    assert total_cost(uses_of(priced_machines(profile, 2), {"machine": 2}, (1800, 3600), 0)) == (3, 6)


def test_a_price_is_of_groups_or_of_the_profile():
    with pytest.raises(ValueError, match="leave out `price_per_hour`"):
        ClusterProfile.model_validate(
            {"kind": "ray", "job_server": "http://h:1", "price_per_hour": 1, "worker_groups": [CPU]}
        )
    with pytest.raises(ValueError, match="`price_per_hour` is not for kind 'kuberay'"):
        kube(CPU).model_validate({**kube(CPU).model_dump(), "price_per_hour": 1, "worker_groups": [CPU]})


def test_what_lives_now_costs_what_its_group_costs():
    profile = kube(CPU, GPU)
    assert price_now(profile, None) == pytest.approx(0.1 + 0.5)  # nobody knows what lives: the least there may be
    assert price_now(profile, [Node(4, 1), Node(4, 1), Node(8)]) == pytest.approx(0.1 + 4 + 0.5)
    assert price_now(profile, [Node(3, 1)]) == pytest.approx(0.1 + 2)  # of no group: as one of the dearest
    assert price_now(ClusterProfile(price_per_hour=3), [Node(2), Node(2)]) == 6
