"""A training that is killed and continued ends with the same bytes as one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.data.datasets import Dataset
from fireassay.errors import Interrupted
from fireassay.progress import Silent
from fireassay.records import read_arrays
from fireassay.training import evaluate, loss
from fireassay.training.distributed import Ranks
from fireassay.training.error_log import ErrorLog
from fireassay.training.recipe import ErrorLogging
from fireassay.training.terms import Errors
from training.toy_frames import CUTOFF, labelled_frames
from training.toy_run import run

TESTS = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("toy_run.py")


def outcome(folder: Path) -> dict[str, object]:
    """Everything that a training leaves, without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    table = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    times = table[0].index("seconds")
    return {
        "rows": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        "table": [[cell for number, cell in enumerate(line) if number != times] for line in table],
        "weights": (folder / "final.safetensors").read_bytes(),
        "best": (folder / "checkpoint" / "best.safetensors").read_bytes(),
        "errors": {name: value.tobytes() for name, value in read_arrays(folder / "errors.npz").items()},
        "raw": (folder / "errors.float32").read_bytes(),
    }


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The processes that are killed have one thread; another number would round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The best weights are those of an early epoch, so that they live on in checkpoints alone.
EARLY_BEST = {"swa": None, "stage_two": None, "optimiser": {"lr": 0.3}, "epochs": 16, "ema": None}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return outcome(folder)


@pytest.fixture(scope="module")
def early_best(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("early")
    assert run(folder, EARLY_BEST).best_epoch < 12
    return outcome(folder)


def started(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], env=environment, stdout=subprocess.PIPE)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    before = set((folder / "checkpoint").glob("*"))
    while process.poll() is None and set((folder / "checkpoint").glob("*")) == before:
        time.sleep(0.005)


class PowerCut(BaseException):
    """What a killed process sees: nothing more of it happens."""


def test_two_threads_repeat_themselves(tmp_path: Path) -> None:
    """Torch may add up the backward pass of a large gather atomically; while training it is told not to."""
    switched = []

    class Watch(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            switched.append(torch.are_deterministic_algorithms_enabled())

    torch.set_num_threads(2)
    try:
        for name in ("first", "second"):
            run(tmp_path / name, progress=Watch())
    finally:
        torch.set_num_threads(1)
    assert outcome(tmp_path / "first") == outcome(tmp_path / "second")
    assert all(switched)
    assert switched
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_uninterrupted_run_is_not_trivial(uninterrupted: dict) -> None:
    rows = uninterrupted["rows"]
    assert [row["epoch"] for row in rows] == list(range(1, 25))
    assert {row["stage"] for row in rows} == {1, 2}
    assert len({row["lr"] for row in rows}) > 2
    assert rows[10]["train.forces_rmse"] < 0.5 * rows[0]["train.forces_rmse"]
    assert len(uninterrupted["raw"]) == 24 * 66 * 4


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict, early_best: dict, seed: int
) -> None:
    """The power fails before, within or after one write to the disk, again and again."""
    generator = random.Random(seed)
    left = 0
    real_replace, real_fsync = os.replace, os.fsync

    def failing(real):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left == 0 and generator.random() < 0.5:
                raise PowerCut
            real(*arguments)
            if left == 0:
                raise PowerCut

        return call

    monkeypatch.setattr(os, "replace", failing(real_replace))
    monkeypatch.setattr(os, "fsync", failing(real_fsync))
    crashes = 0
    for _ in range(100):
        left = generator.randint(1, 60)
        try:
            run(tmp_path, EARLY_BEST if seed % 2 else None)
            break
        except PowerCut:
            crashes += 1
    assert crashes > 1
    assert outcome(tmp_path) == (early_best if seed % 2 else uninterrupted)


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path, uninterrupted: dict, kills: int) -> None:
    generator = random.Random(kills)
    killed = 0
    for _ in range(kills):
        process = started(tmp_path)
        wait_for_checkpoint(tmp_path, process)
        time.sleep(generator.uniform(0.0, 0.35))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    process = started(tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert killed >= 1
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_stop_saves_and_exits(tmp_path: Path, uninterrupted: dict, number: int, code: int) -> None:
    """Requests arrive in the middle of epochs and of validations; each time the state is saved first."""

    class Impatient(Silent):
        left = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)

    stops = []
    for patience in (1, 8, 13, 40, 1000):
        impatient = Impatient()
        impatient.left = patience
        try:
            run(tmp_path, progress=impatient)
        except Interrupted as interrupted:
            stops.append((interrupted.exit_code, "repeat the command to continue" in str(interrupted)))
    assert stops == 4 * [(code, True)]
    assert outcome(tmp_path) == uninterrupted
    assert signal.getsignal(number) is not None


