"""MACE beside the public package: same weights, same frames, same allocator, in turn.

    python benchmarks/mace.py --reference-python VENV/bin/python [--frames FILE.xyz] [--threads 2] [--rounds 7]

Energy and forces of one frame and of a batch of ten, and a training step (forward, backward, Adam) with a batch of
five, in float32: 2 layers, l_max 3, correlation 3, cutoff 5 Å, 32x0e+32x1o and 64x0e+64x1o+64x2e. "frozen" is the twin
for inference. The value, the sum of |force components| or the loss, must agree between the sides.
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

from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.models.mace import MACE, copy_mace_torch

HERE = Path(__file__).resolve().parent
FRAMES = HERE.parents[1] / "shared" / "data" / "3bpa" / "train_300K.xyz.xz"
SIZES = {"32x0e+32x1o": (32, 1), "64x0e+64x1o+64x2e": (64, 2)}
TASKS = ("one frame", "batch of 10", "training step of 5")


def arguments(channels: int, hidden_l_max: int) -> dict[str, Any]:
    """The model that both sides build."""
    return {
        "species": [1, 6, 7, 8],
        "cutoff": 5.0,
        "n_layers": 2,
        "l_max": 3,
        "channels": channels,
        "hidden_l_max": hidden_l_max,
        "correlation": 3,
        "n_basis": 8,
        "trainable_bessel": False,
        "envelope_p": 5,
        "radial_hidden": [64, 64, 64],
        "readout_hidden": 16,
        "average_neighbours": 16.7,
        "residual_first": False,
    }


def ours(weights: Path, frames: Path, frozen: bool) -> None:
    """Serves the tasks with our model."""
    given = json.loads(weights.with_suffix(".json").read_text())
    trained = MACE(**given)
    if weights.exists():
        with np.load(weights) as archive:
            copy_mace_torch(trained, {name: torch.from_numpy(archive[name]) for name in archive.files})
    model = trained.frozen() if frozen else trained
    read = [Structure(a.numbers.astype(np.int64), a.positions) for a in ase.io.read(frames, ":10")]
    graphs = {count: from_structures(read[:count], given["cutoff"], torch.float32) for count in (1, 5, 10)}
    optimiser = torch.optim.Adam(trained.parameters(), lr=0.0)

    def evaluate(count: int) -> float:
        return model.predict(graphs[count]).forces.abs().sum().item()

    def train() -> float:
        prediction = trained.predict(graphs[5], differentiable=True)
        loss = prediction.energy.square().mean() + prediction.forces.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    serve(dict(zip(TASKS, (lambda: evaluate(1), lambda: evaluate(10), train), strict=True)))


def measure(size: str, options: argparse.Namespace) -> None:
    """Prints the table of one size of the model."""
    with tempfile.TemporaryDirectory() as folder:
        weights, frames = Path(folder) / "weights.npz", Path(folder) / "frames.xyz"
        weights.with_suffix(".json").write_text(json.dumps(arguments(*SIZES[size])))
        ase.io.write(frames, ase.io.read(options.frames, ":10"), format="extxyz")
        me = [sys.executable, str(HERE / "mace.py"), "--frames", str(frames), "--serve", str(weights)]
        commands = {"fireassay": [*me, "trained"], "fireassay frozen": [*me, "frozen"]}
        if options.reference_python:
            script = [options.reference_python, "-P", "-W", "ignore", str(HERE / "reference_mace.py")]
            theirs = [*script, str(weights.with_suffix(".json")), str(weights), str(frames)]
            compare({"mace-torch": theirs}, TASKS[:1], rounds=0, threads=options.threads, repetitions=1)
            commands = {"mace-torch": theirs, **commands}
        print(f"\n{size}\n", flush=True)
        for task in options.tasks:
            if task == TASKS[2]:
                commands.pop("fireassay frozen", None)
            results = compare(commands, [task], options.rounds, options.threads)
            values = {side: entry["value"] for side, entry in results[task].items()}
            print(f"{table(results, 'mace-torch')}\n\n{task}: {values}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", help="an interpreter with mace-torch 0.3.16")
    parser.add_argument("--frames", type=Path, default=FRAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--serve", nargs=2, metavar=("WEIGHTS", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        ours(Path(options.serve[0]), options.frames, options.serve[1] == "frozen")
        return
    for size in options.sizes:
        measure(size, options)


if __name__ == "__main__":
    main()
