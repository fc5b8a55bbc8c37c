"""From files of any known format to a file of one that is written, whole or in splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fireassay.data.readers import Reading
from fireassay.data.split import split_blocks, split_group, split_random, split_temperature
from fireassay.data.store import chosen
from fireassay.data.structure import Structure
from fireassay.data.writing import write, writer_of
from fireassay.errors import InputError

METHODS = {"random": split_random, "blocks": split_blocks, "group": split_group, "temperature": split_temperature}


def convert(
    reading: Reading,
    target: Path,
    split: Mapping[str, float] | None = None,
    method: str = "random",
    seed: int = 0,
) -> tuple[dict[Path, int], list[str]]:
    """Writes structures to `target`, or its parts beside it; returns paths with numbers of frames, and notes.

    `split` maps names to shares of the frames, which sum to 1; the part `train` of `out.xyz` becomes `out-train.xyz`.
    `method` is one of `METHODS`.

    Raises InputError for shares that do not sum to 1, paths that exist, and what the target's format cannot hold.
    """
    frames = reading.structures
    parts = parted(frames, split, method, seed) if split else {"": frames}
    paths = {named(target, name): part for name, part in parts.items()}
    for path in paths:
        writer_of(path)
        if path.exists():
            raise InputError(f"{path} exists; name another target")
    notes = [finding.line for finding in reading.findings]
    for path, part in paths.items():
        notes += [f"{path}: {note}" for note in write(part, path)]
    return {path: len(part) for path, part in paths.items()}, notes


def named(target: Path, part: str) -> Path:
    """The path of a part: its name before the suffixes."""
    if not part:
        return target
    stem, dot, suffixes = target.name.partition(".")
    return target.with_name(f"{stem}-{part}{dot}{suffixes}")


def parted(
    structures: Sequence[Structure], split: Mapping[str, float], method: str, seed: int
) -> dict[str, Sequence[Structure]]:
    """Frames by part; what is held out last by the method goes to the last name. Raises InputError for bad shares."""
    if method not in METHODS:
        raise InputError(f"--method {method} is unknown; known are {', '.join(METHODS)}")
    if any(not share > 0 for share in split.values()) or abs(sum(split.values()) - 1) > 1e-6:
        raise InputError(f"the shares {dict(split)} have to be positive and sum to 1, as train=0.8,test=0.2")
    rng = np.random.default_rng(seed)
    left, parts = structures, {}
    names = list(split)
    for name in reversed(names[1:]):
        count = round(split[name] * len(structures))
        if not 0 < count < len(left):
            raise InputError(f"{len(structures)} frames are too few for a part {name!r} of {split[name]:g}")
        kept, held = METHODS[method](left, count, rng)
        parts[name], left = chosen(left, np.sort(held)), chosen(left, np.sort(kept))
    return {names[0]: left, **{name: parts[name] for name in names[1:]}}
