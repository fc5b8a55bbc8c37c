from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fireassay.data.split import (
    by_group,
    by_temperature,
    nested_subsets,
    split_blocks,
    split_group,
    split_random,
    split_temperature,
)
from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError


def frames(n: int, groups: list[str] | None = None, temperatures: list[float] | None = None) -> list[Structure]:
    return [
        Structure(
            np.array([1]),
            np.zeros((1, 3)),
            provenance=Provenance(
                "file", k, groups[k] if groups else None, temperatures[k] if temperatures is not None else None
            ),
        )
        for k in range(n)
    ]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_partition(train: np.ndarray, held: np.ndarray, n: int) -> None:
    assert sorted([*train, *held]) == list(range(n))
    assert train.dtype == held.dtype == np.int64


def test_random_split_is_a_seeded_partition() -> None:
    train, held = split_random(frames(50), 10, rng())
    assert_partition(train, held, 50)
    assert len(held) == 10
    assert np.array_equal(held, split_random(frames(50), 10, rng())[1])
    assert not np.array_equal(held, split_random(frames(50), 10, rng(1))[1])
    assert held.tolist() != list(range(40, 50))


def test_blocks_hold_out_the_end_with_a_gap() -> None:
    train, held = split_blocks(frames(20), 5, gap=3)
    assert train.tolist() == list(range(12))
    assert held.tolist() == list(range(15, 20))


def test_groups_are_never_cut() -> None:
    groups = ["a"] * 5 + ["b"] * 3 + ["c"] * 8
    seen = set()
    for seed in range(10):
        train, held = split_group(frames(16, groups), 4, rng(seed))
        assert_partition(train, held, 16)
        assert len(held) >= 4
        assert not {groups[k] for k in train} & {groups[k] for k in held}
        seen.add(tuple(held))
    assert len(seen) > 1


def test_the_hottest_are_held_out() -> None:
    temperatures = [300.0, 600, 1200, 300, 600, 1200, 300]
    train, held = split_temperature(frames(7, temperatures=temperatures), 3)
    assert held.tolist() == [1, 2, 4, 5]
    assert train.tolist() == [0, 3, 6]


def test_parts_by_name() -> None:
    structures = frames(6, ["a", "b", "c", "a", "b", "c"])
    assert {k: v.tolist() for k, v in by_group(structures).items()} == {"a": [0, 3], "b": [1, 4], "c": [2, 5]}
    parts = by_group(structures, {"train": ["a", "c"], "test": "b"})
    assert parts["train"].tolist() == [0, 2, 3, 5]
    assert parts["test"].tolist() == [1, 4]


def test_parts_by_temperature_with_tolerance() -> None:
    parts = by_temperature(frames(5, temperatures=[300.0, 900, 300.4, 900.9, 302]))
    assert {t: k.tolist() for t, k in parts.items()} == {300.0: [0, 2], 302.0: [4], 900.0: [1, 3]}


def test_nested_subsets_are_prefixes() -> None:
    indices = np.arange(100, 160)
    subsets = nested_subsets(indices, [5, 20, 60], rng())
    for small, large in pairwise(subsets):
        assert np.array_equal(small, large[: len(small)])
    assert sorted(subsets[-1]) == indices.tolist()
    assert subsets[-1].tolist() != indices.tolist()
    assert nested_subsets([3, 1, 2], [2])[0].tolist() == [3, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: split_random(frames(5), 5, rng()),
        lambda: split_random(frames(5), -1, rng()),
        lambda: split_blocks(frames(5), 3, gap=2),
        lambda: split_group(frames(5), 2, rng()),
        lambda: split_group(frames(4, ["a"] * 4), 2, rng()),
        lambda: split_temperature(frames(3), 1),
        lambda: split_temperature(frames(3, temperatures=[300.0] * 3), 1),
        lambda: by_group(frames(2, ["a", "b"]), {"train": "x"}),
        lambda: by_group(frames(2, ["a", "b"]), {"train": "a", "test": ["a", "b"]}),
        lambda: nested_subsets([1, 2, 3], [2, 2]),
        lambda: nested_subsets([1, 2, 3], [4]),
        lambda: nested_subsets([1, 2, 3], []),
    ],
)
def test_impossible_splits_are_refused(call: object) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
