"""Records survive damage, full disks and foreign versions, and never execute what they read."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
from dataclasses import FrozenInstanceError, field
from typing import Annotated

import numpy as np
import pytest

from fireassay import records
from fireassay.errors import InputError
from fireassay.records import (
    AssayRecord,
    ErrorTrajectory,
    Floats,
    Integers,
    RunRecord,
    Shape,
    Unit,
    Untyped,
    environment,
    load_assay,
    record,
)
from fireassay.records import files as record_files
from fireassay.records.provenance import command_line
from fireassay.records.typed import decode, encode, unit_of


@record
class Part:
    """A part of a result."""

    size: float | None
    count: int = 0
    share: Annotated[float | None, Unit("%")] = None


@record
class Whole:
    """A result with everything that a result can hold."""

    parts: Annotated[dict[str, Part], Unit("eV/Å")]
    list_of: list[Part] = field(default_factory=list)
    title: str = ""
    done: bool = True
    best: Annotated[Part | None, Unit("K")] = None
    x: Annotated[Floats, Unit("fs"), Shape("N")]
    y: Annotated[Floats, Shape("N", 3)]
    index: Annotated[Integers | None, Shape("M")] = None


def whole(**changes) -> Whole:
    given = {"parts": {"300K": Part(size=0.031, count=3, share=4.0)}, "x": np.arange(4.0), "y": np.zeros((4, 3))}
    return Whole(**{**given, **changes})


def saved(folder, result=None, assay: str = "trial"):
    content = AssayRecord(assay, "mace", "abc", {"300K": "f"}, {"seed": 1}, environment("x"), result or whole())
    return content.save(folder / "assays")


def test_results_come_back(tmp_path):
    made = whole(best=Part(size=None), list_of=[Part(size=1.0)], index=np.array([3, 1]), done=False)
    loaded = load_assay(saved(tmp_path, made), Whole)
    assert (loaded.assay, loaded.potential, loaded.weights) == ("trial", "mace", "abc")
    assert (loaded.frames, loaded.settings) == ({"300K": "f"}, {"seed": 1})
    assert loaded.provenance.command == "x"
    found = loaded.result
    assert (found.parts["300K"].size, found.parts["300K"].count, found.parts["300K"].share) == (0.031, 3, 4.0)
    assert found.best is not None
    assert found.best.size is None
    assert (found.list_of[0].size, found.done) == (1.0, False)
    np.testing.assert_array_equal(found.x, made.x)
    np.testing.assert_array_equal(found.index, made.index)


def test_numbers_stand_beside_their_units(tmp_path):
    content = json.loads(saved(tmp_path).read_text(encoding="utf-8"))["result"]
    assert content["parts"]["300K"]["size"] == {"value": 0.031, "unit": "eV/Å"}
    assert content["parts"]["300K"]["share"] == {"value": 4.0, "unit": "%"}
    assert content["parts"]["300K"]["count"] == 3
    assert content["x"] == {"array": "x", "shape": [4], "unit": "fs"}
    assert unit_of(Whole, "parts.anything.size") == "eV/Å"
    assert unit_of(Whole, "best.size") == "K"
    with pytest.raises(KeyError):
        unit_of(Whole, "parts.anything.sise")


def test_a_result_that_is_not_finite_says_so(tmp_path):
    made = whole(parts={"a": Part(size=float("nan")), "b": Part(size=float("inf"))})
    found = load_assay(saved(tmp_path, made), Whole).result
    assert np.isnan(found.parts["a"].size)
    assert found.parts["b"].size == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((2, 2))}, "shape"),
        ({"y": np.zeros((4, 2))}, r"\(N, 3\)"),
        ({"index": np.array([0.5])}, "whole numbers"),
        ({"x": np.array(["a"])}, "numbers"),
        ({"parts": {"a": {"sise": 1.0}}}, "sise"),
        ({"title": 3}, "title"),
        ({"wrong": 1}, "wrong"),
    ],
)
def test_a_result_is_checked_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        whole(**changes)


def test_a_result_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        whole().title = "other"  # type: ignore[misc]


def test_letters_of_shapes_agree():
    with pytest.raises(InputError, match=r"y has shape \(5, 3\), needs \(N, 3\) with N = 4"):
        encode(whole(y=np.zeros((5, 3))))


def test_the_unit_in_a_file_must_be_the_declared_one():
    content, arrays = encode(whole())
    content["parts"]["300K"]["size"]["unit"] = "kcal/mol"
    with pytest.raises(InputError, match="kcal/mol"):
        decode(Whole, content, arrays, "here")


def test_a_result_of_unknown_type_keeps_units_and_arrays(tmp_path):
    found = load_assay(saved(tmp_path)).result
    assert isinstance(found, Untyped)
    assert found.values["parts"]["300K"]["size"]["unit"] == "eV/Å"
    np.testing.assert_array_equal(found.arrays[found.values["y"]["array"]], np.zeros((4, 3)))


def test_a_record_of_an_earlier_version_is_refused_with_the_command_that_renews_it(tmp_path):
    folder = tmp_path / "my runs"
    path = saved(folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    for version in (1, None, 99):
        path.write_text(json.dumps({**content, "version": version}), encoding="utf-8")
        with pytest.raises(InputError, match="version") as caught:
            load_assay(path, Whole)
        command = shlex.split(str(caught.value).partition("renew it with: ")[2])
        assert command == ["fireassay", "assay", str(folder), "trial"]


def test_a_run_record_comes_back_and_an_old_one_is_refused(tmp_path):
    made = RunRecord(name="mace", source="calculator", status="finished", origin="a:B()", provenance=environment("x"))
    made.save(tmp_path)
    assert RunRecord.load(tmp_path).origin == "a:B()"
    assert RunRecord.load(tmp_path).changed(name="new").name == "new"
    (tmp_path / "run.json").write_text('{"name": "mace", "status": "finished"}', encoding="utf-8")
    with pytest.raises(InputError, match=f"fireassay assay {tmp_path}"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/usr/bin/fireassay", "train", "my data.yaml", "data.test={300K: a b.xyz}"], None),
        (["/x/fireassay/__main__.py", "report", "runs/a'b"], None),
        (["train.py", "--epochs", "3"], "python train.py --epochs 3"),
        (["-c"], "an interactive Python session"),
    ],
)
def test_the_recorded_command_runs_when_it_is_pasted(arguments, expected):
    found = command_line(arguments)
    if expected is not None:
        assert found == expected
    else:
        echoed = subprocess.run(
            ["sh", "-c", f"fireassay() {{ printf '%s\\n' \"$@\"; }}; {found}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert echoed.stdout.splitlines() == arguments[1:]


def test_a_command_under_torchrun_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command_line(["/x/fireassay/__main__.py", "train", "a.yaml"]) == (
        "torchrun --nproc-per-node 2 -m fireassay train a.yaml"
    )


def test_records_are_utf8_whatever_the_locale(tmp_path):
    saved(tmp_path, whole(title="Ångström – ½"))
    code = (
        "import sys, pathlib; from fireassay.records import load_assay, write_text, read_text;"
        "p = pathlib.Path(sys.argv[1]); r = load_assay(p / 'assays' / 'trial.json').result;"
        "write_text(p / 'x.txt', r.values['title']); print(ascii(read_text(p / 'x.txt')))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ascii("Ångström – ½")


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
    monkeypatch.setattr(
        record_files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(InputError, match="No space left"):
        records.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        records.write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize("content", [b"", b"{", b'{"assay": "x"}', b"\xff\xfe", b"[]", b'{"version": 2}'])
def test_damaged_results_are_one_line(tmp_path, content):
    path = saved(tmp_path)
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_assay(path, Whole)
    assert "\n" not in str(caught.value)


def test_a_result_of_another_assay_is_refused(tmp_path):
    path = saved(tmp_path, assay="other")
    for suffix in (".json", ".npz"):
        path.with_suffix(suffix).rename(tmp_path / "assays" / f"trial{suffix}")
    with pytest.raises(InputError, match="the record of the other assay"):
        load_assay(tmp_path / "assays" / "trial.json", Whole)


def test_a_truncated_npz_is_one_line(tmp_path):
    arrays = saved(tmp_path).with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"trial\.npz"):
        load_assay(arrays.with_suffix(".json"), Whole)


def test_a_missing_array_is_one_line(tmp_path):
    path = saved(tmp_path)
    records.write_arrays(path.with_suffix(".npz"), {"x": np.arange(4.0)})
    for kind in (Whole, None):
        with pytest.raises(InputError, match="y"):
            load_assay(path, kind)


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


@pytest.mark.parametrize("error", [0.5, 1.0, 3.0, 10.0, 1e4, 9.99e4])
def test_error_histograms_grow_by_bins_of_the_same_ratio(error):
    errors = ErrorTrajectory.empty(np.array([2]), lowest=1e-3, highest=1.0, bins=3)
    errors.add(np.array([0]), np.array([0.5]))
    errors.reach(error)
    errors.add(np.array([1]), np.array([error]))
    np.testing.assert_allclose(errors.edges, 10.0 ** np.arange(-3, len(errors.edges) - 3))
    assert errors.counts[0].tolist() == [0, 0, 0, 1, *[0] * (len(errors.edges) - 3)]
    assert errors.counts[1].argmax() == np.searchsorted(errors.edges, error, side="right") < len(errors.edges)
    assert errors.edges[-2] <= max(error, 0.5)
