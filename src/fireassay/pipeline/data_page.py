"""One page on data files: what is in them, how sound it is, how to split it, and what can be asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fireassay.data.baseline import fit_e0, isolated_atoms
from fireassay.data.checks import STOPS, Finding
from fireassay.data.environments import environment_map, fingerprints, nearest
from fireassay.data.frame import SYMBOLS
from fireassay.data.inspect import quality
from fireassay.data.keys import Keys
from fireassay.data.molecules import formula
from fireassay.data.neighbours import neighbour_list
from fireassay.data.readers import read_checked
from fireassay.data.similarity import duplicates
from fireassay.data.store import sample
from fireassay.data.structure import Structure
from fireassay.pipeline.init import correlated_frames, suggested_split
from fireassay.progress import Progress, Silent
from fireassay.records.files import write_text
from fireassay.report.figures import Figure, Panel, Series, padded
from fireassay.report.page import render_data
from fireassay.report.sections.chapter import Chapter
from fireassay.report.tables import Column, Table
from fireassay.units import GIGAPASCAL

FRAMES: Final = 2000  # of each file that are looked at
REACH: Final = 6.0  # Å, of the distances that are counted
BINS: Final = 60
_CLOSE: Final = 1.2  # times the distance among training frames, up to which a test file is one of them
_LABELLED: Final = ("energy", "forces", "stress")
PAIRS: Final = 6
NAMED: Final = 6


class _File(NamedTuple):
    index: int
    name: str
    frames: Sequence[Structure]
    looked_at: list[Structure]
    findings: list[Finding]


def write_data_page(
    sources: Sequence[str],
    output: Path,
    keys: Keys | None = None,
    units: Mapping[str, str] | None = None,
    elements: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the page of one file or of several that belong together; returns its path.

    Of files with more than `FRAMES` frames as many are looked at, in runs that are spread evenly; the page says so.

    Raises InputError when a file cannot be read at all.
    """
    watch = progress or Silent()
    files = []
    for index, source in enumerate(sources):
        frames, findings = read_checked(source, keys, units, elements=elements, accept=list(STOPS), progress=watch)
        files.append(_File(index, _name(source, sources), frames, sample(frames, FRAMES), findings))
    watch.start("inspecting", 6)
    chapters = []
    try:
        for chapter in (_labels, _geometry, _composition, _map, _noise_and_leaks, _use):
            chapters.append(chapter(files))
            watch.advance(note=chapters[-1].title)
    finally:
        watch.stop()
    said = [(file, finding) for file in files for finding in (*file.findings, *quality(file.looked_at))]
    leaks = [row for chapter in chapters for table in chapter.tables if table.id == "table-leaks" for row in table.rows]
    stops = [_of(file, finding.line, files) for file, finding in said if finding.stops]
    remarks = [_of(file, finding.line, files) for file, finding in said if not finding.stops]
    remarks += [f"{row[0]} shares {row[1] + row[2]} frames with {files[0].name}" for row in leaks if row[1] + row[2]]
    total = sum(len(file.frames) for file in files)
    atoms = Counter(len(s) for file in files for s in file.looked_at)
    size = f"{min(atoms)}" if len(atoms) == 1 else f"{min(atoms)} to {max(atoms)}"
    species = sorted({int(z) for file in files for s in file.looked_at for z in s.atomic_numbers})
    headline = f"{total} frames of {size} atoms: {', '.join(SYMBOLS[z] for z in species)}"
    title = ", ".join(file.name for file in files)
    text = render_data([file.name for file in files], chapters, title, headline, stops, list(dict.fromkeys(remarks)))
    write_text(output, text)
    return output


def _name(source: str, sources: Sequence[str]) -> str:
    short = Path(source).name
    return short if sum(Path(other).name == short for other in sources) == 1 else source


def _of(file: _File, line: str, files: Sequence[_File]) -> str:
    return line if len(files) == 1 or file.name in line else f"{file.name}: {line}"


def _few(files: Sequence[_File]) -> str:
    """A sentence on how many frames were looked at, empty when it was all."""
    some = [file for file in files if len(file.looked_at) < len(file.frames)]
    return "".join(f" Of {file.name} {len(file.looked_at)} of {len(file.frames)} frames are shown." for file in some)


