"""What is wrong with labels, or may be: one set of checks for `read`, `inspect` and training.

A finding of a kind in `STOPS` changes what is trained on: reading for training stops there, unless its kind is
accepted. The others are said and go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fireassay.data.advice import accept_option, keys_option, units_option
from fireassay.data.conversion import ORDERS, asymmetry, tensor_of, volume_of
from fireassay.data.frame import Frame, is_number, is_numeric, shape_of
from fireassay.data.interpretation import Interpretation
from fireassay.data.keys import is_gradient, lookalikes, unread_labels
from fireassay.data.similarity import Consistency
from fireassay.data.store import sample
from fireassay.data.stress_check import better_order, stress_consistency
from fireassay.data.structure import Structure
from fireassay.data.unit_check import force_sign, foreign_unit
from fireassay.errors import InputError, nearest
from fireassay.units import GIGAPASCAL, STRESS

STOPS: Final = {
    "unread": "labels are in the file under a key that is not read",
    "levels": "two levels of theory are in the file, one of which is read",
    "partial": "a part of the frames has the label under another key",
    "units": "the units are not those that physics allows",
    "sign": "the forces have the sign of a gradient",
    "virial": "stress and virial contradict each other",
    "stress": "the stress has another sign, unit or order than it is read with",
    "pressure": "pressures are beyond reason",
}
SAMPLE: Final = 2000  # structures that physics is asked of
PRESSURE: Final = 50.0  # eV an atom, pressure times volume, beyond which a median says that the unit is another
_SAME: Final = 1e-6
_VIRIAL: Final = 0.05  # of the stress, by which a virial may differ from it
_ASYMMETRY: Final = 1e-3
_COMPONENTS: Final = 5  # of a stress that change the shape
_FRAMES: Final = 1000  # looked at for what two keys hold
_THEORY: Final = re.compile(
    r"(?<![a-z])(ref|dft|ccsd|mp2|xtb|hf|pbe|b3lyp|wb97|scan|qm|true|target|label|old|new|(un)?corrected|cbs|dz|tz)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """One sentence about the data, how to go on where there is a way (`remedy`), and whether training stops."""

    kind: str
    sentence: str
    remedy: str | None = None
    stops: bool = False

    @property
    def line(self) -> str:
        """The sentence with its remedy, and for one that stops how to accept it."""
        ways = [] if self.remedy is None else [self.remedy]
        if self.stops:
            ways.append(f"take it as it is with {accept_option(self.kind)}")
        return "; ".join([self.sentence, ", or ".join(ways)] if ways else [self.sentence])


def check_accepted(accept: Sequence[str]) -> None:
    """Raises InputError for a kind of finding that there is not."""
    for kind in accept:
        if kind not in STOPS:
            raise InputError(f"data.accept: {kind!r} is no finding{nearest(kind, STOPS)}; known are {list(STOPS)}")


def refuse(findings: Sequence[Finding], accept: Sequence[str]) -> None:
    """Raises InputError with the first finding that stops and is not accepted."""
    for finding in findings:
        if finding.stops and finding.kind not in accept:
            raise InputError(finding.line)


def check(read_as: Sequence[Interpretation], structures: Sequence[Structure], where: str) -> list[Finding]:
    """All findings about the labels of what was read, those that stop first."""
    found = _once([finding for one in read_as for finding in key_findings(one)])
    found += label_findings(read_as, structures, where)
    for alike in _by_units(read_as):
        files = {one.content.file for one in alike}
        of_files = [s for s in structures if len(read_as) == len(alike) or s.provenance.file in files]
        found += physics(alike, of_files, where if len(read_as) == len(alike) else _name(alike))
    return sorted(found, key=lambda finding: not finding.stops)


def _by_units(read_as: Sequence[Interpretation]) -> list[list[Interpretation]]:
    """Files that are read in the same units: physics is asked of each such group by itself."""
    groups: dict[tuple[tuple[str, str], ...], list[Interpretation]] = {}
    for one in read_as:
        groups.setdefault(tuple(sorted(one.names.items())), []).append(one)
    return list(groups.values())


def _name(read_as: Sequence[Interpretation]) -> str:
    first = read_as[0].content.file
    return first if len(read_as) == 1 else f"{first} and {len(read_as) - 1} more"


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that many files share, said of the first one."""
    alike: dict[tuple[str, bool, str], list[Finding]] = {}
    for finding in findings:
        said = re.sub(r"[\d.]+", "", finding.sentence.partition(": ")[2])
        alike.setdefault((finding.kind, finding.stops, said), []).append(finding)
    return [
        first if not more else replace(first, sentence=f"{first.sentence} (and so in {len(more)} other files)")
        for first, *more in alike.values()
    ]


