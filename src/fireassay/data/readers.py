"""Files to structures: one `read` for every format, with labels by explicit keys and units on request."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from fireassay.data.checks import Finding, check, check_accepted, refuse, unit_findings
from fireassay.data.conversion import structures_of
from fireassay.data.formats.loading import Source, load
from fireassay.data.frame import many_objects
from fireassay.data.ingest import is_large, stored
from fireassay.data.interpretation import interpret
from fireassay.data.keys import Keys, require_labels
from fireassay.data.neighbours import completed_cell
from fireassay.data.structure import Structure
from fireassay.errors import DataWarning, InputError
from fireassay.progress import Progress

_SMALL: Final = 64  # atoms, up to which all pairs of a molecule are faster than a tree
_TOGETHER: Final = 500_000  # pairs
CLOSEST: Final = 0.1  # Å; two atoms nearer than this are one atom written twice

Index = int | str | slice | Sequence[int] | None


class Reading(NamedTuple):
    """Structures, and what the checks found that does not forbid to use them."""

    structures: Sequence[Structure]
    findings: list[Finding]


def read(
    path: Source,
    keys: Keys | None = None,
    units: Mapping[str, str] | None = None,
    index: Index = None,
    labels: bool = True,
    elements: Sequence[str] | None = None,
    accept: Sequence[str] = (),
) -> list[Structure]:
    """The structures of a file or a folder of files, of several, or of an embedded set such as "3bpa-xtb/train_300K".

    `path` may be a pattern such as "run-*/OUTCAR", an archive, or a list of any of these; `fireassay.data.formats`
    names the formats. `keys` maps labels (energy, forces, stress, virial, temperature, group, charge, spin) to the
    file's own names, to a list of names of which the first that a frame has is taken, or to None to leave a label out;
    labels not mapped are looked for under the standard names of the format. `units` names the file's units, such as
    {"energy": "kcal/mol", "length": "Angstrom", "forces": "-kcal/mol/Å"}; where it names none, those that the file
    declares are taken, else eV and Å. `index` is a number, a slice such as ":100" or "::10", or a list of numbers.
    `elements` are those of numbered atom types. Frames read for training need energies or forces; `labels=False` takes
    a file without them as well. Forces are those of the file: constraints are not applied.

    Labels are checked against physics and against each other (see `fireassay.data.checks`): what would train on
    something else than is meant is refused, unless `accept` names its kind. Labels that are left unread are warned of.

    Raises InputError, in one line, for everything that cannot be read as meant; nothing in a file is executed.
    """
    structures, findings = read_checked(path, keys, units, index, labels, elements, accept, on_disk=False)
    for finding in findings:
        if finding.kind == "unread":
            warnings.warn(finding.line, DataWarning, stacklevel=2)
    return list(structures)


def read_checked(
    path: Source,
    keys: Keys | None = None,
    units: Mapping[str, str] | None = None,
    index: Index = None,
    labels: bool = True,
    elements: Sequence[str] | None = None,
    accept: Sequence[str] = (),
    on_disk: bool | None = None,
    progress: Progress | None = None,
    required: bool = True,
) -> Reading:
    """As `read`, with the findings that do not stop instead of warnings.

    Frames of a large file, or with `on_disk`, are kept in a store on disk (`fireassay.data.ingest`): the structures are
    a view of it. With `required=False` a file may be without labels, and those that it has are checked.
    """
    check_accepted(accept)
    if index is None and labels and (is_large(path) if on_disk is None else on_disk):
        frames, findings, meta = stored(path, keys, units, elements, check_all_distances, progress)
        if required and not (meta["mapped"]["energy"] or meta["mapped"]["forces"]):
            raise InputError(
                f"{display(path)}: no energies and no forces recognised; keys found: {', '.join(meta['keys'])}"
            )
        refuse(findings, accept)
        return Reading(frames, [finding for finding in findings if not finding.stops or finding.kind in accept])
    with many_objects():
        return _in_memory(path, keys, units, index, labels, elements, accept, required)


def _in_memory(
    path: Source,
    keys: Keys | None,
    units: Mapping[str, str] | None,
    index: Index,
    labels: bool,
    elements: Sequence[str] | None,
    accept: Sequence[str],
    required: bool,
) -> Reading:
    where = display(path)
    read_as = [interpret(content, keys, units) for content in load(path, elements)]
    frames = _chosen([(one, frame) for one in read_as for frame in one.frames], index, where)
    structures = [
        structure
        for pairs in (list(group) for _, group in groupby(frames, key=lambda pair: id(pair[0])))
        for structure in structures_of([frame for _, frame in pairs], pairs[0][0].mapped, pairs[0][0].units)
    ]
    if not labels:
        check_all_distances(structures)
        return Reading(structures, [])
    for one in read_as if required else ():
        require_labels(one.content, one.mapped)
    try:
        check_all_distances(structures)
    except InputError as error:  # atoms on one another may be a matter of the unit of length
        refuse(unit_findings(read_as, structures, where), accept)
        raise error
    findings = check(read_as, structures, where)
    refuse(findings, accept)
    return Reading(structures, [finding for finding in findings if not finding.stops or finding.kind in accept])


def display(path: Source) -> str:
    """The source's name in messages."""
    if isinstance(path, (str, Path)):
        return str(path)
    names = [str(part) for part in path]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def check_all_distances(structures: Sequence[Structure]) -> None:
    """As `check_distances` for each; small molecules of one size are looked at together."""
    sizes: dict[int, list[Structure]] = {}
    for structure in structures:
        if len(structure) <= _SMALL and not structure.pbc.any():
            sizes.setdefault(len(structure), []).append(structure)
        else:
            check_distances(structure)
    for size, alike in sizes.items():
        at_once = _TOGETHER // size**2 + 1
        for start in range(0, len(alike) if size > 1 else 0, at_once):
            group = alike[start : start + at_once]
            points = np.stack([s.positions for s in group])
            points -= points[:, :1]
            squares = np.einsum("sik,sik->si", points, points)
            between = squares[:, :, None] + squares[:, None] - 2 * points @ points.transpose(0, 2, 1)
            between[:, np.arange(size), np.arange(size)] = np.inf
            rounding = 1e-12 * squares.max(axis=1)
            for k in np.flatnonzero(between.min(axis=(1, 2)) <= CLOSEST**2 + rounding).tolist():
                check_distances(group[k])