def _histogram(file: _File, values: NDArray, edges: NDArray, density: bool = True) -> Series:
    counts = np.histogram(values, edges)[0].astype(float)
    if density and counts.sum():
        counts /= counts.sum() * np.diff(edges)
    return Series("steps", edges, np.append(counts, 0.0), run=file.index, name=file.name)


def _panel(
    files: Sequence[_File], title: str, label: str, values: Mapping[int, NDArray], log: bool = False
) -> Panel | None:
    """Histograms of one quantity, a curve a file; on a logarithmic axis shares for each bin."""
    given = {k: v[np.isfinite(v) & ((v > 0) | (not log))] for k, v in values.items()}
    given = {k: v for k, v in given.items() if len(v)}
    if not given:
        return None
    joined = np.concatenate(list(given.values()))
    low, high = float(joined.min()), float(joined.max())
    if low == high:
        low, high = (0.5 * low, 2 * high) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    series = []
    for k, v in given.items():
        drawn = _histogram(files[k], v, edges, density=not log)
        series.append(replace(drawn, y=drawn.y / max(drawn.y.sum(), 1)) if log else drawn)
    y_label = "share of values" if log else "density"
    return Panel(title, label, y_label, series, x_log=log, x_range=(low, high))


def _figure(name: str, title: str, caption: str, panels: Sequence[Panel | None]) -> list[Figure]:
    drawn = [panel for panel in panels if panel is not None]
    return [Figure(f"figure-{name}", title, caption, drawn, [])] if drawn else []


def _labels(files: Sequence[_File]) -> Chapter:
    everything = [s for file in files for s in file.looked_at if s.energy is not None]
    known = isolated_atoms(everything)
    larger = [s for s in everything if len(s) > 1]
    species = {int(z) for s in larger for z in s.atomic_numbers}
    e0 = known if species and species <= set(known) else fit_e0(larger).e0 if larger else {}
    zero = "isolated atoms" if e0 is known else "E0 fitted to the compositions"
    energies, forces, pressures = {}, {}, {}
    rows = []
    for file in files:
        labelled = [s for s in file.looked_at if s.energy is not None and len(s) > 1]
        rest = [
            1000 * ((s.energy or 0.0) - sum(e0.get(int(z), 0.0) for z in s.atomic_numbers)) / len(s) for s in labelled
        ]
        energies[file.index] = np.array(rest)
        norms = [np.linalg.norm(s.forces[s.forced], axis=1) for s in file.looked_at if s.forces is not None]
        forces[file.index] = np.concatenate(norms or [np.zeros(0)])
        pressure = [-np.trace(s.stress) / 3 / GIGAPASCAL for s in file.looked_at if s.stress is not None]
        pressures[file.index] = np.array(pressure)
        share = [
            np.mean([getattr(s, label) is not None for s in file.looked_at]) for label in ("energy", "forces", "stress")
        ]
        rms = float(np.sqrt(np.mean(forces[file.index] ** 2) / 3)) if len(forces[file.index]) else None
        rows.append([file.name, len(file.frames), *(100 * float(x) for x in share), rms,
                     float(np.std(energies[file.index])) if len(rest) else None])  # fmt: skip
    columns = [
        Column("file", text=True), Column("frames"), Column("with energy", "%", "%"), Column("with forces", "%", "%"),
        Column("with stress", "%", "%"), Column("force component", "eV/Å", "eV/Å, rms"),
        Column("energy", "meV/atom", "meV/atom, standard deviation"),
    ]  # fmt: skip
    table = Table("table-labels", "Labels", "Shares of the frames that have each label.", columns, rows, [],
                  [file.index for file in files])  # fmt: skip
    caption = f"Energies are per atom, less {zero}; forces are their norms, atom by atom.{_few(files)}"
    panels = [
        _panel(files, "energy", "energy (meV/atom)", energies),
        _panel(files, "forces", "force (eV/Å)", forces, log=True),
        _panel(files, "pressure", "pressure (GPa, positive in compression)", pressures),
    ]
    return Chapter("labels", "Labels", "", _figure("labels", "Distributions of the labels", caption, panels), [table])


