"""The architectures at a glance: what each is, who published it, its size, how far it sees, its laws, its speed.

Nothing here knows a model by name: `measured_families` finds the facts, and `families.json` keeps them, so that a
listing answers at once. A model that is not in there, or whose file has changed since, is measured when it is listed;
`python -m fireassay.measured_families` writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fireassay.errors import InputError, nearest
from fireassay.progress import Progress, Silent, track

SPECIES: Final = (1, 6, 7, 8)  # of the sizes and times
FRAME: Final = "3bpa-xtb/ground_state"
STORED: Final = Path(__file__).with_name("families.json")


@dataclass(frozen=True)
class Family:
    """One architecture with its constructor's defaults, for H, C, N and O."""

    name: str
    title: str
    paper: str  # authors, journal or identifier, year; empty when the file does not say
    module: str
    parameters: int  # trained
    cutoff: float  # Å
    layers_seen: int  # cutoffs that an atom's energy sees, one for a strictly local model; at most 14
    descriptors: int  # per atom
    laws: Sequence[str]  # of the contract, kept by default
    published: Mapping[str, Mapping[str, Any]]  # by law, the arguments that give a published form which breaks it
    arguments: Mapping[str, Any]
    milliseconds: float | None = None  # energy and forces of FRAME, of the frozen twin in float32


def families(names: Iterable[str] = (), timed: bool = False, progress: Progress | None = None) -> list[Family]:
    """The families of `names`, or all, in alphabetical order; with `timed` each is also timed on this machine.

    Raises InputError for a name that is not in MODELS.
    """
    stored, wanted = stored_families(), set(names)
    if timed or not wanted <= set(stored) or None in stored.values() or not stored:
        from fireassay.models import MODELS  # takes seconds, with torch

        known = list(MODELS)
    else:
        known = list(stored)
    for name in wanted:
        if name not in known:
            raise InputError(f"no model {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    chosen = sorted(wanted or known)
    found = [None if timed else stored.get(name) for name in chosen]
    watched = zip(chosen, found, strict=True)
    if None in found:
        watched = track(watched, len(chosen), "models", progress or Silent())
    return [_measured(name, timed) if family is None else family for name, family in watched]


def _measured(name: str, timed: bool) -> Family:
    from fireassay.measured_families import measured

    return measured(name, timed)


def stored_families() -> dict[str, Family | None]:
    """The families that were measured by name, None where the file has changed; empty for another list of models."""
    try:
        content = json.loads(STORED.read_text(encoding="utf-8"))
        if content["models"] != hash_of("fireassay.models.__init__"):
            return {}
        rows = [(row["file"], Family(**row["family"])) for row in content["families"]]
        return {family.name: family if file == hash_of(family.module) else None for file, family in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def hash_of(module: str) -> str:
    """The first digits of the SHA-256 of a module's file in this package; empty when there is none."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def to_json(found: Sequence[Family]) -> str:
    """The families as JSON, with the frame and the number of threads of their times."""
    content = {"frame": FRAME, "threads": _threads(found), "families": [asdict(family) for family in found]}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _threads(found: Sequence[Family]) -> int | None:
    """The number of threads on which times were measured; None without times."""
    if all(family.milliseconds is None for family in found):
        return None
    import torch

    return torch.get_num_threads()


def to_text(found: Sequence[Family], details: bool = False) -> str:
    """The families as an aligned table; with `details` followed by a paragraph on each."""
    timed = any(family.milliseconds is not None for family in found)
    head = ["model", "parameters", "sees", "descriptors", *(["ms"] if timed else []), "published form breaks", "paper"]
    rows = [head, *(_row(family) for family in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [line for family in found for line in _details(family)] if details else []
    return "\n".join([*lines, "", *_notes(found)])


def _row(family: Family) -> list[str]:
    reach = f"{family.layers_seen} x {family.cutoff:g} Å"
    size = [_rounded(family.parameters), reach, str(family.descriptors)]
    time_of = [f"{family.milliseconds:.1f}"] if family.milliseconds is not None else []
    return [family.name, *size, *time_of, ", ".join(family.published) or "-", family.paper]


def _details(family: Family) -> list[str]:
    published = [f"{law} is broken by {_assigned(form)}" for law, form in family.published.items()]
    defaults = {name: value for name, value in family.arguments.items() if name not in ("species", "seed")}
    return ["", family.title, f"  {family.module}", f"  {_assigned(defaults)}", *(f"  {line}" for line in published)]


def _assigned(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())


def _notes(found: Sequence[Family]) -> list[str]:
    laws = len(set().union(*(family.laws for family in found)))
    notes = [
        f"Sizes: the defaults for {len(SPECIES)} elements. Sees: how far off another atom changes an atom's energy.",
        f"Laws: by default every model keeps all {laws} of the contract.",
    ]
    threads = _threads(found)
    if threads is not None:
        notes.append(f"ms: energy and forces of {FRAME} (27 atoms), float32, frozen, {threads} threads.")
    return notes


def _rounded(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.0f} k" if count >= 1e3 else str(count)
