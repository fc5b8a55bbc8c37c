"""An architecture beside its public implementation: same weights, same frames, same allocator, in turn.

    python benchmarks/architectures.py NAME [NAME ...] --reference-python VENV/bin/python [--threads 2] [--rounds 7]

Energy and forces of one and of ten frames of 3BPA and of a crystal of 200 atoms, and a training step (forward,
backward, Adam) of five frames, in float32. "frozen" is the twin for inference. The value, the sum of |force
components| or the mean squared force, must agree between the sides. Without --reference-python only our side runs.
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
from ase.build import bulk
from side_by_side import SIZES, TASKS, compare, serve, table

from fireassay.data.embedded import find
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.interop.mace_weights import copy_mace_torch
from fireassay.models import MODELS
from fireassay.models.mace import MACE

HERE = Path(__file__).resolve().parent
FRAMES = find("3bpa-xtb/train_300K")
COMMON: dict[str, Any] = {"species": [1, 6, 7, 8, 29], "cutoff": 5.0}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "allegro": {
        "n_layers": 2,
        "l_max": 2,
        "parity": True,
        "channels": 32,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "two_body_widths": [64, 64, 64],
        "latent_widths": [64, 64],
        "readout_hidden": [32],
        "readout_activation": None,
        "average_neighbours": 16.7,
        "two_body": "product",
        "own_edge": True,
        "update_ratio": [1.0, 2**-0.5],
    },
    "allegro-paper": {
        "n_layers": 2,
        "l_max": 2,
        "parity": True,
        "channels": 32,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "two_body_widths": [64, 64, 64],
        "latent_widths": [64, 64],
        "readout_hidden": [32],
        "readout_activation": None,
        "average_neighbours": 16.7,
    },
    "allegro-egraffbench": {
        "n_layers": 2,
        "l_max": 2,
        "parity": True,
        "channels": 64,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "two_body_widths": [128, 256, 512, 1024],
        "latent_widths": [1024, 1024, 1024],
        "readout_hidden": [128],
        "readout_activation": None,
        "average_neighbours": 16.7,
    },
    "botnet-32": {
        "n_layers": 5,
        "l_max": 3,
        "hidden_l_max": 3,
        "parity": False,
        "channels": 32,
        "n_basis": 8,
        "trainable_bessel": False,
        "envelope_p": 6,
        "radial_hidden": [64, 64, 64],
        "readout_hidden": 16,
        "average_neighbours": 16.7,
        "element_dependent": False,
        "residual_first": False,
    },
    "botnet-egraffbench": {
        "n_layers": 5,
        "l_max": 3,
        "hidden_l_max": 2,
        "parity": False,
        "channels": 16,
        "n_basis": 8,
        "trainable_bessel": False,
        "envelope_p": 5,
        "radial_hidden": [64, 64, 64],
        "readout_hidden": 16,
        "average_neighbours": 16.7,
        "element_dependent": False,
        "residual_first": False,
    },
    "equiformer": {
        "irreps": "128x0e+64x1e+32x2e",
        "irreps_head": "32x0e+16x1e+8x2e",
        "irreps_ffn": "384x0e+192x1e+96x2e",
        "parity": False,
        "n_layers": 6,
        "n_heads": 4,
        "feature_channels": 512,
        "n_basis": 32,
        "radial_hidden": [64, 64],
        "average_neighbours": 15.57930850982666,
        "smooth": False,
    },
    "dimenetpp": {
        "n_layers": 4,
        "channels": 128,
        "interaction_channels": 64,
        "basis_channels": 8,
        "l_max": 6,
        "n_basis": 6,
        "trainable_bessel": True,
        "envelope_p": 6,
        "n_before_skip": 1,
        "n_after_skip": 2,
        "readout_hidden": [256, 256, 256],
    },
    "mace-32": {
        "n_layers": 2,
        "l_max": 3,
        "channels": 32,
        "hidden_l_max": 1,
        "correlation": 3,
        "n_basis": 8,
        "trainable_bessel": False,
        "envelope_p": 5,
        "radial_hidden": [64, 64, 64],
        "readout_hidden": 16,
        "average_neighbours": 16.7,
        "residual_first": False,
    },
    "mace-64": {
        "n_layers": 2,
        "l_max": 3,
        "channels": 64,
        "hidden_l_max": 2,
        "correlation": 3,
        "n_basis": 8,
        "trainable_bessel": False,
        "envelope_p": 5,
        "radial_hidden": [64, 64, 64],
        "readout_hidden": 16,
        "average_neighbours": 16.7,
        "residual_first": False,
    },
    "nequip": {
        "n_layers": 5,
        "l_max": 2,
        "parity": True,
        "channels": 32,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "radial_hidden": [64, 64],
        "readout_hidden": [16],
        "readout_activation": None,
        "average_neighbours": 16.7,
    },
    "painn": {
        "n_layers": 3,
        "channels": 128,
        "n_basis": 20,
        "basis": "sine",
        "readout_hidden": [64],
        "epsilon": 1e-8,
    },
    "so3krates": {
        "n_layers": 3,
        "degrees": [1, 2, 3],
        "channels": 132,
        "n_heads": 4,
        "n_basis": 32,
        "envelope_p": None,
        "radial_hidden": [132],
        "spherical_hidden": [33],
        "residual_attention": False,
        "residual_update": False,
        "layer_norm": False,
        "initial_chi": "zeros",
        "readout_hidden": [132],
        "average_neighbours": 16.7,
    },
    "so3krates-tea": {
        "n_layers": 3,
        "degrees": [1, 2, 3, 4],
        "channels": 128,
        "n_heads": 4,
        "n_basis": 32,
        "envelope_p": None,
        "radial_hidden": [128],
        "spherical_hidden": [32],
        "residual_attention": True,
        "residual_update": True,
        "layer_norm": False,
        "initial_chi": "zeros",
        "readout_hidden": [128],
        "average_neighbours": 16.7,
    },
    "torchmd_et": {
        "n_layers": 6,
        "channels": 128,
        "n_heads": 8,
        "n_basis": 32,
        "trainable_basis": False,
        "smooth": False,
        "epsilon": 0.0,
    },
    "physnet": {
        "short_cutoff": None,
        "n_layers": 5,
        "channels": 128,
        "n_basis": 64,
        "residual_atomic": 2,
        "residual_interaction": 3,
        "residual_output": 1,
        "electrostatics": True,
        "charge_conservation": "total",
        "total_charge": 0.0,
        "dispersion": True,
        "dispersion_coefficients": [1.0, 0.9171, 0.3385, 2.8830],
        "trainable_dispersion": True,
    },
}


def _model(name: str) -> str:
    """The architecture of a size, "mace" of "mace-64"."""
    return name.split("-")[0]


def ours(name: str, weights: Path, frames: Path, frozen: bool) -> None:
    """Serves the tasks with our model."""
    arguments = json.loads(weights.with_suffix(".json").read_text())
    trained = MODELS[_model(name)](**arguments)
    if weights.exists():
        with np.load(weights) as archive:
            state = {key: torch.from_numpy(archive[key]) for key in archive.files}
        copy_mace_torch(trained, state) if isinstance(trained, MACE) else trained.load_state_dict(state)
    model = trained.frozen() if frozen else trained
    read = [Structure(a.numbers.astype(np.int64), a.positions, a.cell.array, a.pbc) for a in ase.io.iread(frames, ":")]
    graphs = {task: from_structures(read[SIZES[task]], arguments["cutoff"], torch.float32) for task in TASKS}
    optimiser = torch.optim.Adam(trained.parameters(), lr=0.0)

    def energy_and_forces(task: str) -> float:
        forces = model.predict(graphs[task]).forces
        assert forces is not None
        return forces.abs().sum().item()

    def train(task: str) -> float:
        prediction = trained.predict(graphs[task], differentiable=True)
        assert prediction.forces is not None
        optimiser.zero_grad(set_to_none=True)
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
        optimiser.step()
        return prediction.forces.detach().square().mean().item()

    serve({task: lambda task=task: (train if "training" in task else energy_and_forces)(task) for task in TASKS})


def measure(name: str, options: argparse.Namespace) -> None:
    """Prints the table of one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        weights, frames = Path(folder) / "weights.npz", Path(folder) / "frames.xyz"
        weights.with_suffix(".json").write_text(json.dumps({**COMMON, **ARGUMENTS[name]}))
        crystal = bulk("Cu", cubic=True) * (5, 5, 2)
        crystal.rattle(0.1, seed=0)
        ase.io.write(frames, [*ase.io.iread(options.frames, ":10"), crystal], format="extxyz")
        me = [sys.executable, str(HERE / "architectures.py"), name, "--serve", str(weights), str(frames)]
        commands = {"fireassay": [*me, "trained"], "fireassay frozen": [*me, "frozen"]}
        if options.reference_python:
            script = str(HERE / f"reference_{_model(name)}.py")
            files = [str(weights.with_suffix(".json")), str(weights), str(frames)]
            recording = HERE.parent / "tests" / "reference"
            theirs = ["env", f"PYTHONPATH={recording}", options.reference_python, "-W", "ignore", script, *files]
            compare({"public": theirs}, TASKS[:1], rounds=0, threads=options.threads, repetitions=1)  # weights
            commands = {"public": theirs, **commands}
        training = [task for task in TASKS if "training" in task]
        inference = [task for task in TASKS if task not in training]
        results = compare(commands, inference, options.rounds, options.threads)
        commands.pop("fireassay frozen")
        results.update(compare(commands, training, options.rounds, options.threads))
    print(f"## {name} {ARGUMENTS[name]}", table(results, "public"), sep="\n")
    for task, sides in results.items():
        print(task, {side: entry["value"] for side, entry in sides.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(ARGUMENTS), metavar="NAME")
    parser.add_argument("--reference-python", help="an interpreter that has the public package")
    parser.add_argument("--frames", type=Path, default=FRAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=3, metavar=("WEIGHTS", "FRAMES", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        weights, frames, kind = options.serve
        ours(options.names[0], Path(weights), Path(frames), kind == "frozen")
        return
    for name in options.names:
        measure(name, options)


if __name__ == "__main__":
    main()
