"""Molecular dynamics of 30 replicas of 3BPA, beside the public MACE calculator under ASE.

    python benchmarks/md.py --reference-python VENV/bin/python [--frames FILE.xyz] [--threads 2] [--rounds 3]

The protocol of the stability assay (Berendsen, 1 fs, all failure criteria, temperatures and last frames recorded) with
a MACE of 64x0e+64x1o+64x2e, 2 layers, l_max 3, correlation 3, cutoff 5 Å, float32, of random weights that both sides
share. Ours moves all replicas at once, the public one the first of them. The number to compare is replica-steps per
second; the value, Σ|x| of the first replica after the steps, must agree. Also the time that everything but the
potential takes: its share, and, with a potential that costs nothing, its absolute size per step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from side_by_side import compare, serve

from architectures import ARGUMENTS, FRAMES
from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.interop.mace_weights import copy_mace_torch
from fireassay.models.mace import MACE
from fireassay.potential import Prediction, Predictor
from fireassay.simulation.criteria import ClosestApproach, EnergyJump, TemperatureRange, bond_criterion
from fireassay.simulation.observers import LastFrames, Recorder
from fireassay.simulation.run import Simulation, simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate
from fireassay.simulation.thermostats import Berendsen

HERE = Path(__file__).resolve().parent
TASK = "molecular dynamics"
TEMPERATURE = 300.0


class Frozen:
    """A potential's equivalent for inference, made once and not at the start of every run."""

    def __init__(self, potential: MACE) -> None:
        self.inner, self.cutoff, self.dtype = potential.frozen(), potential.cutoff, torch.float32
        self.species = potential.species

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        """What the potential says."""
        return self.inner.predict(graph.to(dtype=self.dtype), forces, stress)


class Springs:
    """Every atom on a spring: forces for the price of a subtraction."""

    cutoff, species, dtype = 5.0, None, torch.float64

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        """Energy and forces of the springs."""
        moved = graph.positions - self.positions
        return Prediction(graph.positions.new_zeros(graph.n_structures), -10 * moved)


def start_of(frames: Path, replicas: int) -> tuple[Structure, State]:
    """The first frame, and its replicas with velocities; ASE counts 3n degrees of freedom, so here, too."""
    atoms = next(ase.io.iread(frames, "0"))
    structure = Structure(atoms.numbers.astype(np.int64), atoms.positions)
    state = maxwell_boltzmann(replicate(structure, replicas), TEMPERATURE, generators(0, replicas), rotation=True)
    return structure, state._replace(degrees_of_freedom=torch.full_like(state.degrees_of_freedom, 3 * len(structure)))


def dynamics(potential: Predictor, structure: Structure, state: State, steps: int, max_edges: int | None) -> Simulation:
    """`steps` steps as in the stability assay, with nothing that could fail switched off."""
    bonds = bond_criterion([structure] * state.n_replicas, state, 5.0)
    limits = [ClosestApproach(0.1), TemperatureRange(0.0, 1e6), EnergyJump(100.0)]
    return simulate(
        potential,
        state,
        Berendsen(1.0, TEMPERATURE, 250.0),
        steps,
        criteria=[bonds, *limits] if bonds is not None else limits,
        observers=[Recorder(10, ("temperature", "potential_energy")), LastFrames()],
        max_edges=max_edges,
    )


def ours(weights: Path, options: argparse.Namespace) -> None:
    """Serves the task."""
    model = MACE(**json.loads(weights.with_suffix(".json").read_text())).float()
    if weights.exists():
        with np.load(weights) as archive:
            copy_mace_torch(model, {name: torch.from_numpy(archive[name]) for name in archive.files})
    structure, state = start_of(options.frames, options.replicas)
    frozen = Frozen(model)

    def run() -> dict[str, Any]:
        done = dynamics(frozen, structure, state, options.steps, options.max_edges)
        first = done.state.positions[: len(structure)]
        return {"value": float(first.abs().sum()), "share": 1 - done.force_seconds / done.seconds}

    serve({TASK: run})


def overhead(options: argparse.Namespace) -> tuple[float, float]:
    """CPU ms per step of everything but the potential, and neighbour rebuilds per step, without a network."""
    structure, state = start_of(options.frames, options.replicas)
    springs = Springs(state.positions)
    dynamics(springs, structure, state, 50, None)
    begin = time.process_time()
    done = dynamics(springs, structure, state, 1000, None)
    return time.process_time() - begin - done.force_seconds, done.rebuilds / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", help="an interpreter with mace-torch 0.3.16")
    parser.add_argument("--frames", type=Path, default=FRAMES)
    parser.add_argument("--replicas", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--max-edges", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        ours(options.serve, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights, frames, start = (Path(folder) / name for name in ("weights.npz", "frames.xyz", "start.npz"))
        weights.with_suffix(".json").write_text(
            json.dumps({"species": [1, 6, 7, 8], "cutoff": 5.0, **ARGUMENTS["mace-64"]})
        )
        ase.io.write(frames, ase.io.read(options.frames, ":1"), format="extxyz")
        structure, state = start_of(frames, options.replicas)
        one = {"atomic_numbers": structure.atomic_numbers, "positions": structure.positions}
        np.savez(start, **one, velocities=state.velocities[: len(structure)].numpy(), temperature=TEMPERATURE)
        same = ["--frames", frames, "--replicas", options.replicas, "--steps", options.steps]
        me = [sys.executable, HERE / "md.py", "--serve", weights, "--max-edges", options.max_edges, *same]
        commands = {"fireassay": [str(part) for part in me]}
        if options.reference_python:
            script = [options.reference_python, "-P", "-W", "ignore", HERE / "reference_md.py"]
            theirs = [str(part) for part in (*script, weights.with_suffix(".json"), weights, start, options.steps)]
            compare({"mace-torch": theirs}, [TASK], rounds=0, threads=options.threads, repetitions=1)
            commands = {"mace-torch under ASE": theirs, **commands}
        sides = compare(commands, [TASK], options.rounds, options.threads, repetitions=1)[TASK]
    print(
        "| side | replicas | replica-steps/s | by CPU time | Σ|x| of the first | peak MiB |\n|---|---|---|---|---|---|"
    )
    for side, entry in sides.items():
        own = side == "fireassay"
        replicas = options.replicas if own else 1
        count = options.steps * replicas
        value = entry["value"]["value"] if own else entry["value"]
        wall, cpu = 1e3 * count / entry["ms"], 1e3 * count / entry["cpu"]
        print(f"| {side} | {replicas} | {wall:.1f} | {cpu:.1f} | {value:.5f} | {entry['peak']:.0f} |")
    cost, rebuilds = overhead(options)
    print(f"\nshare of the time outside the potential: {100 * sides['fireassay']['value']['share']:.1f} %")
    print(f"outside a potential that costs nothing: {cost:.3f} ms per step, {rebuilds:.2f} rebuilds per step")


if __name__ == "__main__":
    main()
