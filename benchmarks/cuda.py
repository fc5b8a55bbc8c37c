"""Everything on a GPU, in under eight minutes: the tests of tests/gpu, then times of every architecture.

    python benchmarks/cuda.py [--output FOLDER] [--minutes 7.5] [--device cuda] [--dtype float32] [--models mace nequip]

Times are medians on random weights, with the device synchronised: energy and forces of one frame of 3BPA, of ten, and
of a copper crystal of 256 atoms; a training step (forward, backward, Adam) of five frames; molecular dynamics of 30
replicas of 3BPA in replica-steps per second, "frozen" the twin for inference. MACE stands beside mace-torch in eager
mode where that is installed. FOLDER gets cuda.md, a table for the docs, and cuda.json. What the time did not suffice
for is said. With --device cpu the script tries itself.
"""

from __future__ import annotations

if __name__ == "cuda":  # torch looks for a package of this name, and beside another benchmark it would find this file
    raise ImportError("benchmarks/cuda.py is a script")

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# torch imports a package called cuda, which this file must not be.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from ase.build import bulk

import fireassay
from fireassay.data.datasets import Batch, Dataset
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.interop.ase import structure_of
from fireassay.models import MODELS
from fireassay.potential import Potential
from fireassay.simulation.integrators import VelocityVerlet
from fireassay.simulation.run import simulate
from fireassay.simulation.state import generators, maxwell_boltzmann, replicate

ROOT = Path(__file__).resolve().parent.parent
SPECIES = [1, 6, 7, 8, 29]
CUTOFF = 5.0
# Sizes that people train; the others are the constructor's defaults, those of the papers.
SIZES: dict[str, dict[str, Any]] = {
    "mace": {"channels": 64, "l_max": 3, "hidden_l_max": 2, "correlation": 3, "n_layers": 2},
    "nequip": {"channels": 32, "l_max": 2, "n_layers": 5},
}
TASKS = ("one frame", "batch of 10", "crystal of 256", "training step of 5", "MD of 30, frozen")


@dataclass
class Clock:
    """What is left of the time."""

    minutes: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return 60 * self.minutes - (time.monotonic() - self.began)


def frames() -> dict[str, list[Structure]]:
    """The frames of each task."""
    molecules = read("3bpa-xtb/train_300K")[:10]
    atoms = bulk("Cu", cubic=True).repeat((4, 4, 4))
    atoms.rattle(0.05, seed=0)
    return {
        "one frame": molecules[:1],
        "batch of 10": molecules,
        "crystal of 256": [structure_of(atoms)],
        "training step of 5": [
            Structure(s.atomic_numbers, s.positions, energy=s.energy, forces=s.forces) for s in molecules[:5]
        ],
    }


