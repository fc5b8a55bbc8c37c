"""What a data file holds, read without being asked for labels first: the answer to "can I train on this?"."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.baseline import fit_e0, is_isolated, isolated_atoms, statistics
from fireassay.data.checks import Finding, check
from fireassay.data.conversion import structure_of, structures_of
from fireassay.data.electronic_state import STATES, ambiguity, counted
from fireassay.data.formats.loading import Source, described, load, said
from fireassay.data.frame import SYMBOLS, Frame, key_shapes, many_objects
from fireassay.data.ingest import SAMPLE, is_large, stored
from fireassay.data.interpretation import Interpretation, interpret
from fireassay.data.keys import Keys, lookalikes
from fireassay.data.readers import check_all_distances, check_distances, display
from fireassay.data.similarity import Duplicates, duplicates, energy_force_consistency
from fireassay.data.store import StoredFrames, number_blocks, numbered, sample
from fireassay.data.stress_check import stress_consistency
from fireassay.data.structure import Structure
from fireassay.data.unit_check import energy_unit, force_unit, hydrogen_stiffness, sampled
from fireassay.errors import InputError
from fireassay.progress import Progress
from fireassay.units import GIGAPASCAL

VACUUM: Final = 4.0  # Å of empty space along every lattice vector that make a periodic frame an isolated molecule
_NET_FORCE: Final = 0.05  # eV/Å
_PROBLEMS: Final = 10


@dataclass(frozen=True)
class Key:
    """One key of the file: type and shape, the number of frames that have it, and the label that it is read as."""

    name: str
    kind: str
    frames: int
    read_as: str | None


@dataclass(frozen=True)
class Inspection:
    """Plain values of everything that was found; energies in eV, lengths in Å after the conversion asked for.

    `coverage` is the share of frames with each label, charge and spin only where there are any; `charges` (e) and
    `spins` (2S + 1) map the values that occur, ascending, to numbers of frames; `findings` are sentences about what
    needs attention, the most serious first; `problems` are frames that cannot be used, with the reason.
    """

    path: str
    format: str
    frames: int
    atoms: dict[str, int]
    elements: dict[str, dict[str, int]]
    compositions: int
    keys: list[Key]
    coverage: dict[str, float]
    charges: dict[str, int]
    spins: dict[str, int]
    periodicity: dict[str, int]
    groups: dict[str, int]
    temperatures: dict[str, int]
    energy: dict[str, float | None]
    forces: dict[str, Any]
    stress: dict[str, float]
    isolated_atoms: dict[str, float]
    fitted_e0: dict[str, Any]
    duplicates: dict[str, int]
    units: dict[str, Any]
    problems: list[str]
    findings: list[str]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The inspection as JSON text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """The inspection as text for a terminal: one block per subject, findings last."""
        lines = [f"{self.path}: {self.format}, {self.frames} frames", *(f"  {note}" for note in self.notes)]
        for title, rows in self.tables().items():
            if rows:
                lines += ["", title, *_aligned(rows)]
        lines += ["", "Findings" if self.findings or self.problems else "Nothing needs attention."]
        lines += [f"  ! {text}" for text in [*self.problems, *self.findings]]
        return "\n".join(lines)

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        """Title -> rows of text cells, empty tables included."""
        return {
            "Keys": [
                (k.name, k.kind, f"{k.frames} frames", f"read as {k.read_as}" if k.read_as else "") for k in self.keys
            ],
            "Labels": [(name, f"{100 * share:.4g} % of frames") for name, share in self.coverage.items()],
            "Atoms": [*_rows(self.atoms), ("compositions", str(self.compositions))],
            "Elements": [(e, f"{c['atoms']} atoms", f"in {c['frames']} frames") for e, c in self.elements.items()],
            "Charge (e)": [(name, f"{count} frames") for name, count in list(self.charges.items())[:20]],
            "Spin (2S + 1)": [(name, f"{count} frames") for name, count in list(self.spins.items())[:20]],
            "Periodicity": [(name, f"{count} frames") for name, count in self.periodicity.items()],
            "Groups": [(name, f"{count} frames") for name, count in list(self.groups.items())[:20]],
            "Temperatures (K)": [(name, f"{count} frames") for name, count in list(self.temperatures.items())[:20]],
            "Energy (eV)": _rows(self.energy),
            "Forces (eV/Å)": _rows(self.forces),
            "Stress (GPa, positive in tension)": _rows(self.stress),
            "Isolated atoms (eV)": _rows(self.isolated_atoms),
            "E0 by least squares": _rows(self.fitted_e0),
            "Duplicates": _rows(self.duplicates),
            "Units": _rows(self.units),
        }


def inspect(
    path: Source,
    keys: Keys | None = None,
    units: Mapping[str, str] | None = None,
    elements: Sequence[str] | None = None,
    count: int | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Everything there is to know of a data file before training on it.

    Arguments as for `fireassay.data.readers.read`. Missing labels, foreign units and unusable frames are reported,
    not refused; a file that cannot be read at all raises InputError. Of a large file (`fireassay.data.ingest`), or with
    `count`, statistics are those of about `count` frames, by default `SAMPLE`, in runs that are spread evenly; numbers
    of frames, atoms, elements and labels are always those of the whole. Its frames are then kept on disk, and one that
    cannot be used raises InputError.
    """
    where = display(path)
    if is_large(path) and count is None:
        count = SAMPLE
    if count is not None:
        frames, findings, meta = stored(path, keys, units, elements, check_all_distances, progress)
        if not meta["mapped"]["energy"] and not meta["mapped"]["forces"]:
            findings = [_nothing(where), *findings]
        return _inspection(
            where,
            meta["format"],
            frames,
            sample(frames, count),
            [],
            _keys(meta["keys"], [{label: tuple(keys) for label, keys in meta["mapped"].items()}]),
            findings,
            {f"{quantity} read in": unit for quantity, unit in meta["units"].items()},
            [*meta["notes"], f"the frames are kept on disk in {frames.store.folder}; delete it when done"],
            [],
        )
    with many_objects():
        contents = load(path, elements)
        read_as = [interpret(content, keys, units) for content in contents]
        structures, problems = _structures(read_as)
    without = [one.content.file for one in read_as if not one.mapped["energy"] and not one.mapped["forces"]]
    findings = [*map(_nothing, without), *check(read_as, structures, where)]
    shapes: dict[str, tuple[str, int]] = {}
    for one in read_as:
        for name, (kind, number) in key_shapes(one.frames).items():
            shapes[name] = (kind, number + shapes.get(name, (kind, 0))[1])
    return _inspection(
        where,
        described(contents),
        [frame for one in read_as for frame in one.frames],
        structures,
        problems,
        _keys(shapes, [one.mapped for one in read_as]),
        findings,
        _read_in(read_as),
        said(contents),
        read_as,
    )


