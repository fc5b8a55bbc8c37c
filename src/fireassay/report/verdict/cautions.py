"""What the records do not say."""

from __future__ import annotations

from collections.abc import Sequence

from fireassay.records.accuracy import AccuracyResult
from fireassay.records.probes import ProbesResult
from fireassay.records.stability import StabilityResult
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections import SECTIONS, of_study
from fireassay.report.study import Study
from fireassay.report.style import brief
from fireassay.report.verdict.advice import md_temperature, normalised_errors
from fireassay.report.verdict.finding import Finding, joined, names, some


def cautions(study: Study) -> list[Finding]:
    """Missing and stale assays, unfinished trainings, and where the evidence ends."""
    runs = study.runs
    findings = []
    if len(runs) > 1:
        text = (
            "Each potential is one training from one seed. A difference holds for these weights; it does not rank the "
            "architectures."
        )
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    findings += _left_out(runs)
    for assay, section in of_study(runs).items():
        lacking = [
            r
            for r in runs
            if assay not in r.assays and assay not in r.left_out and not (r.calculator and section.weights)
        ]
        if lacking:
            text = (
                f"{names(lacking)} {'has' if len(lacking) == 1 else 'have'} no {assay} assay: nothing is known there."
            )
            findings.append(Finding(text, [(assay, "how to add it")], []))
    prints = {run.record.data.fingerprint for run in runs if run.record.data is not None}
    if len(prints) > 1:
        text = "The potentials were trained on different data or splits: a difference may come from the data alone."
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    findings += _broken(runs)
    findings += _diverged(runs)
    findings += _few(study)
    unfinished = [run for run in runs if run.record.status != "finished"]
    if unfinished:
        states = some([f"{run.label}: {run.record.status}" for run in unfinished])
        findings.append(
            Finding(f"Training had not finished ({states}).", [("training", "training")], sources_of(unfinished, "run"))
        )
    known = [kelvin for run in runs for kelvin, *_ in normalised_errors(run) if kelvin is not None]
    burned = [t for run in runs if (t := md_temperature(run)) is not None]
    if known and burned and max(burned) > max(known):
        text = (
            f"Forces were tested up to {brief(max(known))} K; MD ran at {brief(max(burned))} K, where surviving says "
            "that nothing broke, not that the forces are right."
        )
        source = sources_of(runs, AccuracyResult, StabilityResult)
        findings.append(Finding(text, [("table-accuracy", "errors")], source))
    return findings


def _left_out(runs: Sequence[Run]) -> list[Finding]:
    findings = []
    for run in runs:
        for name, stale in run.left_out.items():
            what = "The training curves" if name == "metrics" else f"The {name} assay"
            anchor = "training" if name == "metrics" else name if name in SECTIONS else "provenance"
            text = f"{what} of {run.label} {stale.reason}; left out."
            findings.append(Finding(text, [(anchor, "how to renew it")], sources_of([run], "run"), run.index))
    return findings


def _broken(runs: Sequence[Run]) -> list[Finding]:
    """What probes found broken, whatever the errors on test frames."""
    findings = []
    for run, result in with_result(runs, ProbesResult):
        broken = [probe for probe in result.probes if probe.verdict == "broken"]
        if broken:
            what = broken[0].meaning or broken[0].sentence
            text = f"Probes find {run.label} broken in {joined([probe.name for probe in broken])}: {what}."
            source = sources_of([run], ProbesResult)
            findings.append(Finding(text, [("table-probes-found", "what the probes found")], source, run.index))
    return findings


def _diverged(runs: Sequence[Run]) -> list[Finding]:
    findings = []
    for run, result in with_result(runs, AccuracyResult):
        lost = [(s, result.splits[s]) for s in run.splits(AccuracyResult) if result.splits[s].not_finite]
        words = [f"{data.not_finite} of {data.frames} at {split}" for split, data in lost]
        if words:
            text = (
                f"{run.label} gave no finite prediction for some frames ({joined(words)}); its errors there are over "
                "the others only."
            )
            findings.append(Finding(text, [("table-accuracy", "errors")], sources_of([run], AccuracyResult)))
    return findings


def _few(study: Study) -> list[Finding]:
    """Splits with too few independent frames to decide anything."""
    comparisons = [c for c in study.comparisons.errors if not c.found.units.enough]
    splits = list(dict.fromkeys(c.split for c in comparisons))
    if not splits:
        return []
    least = min(comparisons, key=lambda c: c.found.units.count)
    text = f"{joined(splits)} {'has' if len(splits) == 1 else 'have'} too few independent frames to decide between "
    text += f"potentials ({least.found.units})."
    runs = [c.first for c in comparisons] + [c.second for c in comparisons]
    source = sources_of(list({run.index: run for run in runs}.values()), AccuracyResult)
    return [Finding(text, [("table-differences", "differences")], source)]
