"""The public package's side of benchmarks/architectures.py: what its scripts reference_NAME.py share.

Such a script is run by an interpreter that has the package and not necessarily fireassay:

    PYTHONPATH=tests/reference PYTHON -W ignore benchmarks/reference_NAME.py ARGUMENTS.json WEIGHTS.npz FRAMES.xyz

It calls `run` with three functions. `build(arguments)` makes the public model in float32 from the arguments of ours,
and its weights under our names; `prepare(frames, arguments)` makes the package's batch, neighbour list included;
`evaluate(model, batch, training)` gives energies (S,) and forces (N, 3), differentiable when training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from side_by_side import SIZES, TASKS, serve

Arguments = Mapping[str, Any]


def run(
    build: Callable[[Arguments], tuple[torch.nn.Module, Mapping[str, np.ndarray]]],
    prepare: Callable[[Sequence[Atoms], Arguments], Any],
    evaluate: Callable[[torch.nn.Module, Any, bool], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Writes the weights and serves the tasks of `side_by_side.TASKS`."""
    arguments, weights, frames = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
    model, state = build(arguments)
    np.savez(weights, **{name: np.asarray(value) for name, value in state.items()})
    read = ase.io.read(frames, ":")
    assert isinstance(read, list)
    for atoms in read:
        atoms.calc = None
    batches = {task: prepare(read[SIZES[task]], arguments) for task in TASKS}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)

    def energy_and_forces(task: str) -> float:
        return evaluate(model, batches[task], False)[1].detach().abs().sum().item()

    def train(task: str) -> float:
        energy, forces = evaluate(model, batches[task], True)
        optimiser.zero_grad(set_to_none=True)
        (energy.square().mean() + forces.square().mean()).backward()
        optimiser.step()
        return forces.detach().square().mean().item()

    serve({task: lambda task=task: (train if "training" in task else energy_and_forces)(task) for task in TASKS})