def _inspection(
    where: str,
    file_format: str,
    whole: Sequence[Frame] | StoredFrames,
    structures: Sequence[Structure],
    problems: list[str],
    keys: list[Key],
    found: Sequence[Finding],
    names: dict[str, Any],
    notes: Sequence[str],
    read_as: Sequence[Interpretation],
) -> Inspection:
    """The inspection of `structures`, which are those of the whole or a sample of them."""
    repeated = duplicates(structures)
    findings = [*found, *quality(structures, repeated)]
    isolated = isolated_atoms(structures)
    e0, energy = _energies(structures, isolated)
    sizes, elements, compositions = _atoms(whole)
    partly = isinstance(whole, StoredFrames) and len(structures) < len(whole)
    notes = [*notes, f"statistics are those of {len(structures)} of {len(whole)} frames"] if partly else list(notes)
    return Inspection(
        path=where,
        format=file_format,
        frames=len(whole),
        atoms={
            "fewest in a frame": int(sizes.min()),
            "most in a frame": int(sizes.max()),
            "in all": int(sizes.sum()),
        },
        elements=elements,
        compositions=compositions,
        keys=keys,
        coverage=_coverage(whole if isinstance(whole, StoredFrames) else structures),
        charges={f"{value:g}": n for value, n in counted(structures, "charge").items()},
        spins={f"{value:g}": n for value, n in counted(structures, "spin").items()},
        periodicity=dict(Counter(_periodicity(s) for s in structures).most_common()),
        groups=dict(Counter(s.provenance.group for s in structures if s.provenance.group is not None).most_common()),
        temperatures={f"{t:g}": n for t, n in sorted(_temperatures(structures).items())},
        energy=energy,
        forces=_forces(structures),
        stress=_stress(structures),
        isolated_atoms={SYMBOLS[z]: value for z, value in isolated.items()},
        fitted_e0=e0,
        duplicates={
            "identical to an earlier frame": len(repeated.identical),
            "near (below 0.01 Å)": len(repeated.near),
        },
        units={**names, **_units(structures)},
        problems=problems,
        findings=[*(finding.line for finding in findings), *_others(read_as, findings)],
        notes=notes,
    )