def _geometry(files: Sequence[_File]) -> Chapter:
    distances: dict[tuple[int, int], dict[int, list[NDArray]]] = {}
    nearest_of: dict[tuple[int, int], float] = {}
    volumes, lengths = {}, {}
    for file in files:
        solid = [s for s in file.looked_at if s.solid]
        volumes[file.index] = np.array([abs(np.linalg.det(s.cell)) / len(s) for s in solid])
        lengths[file.index] = np.array([x for s in solid for x in np.linalg.norm(s.cell[s.pbc], axis=1)])
        for s in sample(file.looked_at, 300):
            centre, neighbour, shift = neighbour_list(s, REACH)
            half = centre <= neighbour
            vectors = s.positions[neighbour] + shift @ s.cell - s.positions[centre]
            length = np.linalg.norm(vectors, axis=1)[half]
            kinds = np.sort(s.atomic_numbers[np.stack([centre, neighbour], 1)[half]], axis=1)
            for kind in {(int(a), int(b)) for a, b in kinds}:
                chosen = length[(kinds == kind).all(axis=1)]
                distances.setdefault(kind, {}).setdefault(file.index, []).append(chosen)
                nearest_of[kind] = min(nearest_of.get(kind, np.inf), float(chosen.min()))
    frequent = sorted(distances, key=lambda kind: -sum(len(v) for part in distances[kind].values() for v in part))
    names = {kind: f"{SYMBOLS[kind[0]]}-{SYMBOLS[kind[1]]}" for kind in distances}
    panels = []
    for kind in frequent[:PAIRS]:
        values = {index: np.concatenate(parts) for index, parts in distances[kind].items()}
        panels.append(_panel(files, names[kind], f"{names[kind]} distance (Å)", values))
    caption = (
        f"Distances up to {REACH:g} Å between pairs of elements, the {len(panels)} most frequent pairs.{_few(files)}"
    )
    figures = _figure("distances", "Distances", caption, panels)
    cells = [
        _panel(files, "volume", "volume (Å³/atom)", volumes),
        _panel(files, "cell", "length of lattice vectors (Å)", lengths),
    ]
    figures += _figure("cells", "Cells", "Of frames with a periodic cell.", cells)
    rows = [
        [names[kind], nearest_of[kind], sum(len(v) for part in distances[kind].values() for v in part)]
        for kind in frequent
    ]
    columns = [Column("pair", text=True), Column("nearest", "Å", "Å", significant=4), Column("distances")]
    table = Table("table-pairs", "Nearest distances", "What a potential has not seen nearer, it extrapolates to.",
                  columns, rows, [], fold=True)  # fmt: skip
    return Chapter("geometry", "Geometry", "", figures, [table] if rows else [])


def _composition(files: Sequence[_File]) -> Chapter:
    counts: dict[str, Counter[int]] = {}
    for file in files:
        for s in file.looked_at:
            counts.setdefault(formula(s.atomic_numbers), Counter())[file.index] += 1
    order = sorted(counts, key=lambda name: -sum(counts[name].values()))
    columns = [Column("composition", text=True), *(Column(file.name) for file in files)]
    rows: list[list[Any]] = [[name, *(counts[name][file.index] for file in files)] for name in order[:200]]
    caption = f"{len(order)} compositions.{_few(files)}"
    table = Table("table-compositions", "Compositions", caption, columns, rows, [], fold=True)
    atoms = Counter(int(z) for file in files for s in file.looked_at for z in s.atomic_numbers)
    figures = []
    if len(order) > 1 and len(atoms) > 1:
        (a, _), (b, _) = atoms.most_common(2)
        series = []
        for file in files:
            shares = [(np.mean(s.atomic_numbers == a), np.mean(s.atomic_numbers == b)) for s in file.looked_at]
            x, y = np.array(shares).T
            series.append(Series("points", x, y, run=file.index, name=file.name, opacity=0.5))
        panel = Panel(
            "", f"share of {SYMBOLS[a]}", f"share of {SYMBOLS[b]}", series, x_range=(-0.03, 1.03), y_range=(-0.03, 1.03)
        )
        figures = _figure(
            "composition",
            "Compositions",
            "Each point is a frame, by the shares of its two most frequent elements.",
            [panel],
        )
    return Chapter("composition", "Composition", "", figures, [table])


