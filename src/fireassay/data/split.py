"""Which frames train and which are held out: index arrays, disjoint, reproducible from a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fireassay.data.advice import keys_option
from fireassay.data.structure import Structure
from fireassay.errors import InputError

Indices = NDArray[np.int64]


def split_random(
    structures: Sequence[Structure], held_out: int, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Frames that train and `held_out` frames drawn at random, both ascending.

    Frames of one trajectory are correlated in time: a random split then tests on neighbours of training frames.

    Raises InputError when `held_out` is negative or leaves nothing to train on.
    """
    n = _checked(structures, held_out)
    order = generator.permutation(n)
    return _pair(n, order[:held_out])


def split_blocks(
    structures: Sequence[Structure], held_out: int, generator: np.random.Generator | None = None, gap: int = 0
) -> tuple[Indices, Indices]:
    """The last `held_out` frames of a trajectory are held out, the first ones train, `gap` frames between are neither.

    A gap longer than the correlation time keeps the parts independent. The generator is not used.

    Raises InputError when nothing is left to train on.
    """
    n = _checked(structures, held_out + gap)
    if gap < 0:
        raise InputError(f"gap is {gap}, needs 0 or more frames")
    return np.arange(n - held_out - gap, dtype=np.int64), np.arange(n - held_out, n, dtype=np.int64)


def split_group(
    structures: Sequence[Structure], held_out: int, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Whole groups are held out, drawn at random until they have at least `held_out` frames together.

    Raises InputError when no frame has a group or every group would be held out.
    """
    n = _checked(structures, held_out)
    parts = by_group(structures)
    chosen: list[Indices] = []
    for k in generator.permutation(len(parts)):
        if sum(map(len, chosen)) >= held_out:
            break
        chosen.append(list(parts.values())[k])
    return _whole(n, chosen, len(parts), "groups", held_out)


def split_temperature(
    structures: Sequence[Structure], held_out: int, generator: np.random.Generator | None = None
) -> tuple[Indices, Indices]:
    """The hottest temperatures are held out until they have at least `held_out` frames. The generator is not used.

    Raises InputError when a frame has no temperature or every temperature would be held out.
    """
    n = _checked(structures, held_out)
    parts = by_temperature(structures)
    chosen: list[Indices] = []
    for temperature in sorted(parts, reverse=True):
        if sum(map(len, chosen)) >= held_out:
            break
        chosen.append(parts[temperature])
    return _whole(n, chosen, len(parts), "temperatures", held_out)


def by_group(
    structures: Sequence[Structure], groups: Mapping[str, str | Sequence[str]] | None = None
) -> dict[str, Indices]:
    """Frames by the group label of their provenance: {group: indices}, or the parts that `groups` names.

    `groups` maps a part's name to one or several group labels, such as {"train": ["bulk"], "test": "surface"}.

    Raises InputError when no frame has a group, a named group does not occur, or two parts share one.
    """
    labels = [structure.provenance.group for structure in structures]
    known = sorted({label for label in labels if label is not None})
    if not known:
        raise InputError(f"no frame has a group; name the key that holds it with {keys_option({'group': 'KEY'})}")
    if groups is None:
        return {name: _labelled(labels, [name]) for name in known}
    chosen = {part: [names] if isinstance(names, str) else list(names) for part, names in groups.items()}
    named = [name for names in chosen.values() for name in names]
    unknown = sorted(set(named) - set(known))
    if unknown or len(named) != len(set(named)):
        problem = f"groups {unknown} do not occur" if unknown else "a group is named twice"
        raise InputError(f"{problem}; the frames have the groups {known}")
    return {part: _labelled(labels, names) for part, names in chosen.items()}


def group_numbers(structures: Sequence[Structure]) -> Indices:
    """The number of each frame's group (S,) among the sorted labels; -1 for a frame without one."""
    labels = [structure.provenance.group for structure in structures]
    names = {label: number for number, label in enumerate(sorted({label for label in labels if label is not None}))}
    return np.array([-1 if label is None else names[label] for label in labels], dtype=np.int64)


def by_temperature(structures: Sequence[Structure], tolerance: float = 1.0) -> dict[float, Indices]:
    """Frames by the temperature of their provenance, ascending: {temperature in K: indices}.

    Temperatures within `tolerance` K above the first of a group belong to it.

    Raises InputError when a frame has no temperature.
    """
    values = [structure.provenance.temperature for structure in structures]
    missing = [k for k, value in enumerate(values) if value is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(values)} frames have no temperature, the first is "
            f"{structures[missing[0]].where}; name the key that holds it with {keys_option({'temperature': 'KEY'})}"
        )
    temperatures = np.array(values, dtype=np.float64)
    parts: dict[float, Indices] = {}
    for value in np.unique(temperatures):
        if not parts or value - max(parts) > tolerance:
            near = (temperatures >= value) & (temperatures - value <= tolerance)
            parts[float(value)] = np.flatnonzero(near)
    return parts


def nested_subsets(
    indices: Indices | Sequence[int], sizes: Sequence[int], generator: np.random.Generator | None = None
) -> list[Indices]:
    """Training sets of a learning curve: each is a prefix of the next, so that they differ by additions only.

    With a `generator` the indices are shuffled first, once for all sizes; without, their order is kept.

    Raises InputError when sizes do not ascend or ask for more than there is.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if len(sizes) == 0 or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
        raise InputError(f"sizes are {list(sizes)}, need ascending numbers from 1 on")
    if sizes[-1] > len(indices):
        raise InputError(f"the largest subset is to have {sizes[-1]} frames, but there are {len(indices)}")
    order = indices if generator is None else generator.permutation(indices)
    return [order[:size].copy() for size in sizes]


def _labelled(labels: Sequence[str | None], names: Sequence[str]) -> Indices:
    wanted = set(names)
    return np.array([k for k, label in enumerate(labels) if label in wanted], dtype=np.int64)


def _checked(structures: Sequence[Structure], held_out: int) -> int:
    n = len(structures)
    if not 0 <= held_out < n:
        raise InputError(
            f"cannot hold out {held_out} of {n} frames; needs at least 0 and at most {n - 1}; set data.validation.count"
        )
    return n


def _pair(n: int, held_out: NDArray) -> tuple[Indices, Indices]:
    held = np.zeros(n, dtype=bool)
    held[held_out] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _whole(n: int, chosen: list[Indices], n_parts: int, what: str, held_out: int) -> tuple[Indices, Indices]:
    if len(chosen) == n_parts:
        raise InputError(f"holding out {held_out} frames in whole {what} takes all {n_parts}; ask for fewer frames")
    return _pair(n, np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64))