def quality(structures: Sequence[Structure], repeated: Duplicates | None = None) -> list[Finding]:
    """What structures say of themselves beside their labels' meaning: net forces, vacuum, charge and spin, repeats.

    `repeated` are the structures' duplicates, where they are known.
    """
    repeated = duplicates(structures) if repeated is None else repeated
    doubt = ambiguity(structures)
    lines = {
        "forces": _force_findings(structures),
        "charge": [line for line in doubt if line is not None],
        "vacuum": _periodicity_findings(Counter(_periodicity(s) for s in structures)),
        "duplicates": _duplicate_findings(repeated, structures),
    }
    return [Finding(kind, line) for kind, of_kind in lines.items() for line in of_kind]


def _nothing(file: str) -> Finding:
    return Finding("nothing", f"{file}: no energies and no forces are read: nothing to train on")


def _others(read_as: Sequence[Interpretation], findings: Sequence[Finding]) -> list[str]:
    """Keys that are named like a label and that no finding speaks of."""
    text = " ".join(finding.line for finding in findings)
    lines = []
    for one in read_as:
        for label, names in lookalikes(one.frames, one.mapped).items():
            others = [name for name in names if name not in text]
            if others:
                lines.append(f"not read, but named like {label}: {', '.join(others)}")
    return list(dict.fromkeys(lines))


def _read_in(read_as: Sequence[Interpretation]) -> dict[str, str]:
    """The units that were taken, where they are not eV and Å alone."""
    found: dict[str, str] = {}
    for one in read_as:
        for quantity, unit in one.names.items():
            source = "declared" if quantity in one.content.units else "of the format"
            given = f"{unit} ({source})" if one.content.units.get(quantity, one.content.assumed.get(quantity)) else unit
            found[f"{quantity} read in"] = given
    return found


def _structures(read_as: Sequence[Interpretation]) -> tuple[list[Structure], list[str]]:
    structures: list[Structure] = []
    problems: list[str] = []
    for one in read_as:
        try:
            of_file = structures_of(one.frames, one.mapped, one.units)
            check_all_distances(of_file)
        except InputError:  # one by one, to say which
            pass
        else:
            structures += of_file
            continue
        for frame in one.frames:
            try:
                structure = structure_of(frame, one.mapped, one.units)
                check_distances(structure)
            except InputError as error:
                problems.append(str(error))
            else:
                structures.append(structure)
    if len(problems) > _PROBLEMS:
        problems[_PROBLEMS:] = [f"and {len(problems) - _PROBLEMS} frames more that cannot be used"]
    return structures, problems


def _keys(shapes: Mapping[str, Any], mapped: Sequence[Mapping[str, tuple[str, ...]]]) -> list[Key]:
    """Every key with its type, the number of frames that have it, and the label that it is read as."""
    labels = {key: label for one in mapped for label, keys in one.items() for key in keys}
    return [Key(name, kind, count, labels.get(name)) for name, (kind, count) in shapes.items()]


def _coverage(structures: Sequence[Structure]) -> dict[str, float]:
    n = max(len(structures), 1)
    shares = {name: len(numbered(structures, name)) / n for name in ("energy", "forces", "stress", *STATES)}
    return {name: share for name, share in shares.items() if share or name not in STATES}


