"""What the records do not say."""

from __future__ import annotations

from collections.abc import Sequence

from fireassay.report.figures import sources_of
from fireassay.report.runs import ASSAYS, Run
from fireassay.report.style import brief
from fireassay.report.verdict.advice import md_temperature, normalised_errors
from fireassay.report.verdict.finding import Finding, joined, names


def cautions(runs: Sequence[Run]) -> list[Finding]:
    """Missing assays, unfinished trainings, and where the evidence ends."""
    findings = []
    if len(runs) > 1:
        text = (
            "Each potential is one training from one seed. A difference holds for these weights; it does not rank the "
            "architectures."
        )
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    for assay in ASSAYS:
        lacking = [
            r for r in runs if assay not in r.assays and not (r.calculator and assay in ("landscape", "uncertainty"))
        ]
        if lacking:
            text = (
                f"{names(lacking)} {'has' if len(lacking) == 1 else 'have'} no {assay} assay: nothing is known there."
            )
            findings.append(Finding(text, [(assay, "how to add it")], []))
    prints = {str(run.record["data"].get("fingerprint")) for run in runs if isinstance(run.record.get("data"), dict)}
    if len(prints) > 1:
        text = "The potentials were trained on different data or splits: a difference may come from the data alone."
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    findings += _diverged(runs)
    unfinished = [run for run in runs if run.record.get("status", "finished") != "finished"]
    if unfinished:
        states = ", ".join(f"{run.label}: {run.record.get('status')}" for run in unfinished)
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
        findings.append(Finding(text, [("table-accuracy", "errors")], sources_of(runs, "accuracy", "stability")))
    return findings


def _diverged(runs: Sequence[Run]) -> list[Finding]:
    findings = []
    for run in runs:
        counts = [(s, run.number("accuracy", f"{s}.not_finite") or 0) for s in run.splits("accuracy")]
        words = [f"{int(count)} at {split}" for split, count in counts if count]
        if words:
            text = f"{run.label} gave no finite prediction for some frames ({joined(words)}); no error is stated there."
            findings.append(Finding(text, [("table-accuracy", "errors")], sources_of([run], "accuracy")))
    return findings
