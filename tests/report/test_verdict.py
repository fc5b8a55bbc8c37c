"""The verdict says what the numbers bear, no more, and where each sentence comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fireassay.records import AssayResult, Quantity
from fireassay.report.runs import load_runs
from fireassay.report.verdict import Criteria, Verdict, verdict
from report.synthetic import ASSAYS, MACE, NEQUIP, write_run


def _verdict(folder: Path, *characters, assays: tuple[str, ...] = ASSAYS, criteria: Criteria | None = None) -> Verdict:
    folders = [write_run(folder / c.family, c, assays) for c in characters]
    return verdict(load_runs(folders, folder / "report.html"), criteria or Criteria())


def _text(findings) -> str:
    return " ".join(finding.text for finding in findings)


def test_a_clear_winner_is_named_with_its_reasons(tmp_path: Path) -> None:
    result = _verdict(tmp_path, NEQUIP, replace(MACE, lifetime=30000.0))
    assert result.headline == (
        "Trust mace more than nequip: its forces are closer to the reference at 300K, 600K and 1200K and its "
        "trajectories survive longer."
    )
    assert "mace has a lower force RMSE than nequip: by" in _text(result.reasons)


def test_equals_are_not_separated(tmp_path: Path) -> None:
    result = _verdict(tmp_path, NEQUIP, replace(NEQUIP, family="twin", seed=5))
    assert result.headline == "The evidence does not separate nequip and twin: every difference is within noise."
    assert "differ by no more than noise" in _text(result.reasons)


def test_a_split_decision_names_both(tmp_path: Path) -> None:
    result = _verdict(tmp_path, replace(NEQUIP, lifetime=60000.0), replace(MACE, lifetime=300.0))
    assert result.headline.startswith("No potential wins everywhere.")
    assert "nequip, because its trajectories survive longer" in result.headline
    assert "mace, because its forces are closer to the reference at 300K, 600K and 1200K" in result.headline


def test_every_finding_has_evidence_and_every_number_a_source(tmp_path: Path) -> None:
    result = _verdict(tmp_path, NEQUIP, MACE)
    for finding in [*result.advice, *result.reasons, *result.cautions]:
        assert finding.evidence, finding.text
        assert finding.sources, finding.text


def test_entropies_of_two_architectures_are_not_ranked(tmp_path: Path) -> None:
    result = _verdict(tmp_path, NEQUIP, MACE, assays=("landscape",))
    assert "not used to rank" in _text(result.reasons)
    assert "allow no comparison" in result.headline


def test_entropies_of_one_architecture_are_ranked(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "sharp", replace(NEQUIP, sharpness=3.0), ("landscape",)),
        write_run(tmp_path / "flat", NEQUIP, ("landscape",)),
    ]
    result = verdict(load_runs(folders, tmp_path / "r.html"), Criteria())
    assert "flat has the flattest valley" in _text(result.reasons)


def test_other_frames_are_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / c.family, c, ("accuracy",)) for c in (NEQUIP, replace(MACE, frames=60))]
    result = verdict(load_runs(folders, tmp_path / "r.html"), Criteria())
    assert "tested on other frames: no comparison is drawn" in _text(result.reasons)
    assert "allow no comparison" in result.headline


def test_the_limit_is_the_last_temperature_that_passed(tmp_path: Path) -> None:
    hot = replace(NEQUIP, forces=0.03, growth=1.8)
    limited = _verdict(tmp_path, hot, assays=("accuracy",))
    shares = {
        split: AssayResult.load(tmp_path / "nequip" / "assays" / "accuracy.json").values[f"{split}.forces.rmse_percent"]
        for split in hot.splits
    }
    assert shares["600K"].value <= 10 < shares["1200K"].value
    assert limited.headline == "Do not use nequip above 600 K: at 1200 K its force error is too large."


def test_no_limit_is_claimed_beyond_what_was_tested(tmp_path: Path) -> None:
    result = _verdict(tmp_path, MACE, assays=("accuracy",))
    assert result.headline == "mace: no limit found up to 1200 K, the hottest split tested."
    assert "no stability assay: nothing is known there" in _text(result.cautions)


def test_a_potential_that_fails_everywhere_is_advised_against(tmp_path: Path) -> None:
    result = _verdict(tmp_path, replace(NEQUIP, forces=0.4), assays=("accuracy",))
    assert result.headline == "Do not use nequip: already at 300 K its force error is too large."


def test_small_errors_do_not_excuse_breaking_trajectories(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", replace(MACE, lifetime=300.0), ("accuracy", "stability"))
    record = AssayResult.load(folder / "assays" / "stability.json")
    replace(record, settings={**record.settings, "temperature": 600.0}).save(folder / "assays")
    result = verdict(load_runs([folder], tmp_path / "r.html"), Criteria())
    assert result.headline.startswith("Do not run x at 600 K: its force errors are small up to 1200 K, and yet")


def test_survivors_alone_bound_the_failure_rate(tmp_path: Path) -> None:
    result = _verdict(tmp_path, replace(MACE, lifetime=1e9), assays=("stability",))
    assert "All 30 trajectories of 6 ps at 1600 K survived; a failure rate of up to 11 %" in _text(result.advice)


def test_another_protocol_is_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / c.family, c, ("stability",)) for c in (NEQUIP, MACE)]
    record = AssayResult.load(folders[1] / "assays" / "stability.json")
    replace(record, settings={**record.settings, "temperature": 300.0}).save(folders[1] / "assays")
    result = verdict(load_runs(folders, tmp_path / "r.html"), Criteria())
    assert "another protocol: no comparison is drawn" in _text(result.reasons)


def test_overconfidence_is_said_with_its_area(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", NEQUIP, ("uncertainty", "accuracy"))
    record = AssayResult.load(folder / "assays" / "uncertainty.json")
    values = {
        **record.values,
        **{f"300K.{n}": Quantity(v) for n, v in (("area", 0.02), ("area_over", 0.01), ("area_under", 0.01))},
        **{f"600K.{n}": Quantity(v) for n, v in (("area", 0.21), ("area_over", 0.21), ("area_under", 0.0))},
        **{f"1200K.{n}": Quantity(v) for n, v in (("area", 0.3), ("area_over", 0.0), ("area_under", 0.3))},
        "1200K.spearman": Quantity(0.1),
    }
    replace(record, values=values).save(folder / "assays")
    text = _text(verdict(load_runs([folder], tmp_path / "r.html"), Criteria()).reasons)
    assert "honest at 300K, too small at 600K (A+ 0.21) and too large at 1200K (A− 0.30)" in text
    assert "say little about which atoms err at 1200K" in text


def test_labels_with_braces_and_missing_temperatures_are_harmless(tmp_path: Path) -> None:
    splits = {"cold": 300.0, "hot": 900.0}
    folder = write_run(tmp_path / "{0}{x}%{y}", replace(NEQUIP, splits=splits), ("accuracy",))
    other = write_run(tmp_path / "b", replace(MACE, splits=splits), ("accuracy",))
    for path in (folder, other):
        record = AssayResult.load(path / "assays" / "accuracy.json")
        values = {k: v for k, v in record.values.items() if not k.endswith(".temperature")}
        replace(record, values=values).save(path / "assays")
    result = verdict(load_runs([folder, other], tmp_path / "r.html"), Criteria())
    assert "Trust b more than {0}{x}%{y}" in result.headline
    assert "no split has a temperature to set a limit by" in _text(result.advice)


def test_without_temperatures_the_bad_splits_are_named(tmp_path: Path) -> None:
    splits = {"liquid": 300.0, "surface": 1200.0}
    folder = write_run(tmp_path / "x", replace(NEQUIP, splits=splits, forces=0.03, growth=1.8), ("accuracy",))
    record = AssayResult.load(folder / "assays" / "accuracy.json")
    values = {k: v for k, v in record.values.items() if not k.endswith(".temperature")}
    replace(record, values=values).save(folder / "assays")
    result = verdict(load_runs([folder], tmp_path / "r.html"), Criteria())
    assert result.headline == "Do not use x there: its force error is too large at surface."


def test_the_training_frames_decide_nothing(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / c.family, replace(c, splits={"train": 300.0}), ("accuracy", "uncertainty"))
        for c in (NEQUIP, MACE)
    ]
    result = verdict(load_runs(folders, tmp_path / "r.html"), Criteria())
    assert result.headline.startswith("The records allow no comparison")
    assert result.columns == []


def test_stricter_criteria_change_the_words(tmp_path: Path) -> None:
    result = _verdict(tmp_path, MACE, assays=("accuracy",), criteria=Criteria(accurate=0.5, usable=1.0))
    assert result.headline.startswith("Do not use mace")
    assert {cell.grade for _, cells in result.overview for cell in cells} == {"poor"}


@pytest.mark.parametrize("number", [3, 5])
def test_many_potentials_are_compared_with_the_best_at_a_corrected_level(tmp_path: Path, number: int) -> None:
    levels = np.linspace(0.02, 0.06, number)
    characters = [replace(NEQUIP, family=f"p{i}", forces=float(f), seed=i) for i, f in enumerate(levels)]
    result = _verdict(tmp_path, *characters, assays=("accuracy",))
    assert result.headline.startswith("Trust p0 more than p1")
    corrected = {3: "97.5 %", 5: "98.75 %"}[number]
    assert corrected in _text(result.reasons)