def key_findings(one: Interpretation) -> Iterator[Finding]:
    """What a file's keys and the values under them say."""
    yield from _unread(one)
    yield from _levels(one)
    yield from _partial(one)
    yield from _virials(one)
    yield from _asymmetric(one)


def _unread(one: Interpretation) -> Iterator[Finding]:
    unit = one.names.get("forces", f"{one.names.get('energy', 'eV')}/{one.names.get('length', 'Å')}").removeprefix("-")
    for label, line in unread_labels(one.content, one.mapped, one.keys, unit).items():
        sentence, _, remedy = line.partition("; ")
        yield Finding("unread", sentence, remedy, stops=label in ("energy", "forces"))


def _levels(one: Interpretation) -> Iterator[Finding]:
    """Labels of the read kind under a second key, with other values."""
    if one.content.settled:
        return
    similar = lookalikes(one.frames, one.mapped)
    others: dict[str, str] = {}
    for label in ("energy", "forces"):
        if label in one.keys or not one.mapped[label]:
            continue
        read = one.mapped[label][0]
        for key in similar.get(label, []):
            if _differ(one.frames, read, key):
                others[label] = key
                break
    decisive = [
        label
        for label, key in others.items()
        if label == "forces" or _THEORY.search(key) or key.casefold() == one.mapped[label][0].casefold()
    ]
    if not decisive:
        return
    read = {label: one.mapped[label][0] for label in ("energy", "forces") if one.mapped[label]}
    listed = " and ".join(f"{label} under {read[label]} and {key}" for label, key in others.items())
    yield Finding(
        "levels",
        f"{one.content.file}: has {listed}, with other values: two levels of theory, or one of them written twice",
        f"say which is meant, with {keys_option(read)} or {keys_option({**read, **others})}",
        stops=True,
    )


def _differ(frames: Sequence[Frame], one: str, other: str) -> bool:
    """Whether two keys hold different numbers in a frame that has both."""
    for frame in frames[:_FRAMES]:
        a, b = frame.values.get(one), frame.values.get(other)
        if not (_numbers(a) and _numbers(b) and shape_of(a) == shape_of(b)):
            continue
        a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        both = np.isfinite(a) & np.isfinite(b)
        if both.any() and np.abs(a - b)[both].max() > _SAME * (1 + np.abs(a[both]).max()):
            return True
    return False


def _numbers(value: Any) -> bool:
    return is_number(value) or is_numeric(value)


def _partial(one: Interpretation) -> Iterator[Finding]:
    """Frames that lack the read key and have another that looks like the label."""
    similar = lookalikes(one.frames, one.mapped)
    for label in ("energy", "forces", "stress"):
        keys = one.mapped[label]
        if not keys or isinstance(one.keys.get(label, ""), (list, tuple)):
            continue
        without = [frame for frame in one.frames if not any(frame.values.get(key) is not None for key in keys)]
        for key in similar.get(label, []):
            count = sum(frame.values.get(key) is not None for frame in without)
            if count:
                yield Finding(
                    "partial",
                    f"{one.content.file}: {count} of {len(one.frames)} frames have no {keys[0]!r} but {key!r}, and "
                    f"would train without {label}",
                    f"read both with {keys_option({label: [*keys, key]})}",
                    stops=label != "stress",
                )
                break