def _map(files: Sequence[_File]) -> Chapter:
    joined = [(file, s) for file in files for s in file.looked_at]
    found = environment_map(fingerprints([s for _, s in joined]))
    owner = np.array([file.index for file, _ in joined])
    series = [
        Series("points", *found.points[owner == file.index].T, run=file.index, name=file.name, opacity=0.55)
        for file in files
    ]
    far = [int(k) for k in np.argsort(-found.outlying)[:NAMED] if found.outlying[k] > 3]
    if far:
        series.append(Series("points", *found.points[far].T, name="outliers", size=11, open=True))
    x, y = (
        f"{name} variation ({100 * share:.0f} %)"
        for name, share in zip(("largest", "second"), found.shares, strict=True)
    )
    panel = Panel("", x, y, series, x_range=padded([found.points[:, 0]]), y_range=padded([found.points[:, 1]]))
    caption = (
        "Frames by the neighbourhoods of their atoms (radial symmetry functions of each pair of elements, averaged "
        "over atoms), in the plane of the two largest variations. Rings mark frames far from their fifth nearest."
        f"{_few(files)}"
    )
    rows = [[joined[k][1].where, float(found.outlying[k])] for k in far]
    columns = [Column("frame", text=True), Column("distance to others", "", "times the median")]
    tables = [
        Table("table-outliers", "Outliers", "Frames that lie alone; look at them before training.", columns, rows, [])
    ]
    return Chapter(
        "map", "Map", "", _figure("map", "A map of the environments", caption, [panel]), tables if rows else []
    )


def _noise_and_leaks(files: Sequence[_File]) -> Chapter:
    rows, pairs = [], []
    for file in files:
        repeated = duplicates(file.looked_at)
        rows.append(
            [file.name, len(repeated.identical), len(repeated.near), *_noise(file.looked_at, repeated.identical)]
        )
        for kind, found in (("identical", repeated.identical), ("within 0.01 Å", repeated.near)):
            pairs += [[file.looked_at[a].where, file.looked_at[b].where, kind] for a, b in found[:NAMED].tolist()]
    columns = [
        Column("file", text=True), Column("identical frames"), Column("within 0.01 Å"),
        Column("force noise by net force", "meV/Å", "meV/Å"), Column("force noise by repeats", "meV/Å", "meV/Å"),
        Column("energy noise by repeats", "meV/atom", "meV/atom"),
    ]  # fmt: skip
    caption = (
        "Noise for each component. Net forces of frames vanish where labels are exact: independent errors of the atoms "
        "sum to what is left, which is an estimate as far as errors are independent. Repeats are identical frames with "
        "labels of their own."
    )
    tables = [
        Table("table-noise", "Label noise and repeats", caption, columns, rows, [], [file.index for file in files])
    ]
    if pairs:
        words = [Column("frame", text=True), Column("repeats", text=True), Column("how", text=True)]
        tables.append(Table("table-repeats", "Repeated frames", "The first of each kind.", words, pairs, [], fold=True))
    if len(files) > 1:
        tables.append(_leaks(files))
    return Chapter("noise", "Noise and leaks", "", [], tables)


def _noise(frames: Sequence[Structure], identical: NDArray[np.int64]) -> list[float | None]:
    """Force noise by net forces and by repeats in meV/Å, energy noise by repeats in meV/atom."""
    whole = [s for s in frames if s.forces is not None and s.forced.all() and len(s) > 1]
    net = [float(np.mean(s.forces.sum(axis=0) ** 2)) / len(s) for s in whole if s.forces is not None]
    by_net = 1000 * float(np.sqrt(np.mean(net))) if net else None
    forces, energies = [], []
    for a, b in identical.tolist():
        one, other = frames[a], frames[b]
        if one.forces is not None and other.forces is not None:
            difference = (one.forces - other.forces)[one.forced & other.forced]
            forces.append(float(np.mean(difference**2)) if len(difference) else 0.0)
        if one.energy is not None and other.energy is not None:
            energies.append(((one.energy - other.energy) / len(one)) ** 2)
    repeated = [1000 * float(np.sqrt(np.mean(v) / 2)) if v and max(v) > 0 else None for v in (forces, energies)]
    return [by_net, *repeated]


