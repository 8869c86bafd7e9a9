"""What a job may plan with: what its profile states, and what is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clusters import Capacity, ClusterProfile, Node

TWO = Capacity((Node(4, 1, 8000), Node(2, 0, 4000)))


def test_what_is_not_stated_is_what_is_there():
    assert ClusterProfile().applied_to(TWO) is TWO
    assert ClusterProfile(cpus=6, nodes=2).applied_to(TWO) is TWO


def test_what_is_stated_is_believed():
    stated = ClusterProfile(cpus=64, gpus=8, memory_mb=262_144, nodes=4).applied_to(Capacity((Node(1),)))
    assert stated == Capacity((Node(16, 2, 65_536),) * 4)


def test_a_stated_total_is_spread_over_the_nodes_that_are_there():
    assert ClusterProfile(cpus=3).applied_to(TWO).nodes == (Node(2, 1, 6000), Node(1, 0, 6000))
    assert ClusterProfile(cpus=1, nodes=1).applied_to(TWO).cpus == 1


@given(st.integers(1, 200), st.integers(0, 20), st.integers(256, 10**6), st.integers(1, 9))
def test_a_spread_keeps_the_totals(cpus: int, gpus: int, memory_mb: int, nodes: int):
    even = Capacity.even(cpus, gpus, memory_mb, nodes)
    assert (even.cpus, even.gpus, len(even.nodes)) == (cpus, gpus, nodes)
    assert memory_mb - nodes < even.memory_mb <= memory_mb
    assert max(node.cpus for node in even.nodes) - min(node.cpus for node in even.nodes) <= 1


def test_a_capacity_reads_well():
    assert str(TWO) == "1 x 4 CPUs and 1 GPUs, 1 x 2 CPUs"
    assert str(Capacity.even(4, 0, 1000, 2)) == "2 x 2 CPUs"


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"nodes": 0}, {"stall_s": 0}, {"cpu": 3}])
def test_nonsense_is_refused(wrong: dict[str, int]):
    with pytest.raises(ValidationError):
        ClusterProfile.model_validate(wrong)


def test_the_object_store_is_a_fifth_of_the_memory_within_bounds():
    machine = Capacity((Node(2, 0, 10_000),))
    assert ClusterProfile().object_store_bytes(machine) == 2000 * 2**20
    assert ClusterProfile(object_store_mb=90).object_store_bytes(machine) == 90 * 2**20
    assert ClusterProfile().object_store_bytes(Capacity((Node(2, 0, 300),))) == 80 * 2**20
    assert ClusterProfile().object_store_bytes(Capacity((Node(2, 0, 10**6),))) == 8192 * 2**20