def median_ms(work: Callable[[], object], device: torch.device, seconds: float = 1.0) -> float:
    """Median time in ms of repeated calls, after three that are not counted."""

    def timed() -> float:
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - began

    for _ in range(3):
        timed()
    times = [timed()]
    while sum(times) < seconds and len(times) < 200:
        times.append(timed())
    return 1e3 * statistics.median(times)


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_step(
    model: torch.nn.Module, predict: Callable[[], tuple[torch.Tensor, torch.Tensor]]
) -> Callable[[], None]:
    """A step of Adam on the sum of energies and the mean square of the forces."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-6)

    def step() -> None:
        energy, forces = predict()
        optimiser.zero_grad(set_to_none=True)
        (energy.sum() + forces.square().mean()).backward()
        optimiser.step()

    return step


def own(name: str, device: torch.device, dtype: torch.dtype, data: Mapping[str, list[Structure]], clock: Clock) -> dict:
    """Our times of one architecture: ms by task, replica-steps per second of MD, peak memory in MiB."""
    model: Potential = MODELS[name](species=SPECIES, cutoff=CUTOFF, **SIZES.get(name, {})).to(device, dtype)  # type: ignore[call-arg]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    for task, structures in data.items():
        if clock.left < 5:
            return found
        dataset = Dataset(structures, model.cutoff)
        batch: Batch = dataset.select(range(len(dataset)), dtype, device)
        if task.startswith("training"):

            def predict(batch: Batch = batch) -> tuple[torch.Tensor, torch.Tensor]:
                p = model.predict(batch.graph, differentiable=True)
                assert p.forces is not None
                return p.energy, p.forces

            found[task] = median_ms(training_step(model, predict), device)
        else:
            found[task] = median_ms(lambda batch=batch: model.predict(batch.graph), device)
    if clock.left > 15:
        found[TASKS[-1]] = replica_steps(model, data["one frame"][0], device)
    if device.type == "cuda":
        found["peak MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def replica_steps(
    model: Potential, start: Structure, device: torch.device, replicas: int = 30, steps: int = 50
) -> float:
    """Replica-steps per second of molecular dynamics at 50 K with the frozen twin; the first steps are not counted."""
    state = maxwell_boltzmann(replicate(start, replicas, device=device), 50.0, generators(0, replicas))
    simulate(model, state, VelocityVerlet(0.1), 5)
    done = simulate(model, state, VelocityVerlet(0.1), steps)
    return done.replica_steps / done.seconds


def mace_torch(
    device: torch.device, dtype: torch.dtype, data: Mapping[str, list[Structure]]
) -> dict[str, float] | None:
    """The same sizes in mace-torch, eager; None where it is not installed."""
    try:
        from mace import data as mace_data  # noqa: I001 - mace before e3nn
        from mace import modules
        from mace.tools import AtomicNumberTable, torch_geometric
        from ase import Atoms
        from e3nn import o3
    except ImportError:
        return None
    torch.set_default_dtype(dtype)
    size, table = SIZES["mace"], AtomicNumberTable(SPECIES)
    irreps = "+".join(f"{size['channels']}x{l}{'eo'[l % 2]}" for l in range(size["hidden_l_max"] + 1))  # noqa: E741
    model = modules.MACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=size["l_max"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=size["n_layers"],
        num_elements=len(SPECIES),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(SPECIES)),
        avg_num_neighbors=16.0,
        atomic_numbers=SPECIES,
        correlation=size["correlation"],
        gate=torch.nn.functional.silu,
    ).to(device)
    found = {}
    for task, structures in data.items():
        atoms = [Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc) for s in structures]
        prepared = [
            mace_data.AtomicData.from_config(mace_data.config_from_atoms(a), z_table=table, cutoff=CUTOFF)
            for a in atoms
        ]
        loader = torch_geometric.dataloader.DataLoader(prepared, batch_size=len(prepared))
        batch = {name: v.to(device) if torch.is_tensor(v) else v for name, v in next(iter(loader)).to_dict().items()}

        def predict(training: bool, batch: dict[str, Any] = batch) -> tuple[torch.Tensor, torch.Tensor]:
            out = model(dict(batch), training=training)
            return out["energy"], out["forces"]

        if task.startswith("training"):
            found[task] = median_ms(training_step(model, lambda p=predict: p(True)), device)
        else:
            found[task] = median_ms(lambda p=predict: p(False), device)
    return found


def run_tests(device: torch.device, seconds: float) -> str:
    """The last line of pytest on tests/gpu, or why there is none; its whole output goes to the standard error."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "--no-header"]
    environment = {**os.environ, "FIREASSAY_DEVICE": str(device)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=max(seconds, 1), capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired as stopped:
        print((stopped.stdout or b"").decode()[-3000:], file=sys.stderr)
        return f"stopped after {seconds:.0f} s"
    print(done.stdout[-6000:], file=sys.stderr)
    lines = [line for line in done.stdout.splitlines() if " passed" in line or " failed" in line or " skipped" in line]
    return lines[-1].strip("= ") if lines else f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"


def table(result: Mapping[str, Any]) -> str:
    """The times as Markdown."""
    head = [
        "model",
        "parameters",
        *(f"{task} (ms)" for task in TASKS[:-1]),
        f"{TASKS[-1]} (replica-steps/s)",
        "peak MiB",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, found in result["models"].items():
        cells = [found.get("parameters"), *(found.get(task) for task in TASKS), found.get("peak MiB")]
        lines.append(f"| {name} | {' | '.join('–' if c is None else f'{c:.4g}' for c in cells)} |")
    machine = result["machine"]
    lines += [
        "",
        f"`{machine['command']}` on {machine['device']}, {machine['dtype']}, torch {machine['torch']}, fireassay "
        f"{machine['fireassay']}; tests: {result['tests']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs, and writes what there is after every model, so that a cut leaves something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("cuda"))
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    parser.add_argument("--no-tests", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device here; --device cpu tries the script itself")
    clock, data = Clock(options.minutes), frames()
    dtype = getattr(torch, options.dtype)
    machine = {
        "command": " ".join(["python", "benchmarks/cuda.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "dtype": options.dtype,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fireassay": fireassay.__version__,
        "threads": torch.get_num_threads(),
    }
    result: dict[str, Any] = {"machine": machine, "tests": "not run", "models": {}, "left out": []}
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.no_tests:
        result["tests"] = run_tests(device, 0.5 * clock.left)
    for name in options.models:
        if clock.left < 10:
            result["left out"].append(name)
            continue
        try:
            result["models"][name] = own(name, device, dtype, data, clock)
        except Exception as error:
            result["models"][name] = {"error": f"{type(error).__name__}: {error}"}
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        if name == "mace" and clock.left > 30:
            found = mace_torch(device, dtype, data)
            torch.set_default_dtype(torch.float32)
            if found is not None:
                result["models"]["mace-torch, eager"] = found
        (options.output / "cuda.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (options.output / "cuda.md").write_text(table(result), encoding="utf-8")
    print(table(result))
    if result["left out"]:
        print(f"no time was left for {', '.join(result['left out'])}")


if __name__ == "__main__":
    main()
