"""The architectures at a glance: what each is, who published it, its size, how far it sees, its laws, its speed.

Nothing here knows a model by name. Title and paper are the first paragraph of the model's file, "Title (paper).";
the published forms that break a law are the class's `published`; everything else is measured on the default model.
"""

from __future__ import annotations

import inspect
import json
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fireassay.data.graph import from_structures
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError, nearest
from fireassay.models import MODELS
from fireassay.potential import LocalPotential
from fireassay.progress import Progress, Silent, track
from fireassay.testing import LAWS

SPECIES = (1, 6, 7, 8)  # of the sizes and times
FRAME = "3bpa-xtb/ground_state"
FARTHEST = 14  # cutoffs, of the chain on which the reach is measured
_PUBLISHED = re.compile(r"(.*\S)\s+\(([^()]*)\)\.?", re.DOTALL)


@dataclass(frozen=True)
class Family:
    """One architecture with its constructor's defaults, for H, C, N and O."""

    name: str
    title: str
    paper: str  # authors, journal or identifier, year; empty when the file does not say
    module: str
    parameters: int  # trained
    cutoff: float  # Å
    layers_seen: int  # cutoffs that an atom's energy sees, one for a strictly local model; at most FARTHEST
    descriptors: int  # per atom
    laws: tuple[str, ...]  # of the contract, kept by default
    published: Mapping[str, Mapping[str, Any]]  # by law, the arguments that give a published form which breaks it
    arguments: Mapping[str, Any]
    milliseconds: float | None = None  # energy and forces of FRAME, of the frozen twin in float32


def families(names: Iterable[str] = (), timed: bool = False, progress: Progress | None = None) -> list[Family]:
    """The families of `names`, or all, in alphabetical order; with `timed` each is also timed on this machine.

    Raises InputError for a name that is not in MODELS.
    """
    chosen = sorted(set(names)) or sorted(MODELS)
    for name in chosen:
        if name not in MODELS:
            raise InputError(f"no model {name!r}{nearest(name, MODELS)}; known are {', '.join(MODELS)}")
    watched = track(chosen, len(chosen), "models", progress or Silent())
    return [_family(name, MODELS[name], timed) for name in watched]


def _family(name: str, model: type[LocalPotential], timed: bool) -> Family:
    title, paper = _heading(model)
    network = model(species=SPECIES)  # type: ignore[call-arg]
    cutoffs, descriptors = _reach(network)
    return Family(
        name=name,
        title=title,
        paper=paper,
        module=model.__module__,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        cutoff=network.cutoff,
        layers_seen=cutoffs,
        descriptors=descriptors,
        laws=tuple(law for law in LAWS if law != "reference"),
        published=model.published,
        arguments=network.arguments,
        milliseconds=_milliseconds(model(species=SPECIES)) if timed else None,  # type: ignore[call-arg]
    )


def _heading(model: type[LocalPotential]) -> tuple[str, str]:
    """Title and paper, from "Title (paper)." at the top of the model's file."""
    module = inspect.getmodule(model)
    text = " ".join((inspect.getdoc(module) or inspect.getdoc(model) or "").split("\n\n")[0].split())
    match = _PUBLISHED.fullmatch(text)
    return (match[1], match[2]) if match else (text.rstrip("."), "")


def _reach(network: LocalPotential) -> tuple[int, int]:
    """How many cutoffs away an atom can be that changes the energy of the first, and the descriptors of an atom.

    Measured on a zigzag chain in which an atom sees the next one only, with weights moved away from zeros that a model
    may start with. Changes `network`.
    """
    generator = torch.Generator().manual_seed(0)
    network.to(torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    step = 0.6 * network.cutoff
    along = np.arange(FARTHEST + 1)
    positions = np.array([0.87 * step * along, 0.5 * step * (along % 2), 0.05 * np.sin(along)]).T.astype(np.float64)
    graph = from_structures([Structure(np.resize(SPECIES, FARTHEST + 1), positions)], network.cutoff)
    leaf = graph.positions.clone().requires_grad_()
    energies, descriptors = network.local(graph._replace(positions=leaf))
    (gradient,) = torch.autograd.grad(energies[0], leaf)
    return int(gradient.abs().sum(1).nonzero().max()), descriptors.shape[1]


def _milliseconds(network: LocalPotential) -> float:
    """Median time of energy and forces of one frame, of the frozen twin in float32, on torch's number of threads."""
    twin = network.to(torch.float32).frozen()
    graph = from_structures(read(FRAME)[:1], network.cutoff, torch.float32)
    times: list[float] = []
    while len(times) < 4 or (sum(times) < 0.5 and len(times) < 100):
        begin = time.perf_counter()
        twin.predict(graph)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[1:])  # kernels are compiled or loaded in the first


def to_json(found: Sequence[Family]) -> str:
    """The families as JSON, with the frame and the number of threads of their times."""
    content = {"frame": FRAME, "threads": torch.get_num_threads(), "families": [asdict(family) for family in found]}
    return json.dumps(content, indent=1, ensure_ascii=False)


def to_text(found: Sequence[Family], details: bool = False) -> str:
    """The families as an aligned table; with `details` followed by a paragraph on each."""
    timed = any(family.milliseconds is not None for family in found)
    head = ["model", "parameters", "sees", "descriptors", *(["ms"] if timed else []), "published form breaks", "paper"]
    rows = [head, *(_row(family) for family in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [line for family in found for line in _details(family)] if details else []
    return "\n".join([*lines, "", *_notes(timed)])


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


def _notes(timed: bool) -> list[str]:
    notes = [
        f"Sizes: the defaults for {len(SPECIES)} elements. Sees: how far off another atom changes an atom's energy.",
        f"Laws: by default every model keeps all {len(LAWS) - 1} of the contract.",
    ]
    if timed:
        n_atoms, threads = len(read(FRAME)[0].atomic_numbers), torch.get_num_threads()
        notes.append(f"ms: energy and forces of {FRAME} ({n_atoms} atoms), float32, frozen, {threads} threads.")
    return notes


def _rounded(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.0f} k" if count >= 1e3 else str(count)