def test_a_process_that_is_asked_to_stop_exits_with_143(tmp_path: Path) -> None:
    process = started(tmp_path)
    wait_for_checkpoint(tmp_path, process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"repeat the command to continue" in output


def test_a_request_during_validation_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict
) -> None:
    calls = 0
    real = loss.sums_of

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "sums_of", counted)
        with pytest.raises(Interrupted, match="epoch 2, batch 3"):
            run(tmp_path, {"validation_batch_size": 2})
    assert calls == 2
    run(tmp_path, {"validation_batch_size": 2})
    rows = [row["loss"] for row in outcome(tmp_path)["rows"]]
    assert rows == [row["loss"] for row in uninterrupted["rows"]]


def test_only_two_checkpoints_stay(tmp_path: Path) -> None:
    run(tmp_path, {"epochs": 5, "swa": None, "stage_two": None})
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["0000004-0000002.safetensors", "0000005-0000000.safetensors", "best.safetensors"]


def test_a_finished_training_is_not_repeated(tmp_path: Path, uninterrupted: dict) -> None:
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    result = run(tmp_path)
    assert result.finished == "epochs"
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert outcome(tmp_path) == uninterrupted


def test_more_epochs_continue_as_if_asked_for_at_once(tmp_path: Path) -> None:
    changes = {"swa": None, "stage_two": None, "validation_interval": 1}
    run(tmp_path / "long", {**changes, "epochs": 8})
    run(tmp_path / "short", {**changes, "epochs": 5})
    run(tmp_path / "short", {**changes, "epochs": 8})
    assert outcome(tmp_path / "short") == outcome(tmp_path / "long")


def test_the_histograms_hold_the_raw_errors(tmp_path: Path) -> None:
    run(tmp_path, {"epochs": 5, "swa": None, "stage_two": None})
    data = read_arrays(tmp_path / "errors.npz")
    raw = np.fromfile(tmp_path / "errors.float32", dtype=np.float32).reshape(5, 66)
    assert (data["counts"].sum(1) == 5).all()
    for atom in (0, 17, 65):
        expected = np.zeros(data["counts"].shape[1])
        np.add.at(expected, np.searchsorted(data["edges"], raw[:, atom], side="right"), 1)
        assert np.abs(expected - data["counts"][atom]).sum() <= 2  # float32 may cross one bin edge
    assert not data["counts"][:, -1].any()
    assert raw.max() <= data["edges"][-1] * (1 + 1e-6)


def test_a_later_error_beyond_the_first_epoch_gets_bins_of_its_own(tmp_path: Path) -> None:
    """A learning rate that blows up; the first epoch's largest error ends the 100 bins, later ones have more."""
    bad = {
        "optimiser": {"name": "sgd", "lr": 1e-3},
        "loss": {"energy": {"weight": 0.0}},
        "swa": None,
        "stage_two": None,
    }
    run(tmp_path, {**bad, "epochs": 4})
    data = read_arrays(tmp_path / "errors.npz")
    raw = np.fromfile(tmp_path / "errors.float32", dtype=np.float32).reshape(4, 66)
    edges = data["edges"]
    assert raw[1:].max() > 1.01 * raw[0].max()
    assert edges[100] == pytest.approx(raw[0].max(), rel=1e-6)
    assert edges[-2] <= raw.max() < edges[-1]
    np.testing.assert_allclose(edges[1:] / edges[:-1], (edges[100] / 1e-8) ** 0.01, rtol=1e-9)
    assert not data["counts"][:, -1].any()
    assert (data["counts"].sum(1) == 4).all()


def test_a_start_without_any_error_leaves_the_bins_to_the_first_error(tmp_path: Path) -> None:
    """Errors of zero lie below the lowest edge, wherever the highest is; they do not fix a scale."""
    dataset = Dataset(labelled_frames(2), CUTOFF)
    log = ErrorLog(ErrorLogging(), dataset, tmp_path, torch.device("cpu"), Ranks())
    batch = dataset.select([0, 1])
    for size in (0.0, 2.0, 5.0):
        forces = torch.zeros_like(batch.labels.forces)
        forces[:, 0] = size
        log.record(batch, Errors(torch.zeros(2), forces, None))
        log.end_epoch()
    edges = log.trajectory.edges
    assert edges[100] == pytest.approx(2.0)
    assert 5.0 < edges[-1] < 5.0 * edges[1] / edges[0]
    assert (log.trajectory.counts[:, 0] == 1).all()
    assert (log.trajectory.counts.sum(1) == 3).all()