def _leaks(files: Sequence[_File]) -> Table:
    """For each other file: how many of its frames the first one has, or nearly."""
    first, *others = files
    features = [fingerprints([*first.looked_at, *other.looked_at]) for other in others]
    rows = []
    for other, joined in zip(others, features, strict=True):
        both = [*first.looked_at, *other.looked_at]
        n = len(first.looked_at)
        repeated = duplicates(both)
        identical, near = (len({b for a, b in found.tolist() if a < n <= b}) for found in repeated)
        scale = np.maximum(joined.std(axis=0), 1e-12)
        own, theirs = joined[:n] / scale, joined[n:] / scale
        inside = float(np.median(nearest(own, own))) if n > 1 else np.nan
        ratio = float(np.median(nearest(theirs, own))) / inside if inside > 0 else None
        close = ratio is not None and ratio < _CLOSE
        told = "shares frames" if identical + near else "as near as its own frames" if close else "apart"
        rows.append([other.name, identical, near, ratio, told])
    columns = [
        Column("file", text=True), Column("identical frames"), Column("within 0.01 Å"),
        Column("distance to the first file", "", "times that among its own frames"), Column("which is", text=True),
    ]  # fmt: skip
    caption = (
        f"Against {first.name}. A test file whose frames are as near to training frames as these are to each other, or "
        "nearer, tests what was trained on: the same trajectory, say."
    )
    return Table(
        "table-leaks", "Leaks between the files", caption, columns, rows, [], [other.index for other in others]
    )


def _use(files: Sequence[_File]) -> Chapter:
    first = files[0]
    split, why = suggested_split(first.looked_at)
    length = correlated_frames(first.looked_at)
    words = ", ".join(f"{name}: {value}" for name, value in split.items())
    lead = f'Suggested for {first.name}: "data.validation={{{words}}}" ({why}).'
    if length is not None:
        lead += f" About {length} frames in a row are alike: they are no independent samples."
    frames = [s for file in files for s in file.looked_at]
    temperatures = {s.provenance.temperature for s in frames} - {None}
    groups = {s.provenance.group for s in frames} - {None}
    has = {
        label: any(getattr(s, label) is not None for s in frames) for label in ("energy", "forces", "stress", "charge")
    }
    species = {int(z) for s in frames for z in s.atomic_numbers}
    alone = set(isolated_atoms(frames))
    missing = ", ".join(SYMBOLS[z] for z in sorted(species - alone))
    forces = "forces" if has["forces"] else "no forces"
    hot = f"{len(temperatures)} temperatures" if temperatures else "no temperatures; name their key"
    single = f"no isolated atom of {missing}" if missing else "an isolated atom of each element"
    follow = "frames follow one another" if length is not None else "frames do not follow one another"
    questions: list[tuple[str, bool, str]] = [
        ("accuracy of energies", has["energy"], "energies" if has["energy"] else "no energies"),
        ("accuracy of forces, MD stability of a trained potential", has["forces"], forces),
        ("accuracy of stress, constant pressure", has["stress"], "stress" if has["stress"] else "no stress"),
        ("uncertainty by LTAU", has["forces"], forces),
        ("extrapolation in temperature", len(temperatures) > 1, hot),
        ("errors by group, splits by group", len(groups) > 1, f"{len(groups)} groups" if groups else "no groups"),
        ("atomisation energies, E0 of isolated atoms", not missing, single),
        ("dynamics against a reference trajectory", length is not None, follow),
    ]
    rows = [[name, "yes" if can else "no", reason] for name, can, reason in questions]
    columns = [Column("question", text=True), Column("can be asked", text=True), Column("because of", text=True)]
    table = Table("table-questions", "What can be asked of this data", "By what the frames have.", columns, rows, [])
    return Chapter("use", "Use", lead, [], [table])
