"""The verdict says what the numbers bear, no more, and where each sentence comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fireassay.records.accuracy import AccuracyResult
from fireassay.report.criteria import Criteria
from fireassay.report.runs import load_runs
from fireassay.report.sections import KINDS
from fireassay.report.study import Study
from fireassay.report.verdict import Verdict, verdict
from report.synthetic import ASSAYS, MACE, NEQUIP, edit, write_run


def _verdict(folder: Path, *characters, assays: tuple[str, ...] = ASSAYS, criteria: Criteria | None = None) -> Verdict:
    folders = [write_run(folder / c.family, c, assays) for c in characters]
    return _of(folders, criteria)


def _of(folders: list[Path], criteria: Criteria | None = None) -> Verdict:
    return verdict(Study.of(load_runs(folders, folders[0].parent / "report.html", KINDS), criteria))


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
    result = _of(folders)
    assert "flat has a flatter valley than sharp" in _text(result.reasons)


def test_other_frames_are_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / c.family, c, ("accuracy",)) for c in (NEQUIP, replace(MACE, frames=60))]
    result = _of(folders)
    assert "tested on other frames: no comparison is drawn" in _text(result.reasons)
    assert "allow no comparison" in result.headline


def test_the_limit_is_the_last_temperature_that_passed(tmp_path: Path) -> None:
    hot = replace(NEQUIP, forces=0.03, growth=1.8)
    limited = _verdict(tmp_path, hot, assays=("accuracy",))
    (run,) = load_runs([tmp_path / "nequip"], tmp_path / "r.html", KINDS)
    shares = {split: data.forces.rmse_percent for split, data in run.result(AccuracyResult).splits.items()}
    assert shares["600K"] <= 10 < shares["1200K"]
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
    edit(folder, "stability", lambda r: replace(r, protocol=replace(r.protocol, temperature=600.0)))
    result = _of([folder])
    assert result.headline.startswith("Do not run x at 600 K: its force errors are small up to 1200 K, and yet")


def test_survivors_alone_bound_the_failure_rate(tmp_path: Path) -> None:
    result = _verdict(tmp_path, replace(MACE, lifetime=1e9), assays=("stability",))
    assert "All 30 trajectories of 6 ps at 1600 K survived; a failure rate of up to 11 %" in _text(result.advice)


def test_another_protocol_is_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / c.family, c, ("stability",)) for c in (NEQUIP, MACE)]
    edit(folders[1], "stability", lambda r: replace(r, protocol=replace(r.protocol, temperature=300.0)))
    result = _of(folders)
    assert "another protocol (temperature): no comparison is drawn" in _text(result.reasons)


def test_overconfidence_is_said_with_its_area(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", NEQUIP, ("uncertainty", "accuracy"))
    areas = {"300K": (0.02, 0.01, 0.01), "600K": (0.21, 0.21, 0.0), "1200K": (0.3, 0.0, 0.3)}

    def change(result):
        splits = {}
        for split, (area, over, under) in areas.items():
            own = result.splits[split].estimators["published"]
            rho = 0.1 if split == "1200K" else own.spearman.value
            found = replace(
                own,
                area=replace(own.area, value=area, low=area - 0.01, high=area + 0.01),
                over=over,
                under=under,
                spearman=replace(own.spearman, value=rho, low=rho - 0.03, high=rho + 0.03),
            )
            splits[split] = replace(result.splits[split], estimators={"published": found})
        return replace(result, splits=splits)

    edit(folder, "uncertainty", change)
    text = _text(_of([folder]).reasons)
    assert "honest at 300K, too small at 600K (A+ 0.21) and too large at 1200K (A− 0.30)" in text
    assert "say little about which atoms err at 1200K" in text


def test_labels_with_braces_and_missing_temperatures_are_harmless(tmp_path: Path) -> None:
    splits = {"cold": 300.0, "hot": 900.0}
    first, second = (replace(c, splits=splits, temperatures=False) for c in (NEQUIP, MACE))
    folder = write_run(tmp_path / "{0}{x}%{y}", first, ("accuracy",))
    other = write_run(tmp_path / "b", second, ("accuracy",))
    result = _of([folder, other])
    assert "Trust b more than {0}{x}%{y}" in result.headline
    assert "no split has a temperature to set a limit by" in _text(result.advice)


def test_without_temperatures_the_bad_splits_are_named(tmp_path: Path) -> None:
    splits = {"liquid": 300.0, "surface": 1200.0}
    liquid = replace(NEQUIP, splits=splits, forces=0.03, growth=1.8, temperatures=False)
    folder = write_run(tmp_path / "x", liquid, ("accuracy",))
    result = _of([folder])
    assert result.headline == "Do not use x there: its force error is too large at surface."


def test_the_training_frames_decide_nothing(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / c.family, replace(c, splits={"train": 300.0}), ("accuracy", "uncertainty"))
        for c in (NEQUIP, MACE)
    ]
    result = _of(folders)
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


def test_who_diverges_has_lost_whatever_its_other_errors(tmp_path: Path) -> None:
    result = _verdict(tmp_path, NEQUIP, replace(MACE, forces=0.002, diverged=1), assays=("accuracy",))
    assert result.headline.startswith("Trust nequip more than mace")
    assert "no finite prediction on 1 frames" in _text(result.reasons)
    assert "Do not use mace: already at 300 K it diverges." in _text(result.advice)
    assert "mace gave no finite prediction for some frames (1 of 100 at 300K" in _text(result.cautions)
    assert {cells[0].text for run, cells in result.overview if run.label == "mace"} == {"diverges"}


def test_two_frames_decide_nothing(tmp_path: Path) -> None:
    few = [replace(c, frames=2) for c in (NEQUIP, replace(MACE, forces=0.002))]
    result = _verdict(tmp_path, *few, assays=("accuracy",))
    assert result.headline.startswith("The evidence does not separate")
    assert "too few independent frames to decide" in _text(result.cautions)


def test_twenty_equal_rivals_are_not_separated(tmp_path: Path) -> None:
    equals = [replace(NEQUIP, family=f"p{i}", seed=3 * i, frames=40) for i in range(20)]
    result = _verdict(tmp_path, *equals, assays=("accuracy", "stability"))
    assert result.headline.startswith("The evidence does not separate")


def test_a_few_survivors_are_no_proof_of_breaking_or_of_holding(tmp_path: Path) -> None:
    few = _verdict(tmp_path, replace(MACE, lifetime=1e9, replicas=5), assays=("stability",))
    assert "no failure seen" in few.overview[0][1][0].note
    assert few.overview[0][1][0].grade == "fair"
    many = _verdict(tmp_path, replace(MACE, lifetime=1e9, replicas=60), assays=("stability",))
    assert many.overview[0][1][0].grade == "good"


def test_another_start_is_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / c.family, c, ("stability",)) for c in (NEQUIP, MACE)]
    edit(folders[1], "stability", lambda r: replace(r, start=replace(r.start, fingerprint="elsewhere")))
    assert "another protocol (start): no comparison is drawn" in _text(_of(folders).reasons)


def test_entropies_within_their_spread_are_not_ranked(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", NEQUIP, ("landscape",)),
        write_run(tmp_path / "b", replace(NEQUIP, sharpness=1.02), ("landscape",)),
    ]
    assert "None is told from the others beyond the spread over directions" in _text(_of(folders).reasons)
    edit(folders[1], "landscape", lambda r: replace(r, setting=replace(r.setting, seed=1)))
    assert "not used to rank" in _text(_of(folders).reasons)


def test_sentences_on_many_potentials_name_some_of_them(tmp_path: Path) -> None:
    """Forty runs: no sentence lists more than eight, no finding more than a dozen files; the tables have all."""
    folders = []
    for k in range(40):
        character = replace(NEQUIP, forces=0.02 + 0.002 * k, frames=30, seed=k)
        folders.append(write_run(tmp_path / f"run{k:02d}", character, ("accuracy", "stability")))
    result = _of(folders)
    for finding in [*result.reasons, *result.cautions]:
        assert len(re.findall(r"run\d\d", finding.text)) <= 17, finding.text
    assert len(re.findall(r"run\d\d", result.headline)) <= 17
    assert "others" in _text(result.reasons)