def _virials(one: Interpretation) -> Iterator[Finding]:
    """Stress and virial of the same frames that are not each other's."""
    if not one.mapped["stress"] or "virial" in one.keys or "stress" in one.keys:
        return
    virial = next((key for key in ("virial", "virials") if any(key in frame.values for frame in one.frames)), None)
    if virial is None:
        return
    stress_key = one.mapped["stress"][0]
    worst, count = 0.0, 0
    for frame in one.frames[:_FRAMES]:
        stress, w = frame.values.get(stress_key), frame.values.get(virial)
        volume = volume_of(frame.cell) * one.units.length**3
        if stress is None or w is None or volume == 0:
            continue
        try:
            a = tensor_of(frame, "stress", one.mapped["stress"], stress, one.units.stress_order)
            b = tensor_of(frame, "virial", (virial,), w, one.units.stress_order)
        except InputError:  # of another shape: it is not read, and says nothing
            continue
        if a is None or b is None:
            continue
        a, b = a * one.units.stress, -b * one.units.virial / volume
        worst, count = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max(), 1e-9))), count + 1
    if worst > _VIRIAL:
        yield Finding(
            "virial",
            f"{one.content.file}: {stress_key} and {virial} contradict each other in {count} frames, by up to "
            f"{100 * worst:.3g} % of the larger (a virial is -V times the stress, positive in compression)",
            f"read one of them, with {keys_option({'stress': stress_key, 'virial': None})} or "
            f"{keys_option({'stress': None, 'virial': virial})}",
            stops=True,
        )


def _asymmetric(one: Interpretation) -> Iterator[Finding]:
    for label in ("stress", "virial"):
        if not one.mapped[label]:
            continue
        largest = 0.0
        for frame in one.frames:
            value = frame.values.get(one.mapped[label][0], np.zeros(0))
            if is_numeric(value) and value.size == 9 and np.isfinite(value).all():
                largest = max(largest, asymmetry(value.astype(np.float64).reshape(3, 3)))
        if largest > _ASYMMETRY:
            yield Finding(
                "asymmetry",
                f"{one.content.file}: {label} is not quite symmetric, by up to {100 * largest:.2g} % of its largest "
                "component: made symmetric",
            )


def label_findings(
    read_as: Sequence[Interpretation], structures: Sequence[Structure], where: str, coverage: bool = True
) -> Iterator[Finding]:
    """Labels that are NaN, stresses without a cell, and, with `coverage`, labels that only a part of the frames has."""
    nan: dict[str, int] = {}
    without_volume = 0
    for one in read_as:
        for frame in one.frames:
            for label in ("energy", "forces", "stress", "virial"):
                if _has_nan(frame.first(one.mapped[label])):
                    nan[label] = nan.get(label, 0) + 1
            stressed = frame.first(one.mapped["stress"] + one.mapped["virial"]) is not None
            without_volume += stressed and not (frame.pbc.any() and volume_of(frame.cell) > 0)
    total = sum(len(one.frames) for one in read_as)
    for label, count in nan.items():
        atoms = sum(int((~s.forced).sum()) for s in structures if s.forces is not None) if label == "forces" else 0
        some = f", {atoms} of their atoms alone" if atoms else ""
        yield Finding("missing", f"{where}: {label} is NaN in {count} of {total} frames{some}: taken as missing")
    if without_volume:
        yield Finding(
            "volume",
            f"{where}: {without_volume} of {total} frames have a stress but no periodic cell: their stress is left out",
        )
    n = max(len(structures), 1)
    for label in ("energy", "forces", "stress") if coverage else ():
        count = sum(getattr(s, label) is not None for s in structures)
        if 0 < count < n:
            yield Finding(
                "coverage", f"only {100 * count / n:.3g} % of the frames have {label}: the others train without"
            )


