"""What the training loop costs beyond the potential: forward and backward pass alone against a step of the loop.

    python benchmarks/training.py [--frames FILE] [--steps 40] [--threads 2]

The bare step writes the loss out in two lines on batches that exist already, with a plain backward pass and nothing
else. The loop's step cuts the batch out of the data set, forms loss and metrics, finds the gradient's norm, steps
AMSGrad, the EMA and the error log. Both are taken in turn on the same batches of 3BPA, so that a busy machine hits
both; times are medians, in ms. Checkpoints are timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fireassay.allocator import tune_allocator
from fireassay.data.datasets import Batch, Dataset
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.models.mace import MACE
from fireassay.models.nequip import NequIP
from fireassay.potential import Baseline, LocalPotential, Potential
from fireassay.progress import Silent
from fireassay.training.distributed import Ranks
from fireassay.training.interruption import Request
from fireassay.training.loop import Loop
from fireassay.training.recipe import Checkpointing, Ema, ErrorLogging, Recipe
from fireassay.training.terms import Weights

SPECIES = [1, 6, 7, 8]
NETWORKS: dict[str, Callable[[], LocalPotential]] = {
    "NequIP, 3 layers, l 1, 16 channels": lambda: NequIP(SPECIES, 4.5, 3, 1, False, 16),
    "NequIP, 5 layers, l 2, 32 channels": lambda: NequIP(SPECIES, 5.0, 5, 2, True, 32),
    "MACE, 32x0e + 32x1o": lambda: MACE(SPECIES, 5.0, 2, 3, 32, 1, 3),
}


def bare_step(potential: Potential, batch: Batch) -> None:
    """Forward and backward pass of energy and forces."""
    prediction = potential.predict(batch.graph, differentiable=True)
    assert prediction.forces is not None
    energy = (prediction.energy - batch.labels.energy).square().mean()
    (energy + (prediction.forces - batch.labels.forces).square().mean()).backward()
    potential.zero_grad(set_to_none=True)


def make_loop(potential: Potential, train: Dataset, batch_size: int, folder: Path) -> Loop:
    """A loop with everything on that is done at every step."""
    return Loop(
        potential,
        train,
        None,
        Recipe(batch_size=batch_size, ema=Ema()),
        folder,
        device=torch.device("cpu"),
        ranks=Ranks(),
        weights=Weights(),
        error_log=ErrorLogging(),
        checkpointing=Checkpointing(),
        fingerprint={},
        request=Request(),
        progress=Silent(),
        clock=time.monotonic,
    )


def measure(
    network: Callable[[], LocalPotential], frames: list[Structure], batch_size: int, steps: int
) -> tuple[float, float, float]:
    """Median seconds of a bare step, of a step of the loop, and of a checkpoint."""
    inner = network()
    potential = Baseline(inner, dict.fromkeys(SPECIES, 0.0)).to(torch.float32)
    train = Dataset(frames, inner.cutoff)
    bare, loop_times, saves = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop(potential, train, batch_size, Path(folder))
        batches = loop.batches(0)
        for number in range(steps):
            chosen = batches[number % len(batches)]
            batch = train.select(chosen, torch.float32)
            first, second = (0, 1) if number % 2 else (1, 0)  # neither always runs in the other's warm caches
            for which in (first, second):
                started = time.perf_counter()
                if which == 0:
                    bare_step(potential, batch)
                else:
                    loop.step(chosen, loop.recipe.loss, (0.0, 1 / len(batches)))
                (bare if which == 0 else loop_times).append(time.perf_counter() - started)
        for _ in range(5):
            started = time.perf_counter()
            loop.save()
            saves.append(time.perf_counter() - started)
    skipped = steps // 5
    return statistics.median(bare[skipped:]), statistics.median(loop_times[skipped:]), statistics.median(saves)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--frames", default="3bpa-xtb/train_300K")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()
    frames = read(options.frames)[:100]
    print(f"torch {torch.__version__}, {options.threads} threads, float32, 3BPA (27 atoms)\n")
    print("| model | batch | forward + backward, ms | step of the loop, ms | added, ms | added | checkpoint, ms |")
    print("|---|---|---|---|---|---|---|")
    for name, network in NETWORKS.items():
        for batch_size in (1, 5):
            bare, step, save = measure(network, frames, batch_size, options.steps)
            share = 100 * (step - bare) / bare
            cells = [f"{1000 * bare:.1f}", f"{1000 * step:.1f}", f"{1000 * (step - bare):.2f}"]
            print(f"| {name} | {batch_size} | {' | '.join(cells)} | {share:.1f} % | {1000 * save:.1f} |", flush=True)


if __name__ == "__main__":
    main()
