"""Run directories are read whole or refused with one line that names the file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fireassay.errors import InputError
from fireassay.records import AssayResult, Quantity, environment, write_json
from fireassay.report.runs import load_runs, split_names
from report.synthetic import NEQUIP, write_run, write_study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "nequip", NEQUIP)


def _load(*folders: Path):
    return load_runs(folders, folders[0].parent.parent / "report" / "report.html")


def test_every_record_has_a_source_with_path_hash_and_command(run: Path) -> None:
    (loaded,) = _load(run)
    assert set(loaded.sources) == {"run", "metrics", "accuracy", "stability", "landscape", "uncertainty"}
    source = loaded.sources["accuracy"]
    assert source.path == "../runs/nequip/assays/accuracy.json"
    assert source.sha256 == hashlib.sha256((run / "assays" / "accuracy.json").read_bytes()).hexdigest()
    assert source.arrays_sha256 == hashlib.sha256((run / "assays" / "accuracy.npz").read_bytes()).hexdigest()
    assert source.command == "fireassay assay accuracy nequip"
    assert len({s.id for s in loaded.sources.values()}) == 6


def test_splits_come_coolest_first_whatever_their_names(tmp_path: Path) -> None:
    splits = {"hot.test": 900.0, "<b>cold": 100.0, "mild": 300.0}
    runs = _load(write_run(tmp_path / "a" / "x", replace(NEQUIP, splits=splits, frames=5), ("accuracy", "uncertainty")))
    assert split_names(runs, "accuracy") == ["<b>cold", "mild", "hot.test"]
    assert split_names(runs, "uncertainty") == ["<b>cold", "mild", "hot.test"]


def test_labels_are_folder_names_made_distinct(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "run", NEQUIP, ("metrics",)) for parent in ("a", "b")]
    assert [r.label for r in load_runs(folders, tmp_path / "r.html")] == ["a/run", "b/run"]


def test_a_last_line_cut_by_a_kill_is_left_out(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert _load(run)[0].metrics["epoch"][-1] == 119


def test_an_epoch_repeated_after_a_resume_counts_once(run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]) + "\n")
    assert len(_load(run)[0].metrics["epoch"]) == 120


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("assays/accuracy.json", lambda b: b[: len(b) // 2]),
        ("assays/accuracy.json", lambda b: b"[]"),
        ("assays/accuracy.json", lambda b: b'{"version": 1, "values": {"a": 3}}'),
        ("assays/accuracy.json", lambda b: b.replace(b'"assay": "accuracy"', b'"assay": "landscape"')),
        ("assays/stability.npz", lambda b: b[: len(b) // 2]),
        ("assays/stability.npz", lambda b: b""),
        ("metrics.jsonl", lambda b: b[:500] + b"\n" + b[500:]),
        ("metrics.jsonl", lambda b: b"\xff\xfe\n"),
        ("run.json", lambda b: b"{"),
        ("run.json", lambda b: b"[1]"),
        ("config.yaml", lambda b: b"a: !!python/object/apply:os.system ['true']\n"),
    ],
)
def test_a_damaged_record_is_named(run: Path, name: str, damage) -> None:
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        _load(run)
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_of_another_shape_or_kind_are_refused(run: Path) -> None:
    (loaded,) = _load(run)
    with pytest.raises(InputError, match=r"300K\.forces\.reference is float64"):
        loaded.array("accuracy", "300K.forces.reference", (None, 2))
    loaded.assays["accuracy"].arrays["300K.forces.reference"] = np.array([["a"] * 3])
    with pytest.raises(InputError, match="numbers of shape"):
        loaded.array("accuracy", "300K.forces.reference", (None, 3))


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    AssayResult("accuracy", "x", {}, {"a.frames": Quantity("many")}, {}, {}, environment("c")).save(folder / "assays")
    (loaded,) = _load(folder)
    with pytest.raises(InputError, match="a number is needed"):
        loaded.number("accuracy", "a.frames")


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run directory"):
        load_runs([], page)
    with pytest.raises(InputError, match="not a folder"):
        load_runs([tmp_path / "absent"], page)
    with pytest.raises(InputError, match=r"neither metrics\.jsonl nor"):
        load_runs([tmp_path / "empty"], page)
    with pytest.raises(InputError, match="named twice"):
        load_runs([tmp_path / "empty", tmp_path / "empty"], page)
    with pytest.raises(InputError, match="at most 10"):
        load_runs([tmp_path / str(i) for i in range(11)], page)


def test_an_infinite_value_reads_as_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "x", NEQUIP, ("landscape",))
    path = folder / "assays" / "landscape.json"
    content = json.loads(path.read_text())
    content["values"]["flat_entropy"]["value"] = float("inf")
    write_json(path, content)
    assert _load(folder)[0].number("landscape", "flat_entropy") is None


def test_two_runs_do_not_share_source_marks(tmp_path: Path) -> None:
    runs = load_runs(write_study(tmp_path, ("metrics", "landscape")), tmp_path / "r.html")
    marks = [source.id for run in runs for source in run.sources.values()]
    assert marks == ["S1", "S2", "S3", "S4", "S5", "S6"]
