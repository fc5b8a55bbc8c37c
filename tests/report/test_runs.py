"""Run directories are read whole or refused with one line that names the file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fireassay.errors import InputError
from fireassay.records import load_assay, write_json
from fireassay.records.accuracy import AccuracyResult
from fireassay.records.stability import StabilityResult
from fireassay.records.uncertainty import UncertaintyResult
from fireassay.report.runs import load_runs, split_names
from fireassay.report.sections import KINDS
from report.synthetic import ASSAYS, NEQUIP, write_run, write_study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "nequip", NEQUIP)


def _load(*folders: Path):
    return load_runs(folders, folders[0].parent.parent / "report" / "report.html", KINDS)


def test_every_record_has_a_source_with_path_hash_and_command(run: Path) -> None:
    (loaded,) = _load(run)
    assert set(loaded.sources) == {"run", *ASSAYS}
    source = loaded.sources["accuracy"]
    assert source.path == "../runs/nequip/assays/accuracy.json"
    assert source.sha256 == hashlib.sha256((run / "assays" / "accuracy.json").read_bytes()).hexdigest()
    assert source.arrays_sha256 == hashlib.sha256((run / "assays" / "accuracy.npz").read_bytes()).hexdigest()
    assert source.command == "fireassay assay nequip accuracy"
    assert len({s.id for s in loaded.sources.values()}) == 9


def test_splits_come_coolest_first_whatever_their_names(tmp_path: Path) -> None:
    splits = {"hot.test": 900.0, "<b>cold": 100.0, "mild": 300.0}
    runs = _load(write_run(tmp_path / "a" / "x", replace(NEQUIP, splits=splits, frames=5), ("accuracy", "uncertainty")))
    assert split_names(runs, AccuracyResult) == ["<b>cold", "mild", "hot.test"]
    assert split_names(runs, UncertaintyResult) == ["<b>cold", "mild", "hot.test"]


def test_labels_are_folder_names_made_distinct(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "run", NEQUIP, ("metrics",)) for parent in ("a", "b")]
    assert [r.label for r in load_runs(folders, tmp_path / "r.html", KINDS)] == ["a/run", "b/run"]


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
        ("assays/accuracy.json", lambda b: b'{"version": 2, "values": {"a": 3}}'),
        ("assays/accuracy.json", lambda b: b.replace(b'"assay": "accuracy"', b'"assay": "landscape"')),
        ("assays/stability.npz", lambda b: b[: len(b) // 2]),
        ("assays/stability.npz", lambda b: b""),
        ("metrics.jsonl", lambda b: b[:500] + b"\n" + b[500:]),
        ("metrics.jsonl", lambda b: b"\xff\xfe\n"),
        ("run.json", lambda b: b"{"),
        ("run.json", lambda b: b"[1]"),
    ],
)
def test_a_damaged_record_is_named(run: Path, name: str, damage) -> None:
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        _load(run)
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_older_record_is_refused_with_the_command_that_renews_it(run: Path) -> None:
    path = run / "assays" / "accuracy.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"version": 1})
    with pytest.raises(InputError, match=r"version 1, .* fireassay assay \S+ accuracy$"):
        _load(run)


def test_a_renamed_field_is_no_missing_value(run: Path) -> None:
    path = run / "assays" / "accuracy.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"rmse_percent"', '"rmse_share"'), encoding="utf-8")
    with pytest.raises(InputError, match="rmse_share"):
        _load(run)


def test_records_of_another_potential_are_left_out_and_named(run: Path) -> None:
    record = load_assay(run / "assays" / "stability.json", StabilityResult)
    replace(record, weights="of another").save(run / "assays")
    loaded = _load(run)[0]
    assert loaded.result(StabilityResult) is None
    assert loaded.result(AccuracyResult) is not None
    assert set(loaded.left_out) == {"stability"}
    assert loaded.left_out["stability"].command == f"fireassay assay {run} stability"
    landscape = load_assay(run / "assays" / "landscape.json", KINDS["landscape"])
    replace(landscape, frames={"train": "others"}).save(run / "assays")
    assert "training frames" in _load(run)[0].left_out["landscape"].reason


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run folder"):
        load_runs([], page, KINDS)
    with pytest.raises(InputError, match="not a folder"):
        load_runs([tmp_path / "absent"], page, KINDS)
    with pytest.raises(InputError, match=r"no run\.json"):
        load_runs([tmp_path / "empty"], page, KINDS)
    with pytest.raises(InputError, match="named twice"):
        load_runs([tmp_path / "empty", tmp_path / "empty"], page, KINDS)


def test_two_runs_do_not_share_source_marks(tmp_path: Path) -> None:
    runs = load_runs(write_study(tmp_path, ("metrics", "landscape")), tmp_path / "r.html", KINDS)
    marks = [source.id for run in runs for source in run.sources.values()]
    assert marks == ["S1", "S2", "S3", "S4", "S5", "S6"]