def check_distances(structure: Structure) -> None:
    """Raises InputError when two atoms, or an atom and a periodic image, are closer than `CLOSEST` Å."""
    points, origin = _with_images(structure)
    pairs = KDTree(points).query_pairs(CLOSEST, output_type="ndarray")
    if len(pairs):
        first, second = pairs[0]
        distance = np.linalg.norm(points[first] - points[second])
        raise InputError(
            f"{structure.where}: atoms {origin[first]} and {origin[second]} are {distance:.3f} Å apart, "
            f"nearer than {CLOSEST} Å; remove the frame or the atom, and check the unit of length"
        )


def _with_images(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Positions wrapped into the cell, with copies of the atoms near a periodic face beyond the opposite one."""
    points, origin = structure.positions, np.arange(len(structure))
    if not structure.pbc.any():
        return points, origin
    cell = completed_cell(structure.cell, structure.pbc)
    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    fractional = points @ inverse
    fractional[:, structure.pbc] %= 1.0
    for axis in np.flatnonzero(structure.pbc):
        near = fractional[:, axis] * heights[axis] <= CLOSEST
        copies = fractional[near]
        copies[:, axis] += 1.0
        fractional, origin = np.concatenate([fractional, copies]), np.concatenate([origin, origin[near]])
    return fractional @ cell, origin


def _chosen(frames: list[Any], index: Index, where: str) -> list[Any]:
    try:
        if index is None:
            return frames
        if isinstance(index, str):
            parts = [int(part) if part.strip() else None for part in index.split(":")]
            index = slice(*parts) if len(parts) > 1 else parts[0]
        if isinstance(index, slice):
            chosen = frames[index]
        elif isinstance(index, (int, np.integer)):
            chosen = [frames[index]]
        else:
            chosen = [frames[k] for k in index or []]
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{where}: index {index!r} does not choose from {len(frames)} frames ({error})") from error
    if not chosen:
        raise InputError(f"{where}: index {index!r} chooses none of {len(frames)} frames")
    return chosen