def _has_nan(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        sums_to_nan = value.dtype.kind == "f" and np.isnan(np.add.reduce(value, axis=None))
        return bool(sums_to_nan and np.isnan(value).any())
    return isinstance(value, (float, np.floating)) and bool(value != value)


def physics(read_as: Sequence[Interpretation], structures: Sequence[Structure], where: str) -> Iterator[Finding]:
    """What physics says of units, signs and stresses, asked of `SAMPLE` structures in runs of neighbours."""
    structures = sample(structures, SAMPLE)
    foreign = unit_findings(read_as, structures, where)
    yield from foreign
    if not foreign and any(s.forces is not None for s in structures):
        yield from _named_gradient(read_as, structures)
    yield from _stress(read_as, structures, where)


def unit_findings(read_as: Sequence[Interpretation], structures: Sequence[Structure], where: str) -> list[Finding]:
    """What physics says against the units or the sign that labels are read in."""
    names = read_as[0].names if read_as else {}
    structures = sample(structures, SAMPLE)
    if not any(s.energy is not None or s.forces is not None for s in structures):
        return []
    evidence = foreign_unit(structures, names)
    if evidence is None:
        return []
    kind = "sign" if evidence.sign else "units"
    other = f" (next best: {evidence.other})" if evidence.other and kind == "units" else ""
    kept = {name: unit for name, unit in names.items() if name not in ("energy", "length", "forces")}
    remedy = f"read it with {units_option({**kept, **evidence.mapping})}{other}"
    return [Finding(kind, f"{where}: {evidence.sentence}", remedy, stops=True)]


def _named_gradient(read_as: Sequence[Interpretation], structures: Sequence[Structure]) -> Iterator[Finding]:
    """A key that is named a gradient and read as forces, where physics does not say that it is forces."""
    for one in read_as:
        key = next((key for key in one.mapped["forces"] if is_gradient(key)), None)
        if key is None or one.units.forces < 0 or force_sign(structures) == 1:
            continue
        unit = one.names.get("forces", f"{one.names.get('energy', 'eV')}/{one.names.get('length', 'Å')}")
        yield Finding(
            "sign",
            f"{one.content.file}: {key!r} is named like a gradient, which has the opposite sign of forces",
            f"turn it with {units_option({**one.names, 'forces': f'-{unit}'})}",
            stops=True,
        )


def _stress(read_as: Sequence[Interpretation], structures: Sequence[Structure], where: str) -> Iterator[Finding]:
    solid = [s for s in structures if s.stress is not None and len(s) > 1]
    if not solid:
        return
    names = dict(read_as[0].names)
    label = "virial" if all(not one.mapped["stress"] for one in read_as) else "stress"
    fit = stress_consistency(solid)
    pressures = np.array([abs(np.trace(s.stress)) / 3 for s in solid if s.stress is not None])
    volumes = np.array([volume_of(s.cell) / len(s) for s in solid])
    clear = fit is not None and _beyond_chance(fit)
    stored = read_as[0].units.stress_order
    order = better_order(solid, stored) if label == "stress" and _six(read_as) else None
    if order is not None:
        yield Finding(
            "stress",
            f"{where}: the six components of stress fit the forces in the order of {ORDERS[order]} and not of "
            f"{ORDERS[stored]}",
            f"read it with {units_option({**names, 'stress_order': ORDERS[order]})}",
            stops=True,
        )
        return
    if clear and fit is not None and not 0.4 < fit.slope < 2.5:
        factor = read_as[0].units.stress if label == "stress" else read_as[0].units.virial
        unit = min(STRESS, key=lambda name: abs(np.log(abs(fit.slope) * STRESS[name] / abs(factor))))
        sign = "opposite" if fit.slope < 0 else "expected"
        negative = (fit.slope < 0) != (factor < 0)
        if label == "stress":
            remedy = units_option({**names, "stress": ("-" if negative else "") + unit})
        else:
            energy = names.get("virial", names.get("energy", "eV")).removeprefix("-")
            remedy = units_option({**names, "virial": ("-" if negative else "") + energy})
        looks = f", its unit looks like {unit}" if label == "stress" else ""
        yield Finding(
            "stress",
            f"{where}: {label} is {fit.slope:.3g} times that of a pair potential fitted to the forces: its sign is the "
            f"{sign} one{looks}",
            f"read it with {remedy}, or leave it with {keys_option({label: None})}",
            stops=True,
        )
    elif not clear and np.median(pressures * volumes) > PRESSURE:
        yield Finding(
            "pressure",
            f"{where}: the median pressure is {np.median(pressures) / GIGAPASCAL:.3g} GPa as {label} is read, and its "
            f"product with the volume {np.median(pressures * volumes):.3g} eV an atom: the unit is hardly "
            f"{names.get(label, 'eV' if label == 'virial' else 'eV/Å^3')}",
            f"read it with {units_option({**names, 'stress': '-kbar'})} (VASP) or "
            f"{units_option({**names, 'stress': 'GPa'})}, or leave it with {keys_option({label: None})}",
            stops=True,
        )


def _beyond_chance(fit: Consistency) -> bool:
    """Whether a correlation of at least 0.6 is four standard errors of Fisher's z from none."""
    r = min(abs(fit.correlation), 0.999)
    return r > 0.6 and np.arctanh(r) * np.sqrt(max(_COMPONENTS * fit.pairs - 3, 0)) > 4


def _six(read_as: Sequence[Interpretation]) -> bool:
    """Whether the stresses are stored as six components."""
    for one in read_as:
        for frame in one.frames[:10]:
            value = frame.first(one.mapped["stress"])
            if isinstance(value, np.ndarray) and value.size == 6:
                return True
    return False
