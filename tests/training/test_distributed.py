"""Two processes under torchrun train as one, with every phase of a training on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.records import read_arrays
from fireassay.training.checkpoint import load_weights
from fireassay.training.distributed import Ranks
from training.toy_run import run

TESTS = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("toy_run.py")
# Batches of 5 do not divide by two, and the last of an epoch has 2 structures.
CHANGES = {
    "epochs": 8,
    "batch_size": 5,
    "swa": {"start_epoch": 7},
    "stage_two": {"start_epoch": 5, "energy_weight": 50},
    "schedule": {"name": "plateau", "patience": 0, "factor": 0.7},
    "validation_interval": 1,
}


def torchrun(folder: Path, changes: dict) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*command, str(SCRIPT), str(folder), json.dumps(changes)], env=environment, **pipes)


def assert_same_training(one: Path, two: Path) -> None:
    rows = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, two)]
    assert len(rows[0]) == len(rows[1]) > 0
    for alone, together in zip(*rows, strict=True):
        assert alone.keys() == together.keys()
        for key in alone.keys() - {"seconds"}:
            assert together[key] == pytest.approx(alone[key], rel=1e-8), (key, alone["epoch"])
    weights = [load_weights(folder / "final.safetensors") for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-7, atol=1e-10)
    counts = [read_arrays(folder / "errors.npz")["counts"] for folder in (one, two)]
    assert (counts[0].sum(1) == counts[1].sum(1)).all()
    assert np.abs(counts[0] - counts[1]).sum() <= 4  # an error may cross the edge of a bin
    raw = [np.fromfile(folder / "errors.float32", dtype=np.float32) for folder in (one, two)]
    np.testing.assert_allclose(raw[0], raw[1], rtol=1e-5)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    run(tmp_path / "one", CHANGES)
    process = torchrun(tmp_path / "two", CHANGES)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_batches_smaller_than_the_number_of_processes(tmp_path: Path) -> None:
    changes = {**CHANGES, "batch_size": 1}
    run(tmp_path / "one", changes)
    process = torchrun(tmp_path / "two", changes)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_stop_and_continue(tmp_path: Path) -> None:
    changes = {**CHANGES, "epochs": 60}
    run(tmp_path / "one", changes)
    process = torchrun(tmp_path / "two", changes)
    while process.poll() is None and len(list((tmp_path / "two" / "checkpoint").glob("*"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) < 60
    process = torchrun(tmp_path / "two", changes)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_alone_nothing_is_sent() -> None:
    alone, tensor = Ranks(), torch.arange(3.0)
    assert alone.main
    assert alone.summed(tensor) is tensor
    assert alone.largest(tensor) is tensor
    assert alone.gathered(tensor) == [tensor]