def _atoms(
    whole: Sequence[Frame] | StoredFrames,
) -> tuple[NDArray[np.int64], dict[str, dict[str, int]], int]:
    """Numbers of atoms, elements with their atoms and frames, and the number of compositions."""
    atoms, present = np.zeros(120, dtype=np.int64), np.zeros(120, dtype=np.int64)
    sizes, compositions = [], set()
    for numbers, size in number_blocks(whole):
        frame = np.repeat(np.arange(len(size)), size)
        counts = np.zeros((len(size), 120), dtype=np.int64)
        np.add.at(counts, (frame, numbers), 1)
        atoms += counts.sum(axis=0)
        present += (counts > 0).sum(axis=0)
        compositions |= {row.tobytes() for row in counts}
        sizes.append(size)
    elements = {SYMBOLS[z]: {"atoms": int(atoms[z]), "frames": int(present[z])} for z in np.flatnonzero(atoms).tolist()}
    return np.concatenate(sizes), elements, len(compositions)


def _temperatures(structures: Sequence[Structure]) -> Counter[float]:
    return Counter(s.provenance.temperature for s in structures if s.provenance.temperature is not None)


def _periodicity(s: Structure) -> str:
    if not s.pbc.any():
        return "not periodic"
    if is_isolated(s):
        return "an atom alone in a box"
    axes = "".join(axis for axis, flag in zip("abc", s.pbc, strict=True) if flag)
    if s.pbc.all() and _in_vacuum(s):
        return "flagged periodic, but an isolated molecule in a vacuum box"
    return "periodic" if s.pbc.all() else f"periodic along {axes}"


def _in_vacuum(s: Structure) -> bool:
    """Whether along every lattice vector there is a layer of at least `VACUUM` Å without an atom."""
    inverse = np.linalg.inv(s.cell)
    fractional = np.sort((s.positions @ inverse) % 1.0, axis=0)
    gaps = np.diff(np.concatenate([fractional, fractional[:1] + 1.0]), axis=0).max(axis=0)
    return bool((gaps / np.linalg.norm(inverse, axis=0) >= VACUUM).all())


def _energies(
    structures: Sequence[Structure], isolated: Mapping[int, float]
) -> tuple[dict[str, Any], dict[str, float | None]]:
    larger = [s for s in structures if len(s) > 1]
    if not any(s.energy is not None for s in larger):
        return {}, {}
    total = np.array([s.energy for s in larger if s.energy is not None])
    fitted = fit_e0(larger)
    known = all(z in isolated for z in fitted.e0)
    zero = dict(isolated) if known else fitted.e0
    rest = statistics(larger, zero)
    plain = statistics(larger)
    what = "isolated atoms" if known else "fitted E0"
    energy = {
        "mean": float(total.mean()),
        "standard deviation": float(total.std()),
        "lowest": float(total.min()),
        "highest": float(total.max()),
        "mean per atom": plain.energy_per_atom_mean,
        f"mean per atom less {what}": rest.energy_per_atom_mean,
        f"standard deviation per atom less {what}": rest.energy_per_atom_std,
    }
    return {**{SYMBOLS[z]: value for z, value in fitted.e0.items()}, "fit": str(fitted)}, energy


def _labelled(structures: Sequence[Structure]) -> list[Structure]:
    return [s for s in structures if s.forced.any() and len(s) > 1]


def _net(structures: Sequence[Structure]) -> np.ndarray:
    """Norms of the sums of forces, of frames that have all forces."""
    sums = [s.forces.sum(axis=0) for s in structures if s.forces is not None and s.forced.all()]
    return np.linalg.norm(np.array(sums).reshape(-1, 3), axis=1)


def _forces(structures: Sequence[Structure]) -> dict[str, Any]:
    labelled = _labelled(structures)
    if not labelled:
        return {}
    summary, net = statistics(labelled), _net(labelled)
    rows: dict[str, Any] = {"root mean square": summary.force_rms, "largest component": summary.force_max}
    rows |= {f"root mean square of {SYMBOLS[z]}": value for z, value in summary.force_rms_by_species.items()}
    if len(net):
        rows["net force, root mean square"] = float(np.sqrt(np.mean(net**2)))
        rows["net force, largest"] = float(net.max())
    return rows


