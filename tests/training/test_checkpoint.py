"""Files that are cut short, damaged, foreign, of another version, or cannot be written."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fireassay.errors import InputError
from fireassay.training.checkpoint import (
    Checkpoint,
    checkpoints,
    load_checkpoint,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
    save_weights,
)
from fireassay.training.distributed import Ranks
from training.toy_run import run

SHORT = {"epochs": 3, "swa": None, "stage_two": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        tensors = {"a": torch.arange(5.0), "b": torch.tensor(3), "c": torch.tensor([True, False])}
        save_checkpoint(tmp_path, Checkpoint(tensors, {"number": number, "none": None}), number, 0)
    return tmp_path


def test_round_trip_keeps_two(folder: Path) -> None:
    paths = checkpoints(folder)
    assert [load_checkpoint(path).values["number"] for path in paths] == [1, 2]
    loaded = load_checkpoint(paths[-1])
    assert loaded.values == {"number": 2, "none": None}
    assert torch.equal(loaded.tensors["a"], torch.arange(5.0))
    assert loaded.tensors["b"].shape == ()
    assert loaded.tensors["c"].dtype == torch.bool


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_checkpoint_cut_short(folder: Path, size: int) -> None:
    path = checkpoints(folder)[-1]
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(InputError, match=r"cut short.*remove it to continue from 0000001-0000000") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(checkpoints(folder)[0]).values["number"] == 1


def test_a_flipped_bit(folder: Path) -> None:
    path = checkpoints(folder)[-1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("header", [{"format": "fireassay-checkpoint", "version": 99}, {"format": "other"}, {}])
def test_another_version(folder: Path, header: dict) -> None:
    path = checkpoints(folder)[-1]
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2)}, {"fireassay": json.dumps(header)}))
    with pytest.raises(InputError, match="reads fireassay-checkpoint version 1"):
        load_checkpoint(path)


def test_a_pickle_is_refused(folder: Path) -> None:
    path = checkpoints(folder)[-1]
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="cannot read"):
        load_checkpoint(path)


def test_weights_round_trip(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"x": torch.ones(2, dtype=torch.float64)})
    assert torch.equal(load_weights(tmp_path / "w.safetensors")["x"], torch.ones(2, dtype=torch.float64))
    with pytest.raises(InputError, match="cannot read"):
        load_weights(tmp_path / "none.safetensors")


def test_a_damaged_checkpoint_stops_a_training_and_leaves_the_previous_one(tmp_path: Path) -> None:
    run(tmp_path, SHORT)
    newest = checkpoints(tmp_path / "checkpoint")[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="remove it to continue from"):
        run(tmp_path, SHORT)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    newest.unlink()
    assert run(tmp_path, SHORT).epochs == 3


def test_a_full_disk_leaves_everything_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "reference", SHORT)
    left, real = 9, os.fsync

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device; free space") as caught:
            run(tmp_path / "full", SHORT)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "full").rglob("*.tmp"))
    run(tmp_path / "full", SHORT)
    final = [(tmp_path / name / "final.safetensors").read_bytes() for name in ("reference", "full")]
    assert final[0] == final[1]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        run(tmp_path / "file" / "below", SHORT)


@pytest.mark.parametrize("rank", [0, 1])
def test_random_generators_continue(rank: int) -> None:
    """Python's, numpy's and torch's; also those of the second of two processes."""

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    tensors, values = random_state(torch.device("cpu"), Ranks())
    if rank:
        tensors = {"rng.cpu": torch.cat([torch.zeros_like(tensors["rng.cpu"]), tensors["rng.cpu"]])}
    first = draws()
    assert draws() != first
    restore_random_state(tensors, json.loads(json.dumps(values)), torch.device("cpu"), Ranks(rank, 2))
    assert draws() == first
