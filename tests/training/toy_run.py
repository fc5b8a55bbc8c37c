"""A short training with everything on, to be run in a process of its own: toy_run.py FOLDER [JSON of changes]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from fireassay.data.datasets import Dataset
from fireassay.errors import Interrupted
from fireassay.progress import Progress
from fireassay.training.checkpoint import save_weights
from fireassay.training.fit import FitResult, fit
from fireassay.training.recipe import Checkpointing, ErrorLogging, Recipe
from training.toy_frames import CUTOFF, labelled_frames, network

RECIPE = {
    "epochs": 24,
    "batch_size": 4,
    "optimiser": {"lr": 0.01},
    "schedule": {"name": "plateau", "patience": 1, "factor": 0.7},
    "ema": {"decay": 0.95},
    "swa": {"start_epoch": 18},
    "stage_two": {"start_epoch": 12, "energy_weight": 50, "forces_weight": 100, "lr": 0.003},
    "validation_interval": 2,
}


def run(folder: Path, changes: dict | None = None, progress: Progress | None = None) -> FitResult:
    """Trains in `folder`, going on where it stopped, and writes the final weights."""
    potential = network()
    result = fit(
        potential,
        Dataset(labelled_frames(12), CUTOFF),
        Dataset(labelled_frames(5, seed=1), CUTOFF),
        Recipe.model_validate({**RECIPE, **(changes or {})}),
        folder,
        progress=progress,
        error_log=ErrorLogging(raw=True),
        checkpointing=Checkpointing(every_batches=2, rest_seconds=0),
    )
    if os.environ.get("RANK", "0") == "0":
        save_weights(folder / "final.safetensors", potential.state_dict())
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        run(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else None)
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.exit_code)