def _force_findings(structures: Sequence[Structure]) -> list[str]:
    labelled = _labelled(structures)
    if not labelled:
        return []
    findings = []
    if statistics(labelled).force_rms == 0:
        findings.append(
            "all forces are zero: they were not calculated, or zeroed by constraints when the file was written"
        )
    still = [(s.forces == 0).all(axis=1) for s in labelled if s.forces is not None]
    fixed = sum(bool(atoms.any() and not atoms.all()) for atoms in still)
    if fixed:
        findings.append(
            f"{fixed} frames have atoms with forces of exactly zero: by symmetry, or by constraints on the labels?"
        )
    net = _net(labelled)
    if len(net) and net.max() > _NET_FORCE:
        findings.append(
            f"net forces up to {net.max():.3g} eV/Å (root mean square {np.sqrt(np.mean(net**2)):.3g}): "
            "no potential with translation symmetry can fit them"
        )
    return findings


def _stress(structures: Sequence[Structure]) -> dict[str, float]:
    tensors = [s.stress for s in structures if s.stress is not None]
    if not tensors:
        return {}
    stress = np.stack(tensors) / GIGAPASCAL
    pressure = -np.trace(stress, axis1=1, axis2=2) / 3
    return {
        "root mean square": float(np.sqrt(np.mean(stress**2))),
        "lowest pressure": float(pressure.min()),
        "mean pressure": float(pressure.mean()),
        "highest pressure": float(pressure.max()),
    }


def _units(structures: Sequence[Structure]) -> dict[str, Any]:
    larger = sampled(structures)
    if not larger:
        return {}
    energy, stiffness, consistency = (
        energy_unit(larger),
        hydrogen_stiffness(larger),
        energy_force_consistency(structures),
    )
    evidence: dict[str, Any] = {}
    if energy is not None:
        evidence["total energies are all-electron energies in"] = energy[0]
    if stiffness is not None:
        evidence["force constant of bonds to H (eV/Å^2 expected 20 to 60)"] = stiffness
        evidence["which is a bond's in"] = force_unit(stiffness) or "unclear"
    if consistency is not None and abs(consistency.correlation) > 0.8:
        slope = float(np.sign(consistency.correlation)) * consistency.slope
        evidence["energy difference / work of forces between similar frames (expected 1)"] = slope
    stress = stress_consistency(structures)
    if stress is not None and abs(stress.correlation) > 0.6:
        evidence["stress / stress of a pair potential fitted to the forces (expected 1)"] = stress.slope
    return evidence


def _periodicity_findings(periodicity: Counter[str]) -> list[str]:
    isolated = sum(count for name, count in periodicity.items() if "isolated" in name)
    if not isolated:
        return []
    return [
        f"{isolated} frames are flagged periodic but are molecules in vacuum: "
        "with a cutoff beyond the gap, images interact"
    ]


def _duplicate_findings(repeated: Duplicates, structures: Sequence[Structure]) -> list[str]:
    n, lines = len(structures), []
    if len(repeated.identical):
        example = _pair(structures, *repeated.identical[0].tolist())
        lines.append(f"{len(repeated.identical)} of {n} frames are identical to an earlier one, such as {example}")
    if len(repeated.near):
        example = _pair(structures, *repeated.near[0].tolist())
        many = len(repeated.near) > 0.02 * n
        advice = "split by blocks, a random split leaks" if many else "keep them in one part of a split"
        lines.append(
            f"{len(repeated.near)} of {n} frames are within 0.01 Å of an earlier one, such as {example}: {advice}"
        )
    return lines


def _pair(structures: Sequence[Structure], first: int, second: int) -> str:
    """A frame and the one that it repeats, by their numbers in the file, and by their files where there are two."""
    a, b = structures[first].provenance, structures[second].provenance
    if a.file == b.file and None not in (a.frame, b.frame):
        return f"{b.frame} to {a.frame}"
    return f"{structures[second].where} to {structures[first].where}"


def _rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in values.items()]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    n_columns = max(map(len, rows))
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(n_columns)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows]
