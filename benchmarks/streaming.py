"""What a simulation costs beside the force call: integrators, observers, trajectories on disk, and memory by length.

    python benchmarks/streaming.py [--replicas 30] [--steps 300] [--stride 10] [--rounds 3]

Replicas of 3BPA with the small MACE of the demo (random weights, float32). Shares are medians of 1 - (time in the
potential) / (time in all) in alternating rounds; memory is the largest resident size of a process that simulates so
many steps and streams every frame.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from fireassay.config import load_config
from fireassay.data.readers import read
from fireassay.simulation.ensemble import integrator
from fireassay.simulation.observers import LastFrames, Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import generators, maxwell_boltzmann, replicate
from fireassay.simulation.trajectory import Thermodynamics, TrajectoryWriter

MEMORY = """
import sys
sys.argv = ["streaming.py"]
sys.path.insert(0, {folder!r})
import streaming
streaming.alone({steps}, {out!r})
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e3)
"""


def potential():
    """The small MACE of the demo with random weights."""
    config = load_config("demo-mace")
    return config.model.build(species=(1, 6, 7, 8), average_neighbours=12.0, seed=0).float()


def alone(steps: int, out: str) -> None:
    """One replica, every frame to disk."""
    state = maxwell_boltzmann(replicate(read("3bpa-xtb/ground_state")[0], 1), 100.0, generators(0, 1))
    writer = TrajectoryWriter([Path(out)], 1)
    simulate(potential(), state, integrator("langevin", 0.5, 100.0, replicas=1, seed=1), steps, observers=[writer])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=2000, help="steps of the shorter run; 0: no memory")
    given = parser.parse_args()
    start = read("3bpa-xtb/ground_state")[0]
    state = maxwell_boltzmann(replicate(start, given.replicas), 100.0, generators(0, given.replicas))
    model = potential()
    with tempfile.TemporaryDirectory() as folder:

        def streamed(suffix: str) -> Callable[[], list]:
            paths = [Path(folder) / f"{k}{suffix}" for k in range(given.replicas)]
            return lambda: [
                TrajectoryWriter(paths, given.stride), Thermodynamics(Path(folder) / "thermo.csv", given.stride)
            ]  # fmt: skip

        cases: list[tuple[str, str, Callable[[], list]]] = [
            ("constant energy", "none", list),
            ("Langevin", "langevin", list),
            ("velocity rescaling", "rescaling", list),
            ("Nosé-Hoover chains", "nose_hoover", list),
            ("rescaling, observers of the stability assay", "rescaling",
             lambda: [Recorder(10, ("temperature", "potential_energy")), LastFrames(20, 5)]),
            ("rescaling, extended XYZ", "rescaling", streamed(".xyz")),
            ("rescaling, .traj", "rescaling", streamed(".traj")),
            ("rescaling, H5MD", "rescaling", streamed(".h5")),
        ]  # fmt: skip
        shares: dict[str, list[float]] = {name: [] for name, *_ in cases}
        simulate(model, state, integrator("none", 0.5, 100.0, replicas=given.replicas, seed=1), 20)
        for _ in range(given.rounds):
            for name, thermostat, observers in cases:
                moved = integrator(thermostat, 0.5, 100.0, replicas=given.replicas, seed=1)  # type: ignore[arg-type]
                run = simulate(model, state, moved, given.steps, observers=observers())
                shares[name].append(1 - run.force_seconds / run.seconds)
        threads = torch.get_num_threads()
        print(f"{given.replicas} x {len(start)} atoms, frames every {given.stride} steps, {threads} threads\n")
        print("| what | % of the time beside the potential |\n|---|---|")
        for name, values in shares.items():
            print(f"| {name} | {100 * statistics.median(values):.1f} |")
        if given.memory:
            print("\n| steps streamed | MB |\n|---|---|")
            for steps in (given.memory, 4 * given.memory):
                code = MEMORY.format(folder=str(Path(__file__).parent), steps=steps, out=str(Path(folder) / "m.xyz"))
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
                print(f"| {steps} | {float(done.stdout):.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
