"""Records survive damage, full disks and foreign versions, and never execute what they read."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from fireassay import records
from fireassay.errors import InputError
from fireassay.records import AssayResult, ErrorTrajectory, Quantity


def result() -> AssayResult:
    values = {"300K.forces.mae": Quantity(0.031, "eV/Å"), "failures": Quantity([{"replica": 3}])}
    arrays = {"t": np.linspace(-1, 1, 5)}
    return AssayResult("accuracy", "mace", {"seed": 1}, values, arrays, {"t": "1"}, {"command": "fireassay assay x"})


def test_assay_results_come_back(tmp_path):
    path = result().save(tmp_path)
    loaded = AssayResult.load(path)
    assert loaded.values == result().values
    assert loaded.settings == {"seed": 1}
    assert loaded.provenance == {"command": "fireassay assay x"}
    np.testing.assert_array_equal(loaded.arrays["t"], result().arrays["t"])
    assert json.loads(path.read_text())["arrays"]["t"] == {"shape": [5], "unit": "1"}


def test_numbers_that_are_not_finite_become_null(tmp_path):
    records.write_json(tmp_path / "a.json", {"x": [float("nan"), np.float32(2.0), np.array([1, 2])]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 2.0, [1, 2]]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    records.write_json(path, {"x": 1})

    def interrupted() -> None:
        with records.atomic(path) as file:
            file.write(b"half of it")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        interrupted()
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    records.write_json(path, {"x": 1})
    monkeypatch.setattr(records.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        records.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        records.write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize("content", [b"", b"{", b'{"assay": "x"}', b"\xff\xfe", b"[]"])
def test_damaged_results_are_one_line(tmp_path, content):
    path = tmp_path / "accuracy.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        AssayResult.load(path)


def test_a_truncated_npz_is_one_line(tmp_path):
    path = result().save(tmp_path)
    arrays = path.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"accuracy\.npz"):
        AssayResult.load(path)


def test_a_pickle_is_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Bomb()))
    boxed = tmp_path / "boxed.npz"
    np.savez(boxed, x=np.array([Bomb()], dtype=object))
    for path in (plain, boxed):
        with pytest.raises(InputError):
            records.read_arrays(path)
    assert not marker.exists()


def test_error_histograms_count_what_falls_outside(tmp_path):
    errors = ErrorTrajectory.empty(np.array([2, 1]), lowest=1e-3, highest=1.0, bins=3)
    np.testing.assert_allclose(errors.edges, [1e-3, 1e-2, 1e-1, 1.0])
    errors.add(np.array([0, 1, 2]), np.array([1e-4, 0.05, 7.0]))
    errors.add(np.array([0]), np.array([1e-2]))
    expected = [[1, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(errors.counts, expected)
    errors.save(tmp_path / "errors.npz")
    loaded = ErrorTrajectory.load(tmp_path / "errors.npz")
    np.testing.assert_array_equal(loaded.counts, expected)
    assert (loaded.metric, loaded.unit) == (errors.metric, errors.unit)
