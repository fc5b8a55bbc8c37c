"""Facts about the architectures, measured on their defaults; run as a module it stores them for the listing.

Title and paper are the first paragraph of the model's file, "Title (paper)."; the published forms that break a law are
the class's `published`.
"""

from __future__ import annotations

import inspect
import json
import re
import statistics
import time
from dataclasses import asdict

import numpy as np
import torch

from fireassay.data.graph import from_structures
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.families import FRAME, SPECIES, STORED, Family, hash_of
from fireassay.models import MODELS
from fireassay.potential import LocalPotential
from fireassay.testing import LAWS

FARTHEST = 14  # cutoffs, of the chain on which the reach is measured
_PUBLISHED = re.compile(r"(.*\S)\s+\(([^()]*)\)\.?", re.DOTALL)


def measured(name: str, timed: bool = False) -> Family:
    """A family with what its class says and its default network shows; with `timed` also its speed here."""
    model = MODELS[name]
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
        laws=[law for law in LAWS if law != "reference"],
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


def stored() -> str:
    """The text of `families.json` as it should be."""
    rows = [{"file": hash_of(MODELS[name].__module__), "family": asdict(measured(name))} for name in sorted(MODELS)]
    content = {"models": hash_of("fireassay.models.__init__"), "families": rows}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    STORED.write_text(stored(), encoding="utf-8")
