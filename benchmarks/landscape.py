"""Grid points of a loss landscape, beside evaluating them one by one through the training's data loader.

    python benchmarks/landscape.py [--reference-python VENV/bin/python] [--model nequip] [--count 100] [--threads 2]

One task, the two losses of the training set at one displaced set of weights, in float32, done by the assay; by a loop
that loads the displaced weights and predicts the batches of five of the training's loader, as a training pass does up
to its backward pass; and by the public package with its own collation of the same batches. All sides share weights,
frames, allocator and threads. The value, the RMSE of the forces, must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from side_by_side import compare, serve, table

from architectures import ARGUMENTS
from fireassay.assays.directions import draw, flat, like, weights_of
from fireassay.assays.landscape import LandscapeSettings, TrainingLoss
from fireassay.assays.predictions import cut
from fireassay.data.datasets import Dataset
from fireassay.data.embedded import find
from fireassay.data.readers import read
from fireassay.models.mace import MACE
from fireassay.models.nequip import NequIP
from fireassay.potential import LocalPotential

HERE = Path(__file__).resolve().parent
FRAMES = find("3bpa-xtb/train_300K")
MOLECULE: dict[str, Any] = {"species": [1, 6, 7, 8], "cutoff": 5.0}
MODELS: dict[str, tuple[type[LocalPotential], dict[str, Any]]] = {
    "nequip": (NequIP, {**MOLECULE, **ARGUMENTS["nequip"]}),
    "mace": (MACE, {**MOLECULE, **ARGUMENTS["mace-32"]}),
}
BATCH = 5


def potential_of(name: str, weights: Path) -> LocalPotential:
    """The model, with the weights of the file where there is one."""
    kind, arguments = MODELS[name]
    potential = kind(**arguments)
    if weights.exists():
        with np.load(weights) as archive:
            potential.load_state_dict({key: torch.from_numpy(archive[key]) for key in archive.files})
    return potential.float()


def ours(name: str, weights: Path, frames: Path, side: str) -> None:
    """Serves the grid point at t = 0.01 by the assay's means or by the training's."""
    potential = potential_of(name, weights)
    dataset = Dataset(read(frames), potential.cutoff)
    moved = weights_of(potential)
    centre = flat([w.parameter for w in moved])
    direction = draw(moved, "filter", 1, torch.Generator().manual_seed(0))[0][0]
    state = {key: value.clone() for key, value in potential.state_dict().items()}
    settings = LandscapeSettings()
    groups = cut(dataset, settings.max_edges, settings.max_structures)
    loss = TrainingLoss(potential, [dataset.select(g, torch.float32) for g in groups], twin=side == "twin")

    @torch.no_grad()
    def place(values: list[torch.Tensor]) -> None:
        for weight, value in zip(moved, values, strict=True):
            weight.parameter.copy_(value)

    def assay() -> float:
        place(like(centre + 0.01 * direction, moved))
        return loss()[1]

    def loader() -> float:
        potential.load_state_dict(state)
        place(like(centre + 0.01 * direction, moved))
        squares, count = 0.0, 0
        for group in dataset.batches_by_size(BATCH):
            batch = dataset.select(group, torch.float32)
            found = potential.predict(batch.graph, differentiable=True)
            assert found.forces is not None
            squares += (found.forces - batch.labels.forces).square().sum().item()
            count += batch.labels.forces.numel()
        return (squares / count) ** 0.5

    if side != "loader":
        potential.requires_grad_(False)
    serve({"grid point": loader if side == "loader" else assay})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="nequip")
    parser.add_argument("--reference-python", help="an interpreter with nequip 0.19.1, for --model nequip")
    parser.add_argument("--frames", type=Path, default=FRAMES)
    parser.add_argument("--count", type=int, default=100, help="number of training frames")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, metavar=("WEIGHTS", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        ours(options.model, Path(options.serve[0]), options.frames, options.serve[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        weights, frames = Path(folder) / "weights.npz", Path(folder) / "frames.xyz"
        ase.io.write(frames, ase.io.read(options.frames, f":{options.count}"), format="extxyz")
        me = [sys.executable, str(HERE / "landscape.py"), "--model", options.model, "--frames", str(frames)]
        commands = {side: [*me, "--serve", str(weights), side] for side in ("loader", "assay", "twin")}
        if options.reference_python:
            arguments = weights.with_suffix(".json")
            arguments.write_text(json.dumps(MODELS[options.model][1]))
            script = [options.reference_python, "-P", "-W", "ignore", str(HERE / "reference_landscape.py")]
            theirs = [*script, str(arguments), str(weights), str(frames), str(BATCH)]
            compare({"public": theirs}, ["grid point"], rounds=0, threads=options.threads, repetitions=1)
            commands = {"public": theirs, **commands}
        results = compare(commands, ["grid point"], options.rounds, options.threads, repetitions=1)
    print(f"{options.model}, {options.count} frames, {options.threads} threads")
    print(table(results, "loader"))
    for task, sides in results.items():
        print(task, {side: entry["value"] for side, entry in sides.items()})


if __name__ == "__main__":
    main()
