"""Who is better than whom, beyond noise: by force and energy error on every split, and by survival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fireassay.records.accuracy import AccuracyResult, Errors, SplitAccuracy
from fireassay.records.stability import StabilityResult
from fireassay.report.comparisons import ErrorComparison, Quantity, protocol_differences
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names, with_result
from fireassay.report.study import Study
from fireassay.report.style import digits, p_value
from fireassay.report.verdict.advice import limit, survival_of
from fireassay.report.verdict.finding import MOST, Finding, joined, names, some


@dataclass(frozen=True)
class Ranking:
    """One question put to all potentials: the best, those it beats beyond noise, those not told apart from it.

    `margins` holds, per rival, what its comparison with the best gave, in words.
    """

    question: str
    best: Run
    beaten: list[Run]
    tied: list[Run]
    unlike: list[Run]
    margins: dict[int, str]

    @property
    def outcome(self) -> tuple[int, ...]:
        """The same for two questions with the same answer."""
        groups = (self.beaten, self.tied, self.unlike)
        return (self.best.index, *(index for group in groups for index in (-1, *(run.index for run in group))))


def headline(study: Study, forces: Sequence[Ranking], survival: Sequence[Ranking]) -> str:
    """The verdict in one sentence."""
    runs = study.runs
    if len(runs) == 1:
        return limit(runs[0], study.criteria)
    rankings = [r for r in [*forces, *survival] if r.beaten or r.tied]
    decided = [r for r in rankings if r.beaten]
    if not rankings:
        return "The records allow no comparison: no two potentials share an assay on the same frames or protocol."
    if not decided:
        return f"The evidence does not separate {names(runs)}: every difference is within noise."
    losers = {run.index for r in decided for run in r.beaten}
    front = [run for run in runs if run.index not in losers]
    winners = [run for run in front if any(r.best is run for r in decided)]
    if len(front) == 1 and winners:
        wins = [r for r in decided if r.best is winners[0]]
        beaten = [run for run in runs if any(run in r.beaten for r in wins)]
        note = "" if len(decided) == len(rankings) else "; elsewhere the difference is within noise"
        return f"Trust {winners[0].label} more than {names(beaten)}: {_reasons(wins, forces)}{note}."
    if winners:
        behind = [run for run in runs if run.index in losers]
        return f"{names(front)} are ahead of {names(behind)}; among themselves the evidence does not separate them."
    leads: dict[int, list[Ranking]] = {}
    for r in decided:
        leads.setdefault(r.best.index, []).append(r)
    words = [f"{group[0].best.label}, because {_reasons(group, forces)}" for group in leads.values()]
    return f"No potential wins everywhere. For {'; for '.join(words)}."


def _reasons(wins: Sequence[Ranking], forces: Sequence[Ranking]) -> str:
    splits = [r.question for r in wins if any(r is f for f in forces)]
    parts = [f"its forces are closer to the reference at {joined(splits)}"] if splits else []
    parts += ["its trajectories survive longer"] if len(splits) < len(wins) else []
    return " and ".join(parts)


def accuracy_rankings(study: Study, quantity: Quantity) -> list[Ranking]:
    """One ranking per split by the RMSE of "forces" or "energy", training frames aside; who diverges comes last."""
    rankings = []
    for split in split_names(study.runs, AccuracyResult, training=False):
        scored = [(run, r.splits[split]) for run, r in with_result(study.runs, AccuracyResult) if split in r.splits]
        ranked = [
            run for run, data in sorted(scored, key=lambda pair: _rank(pair[1], quantity)) if _has(data, quantity)
        ]
        if len(ranked) < 2:
            continue
        if len(ranked) == 2:
            only = study.comparisons.of_errors(ranked[0], ranked[1], split, quantity)
            if only is not None and only.better is None:
                ranked.sort(key=lambda run: run.index)  # of two that are tied, neither is the best
        ranking = Ranking(split, ranked[0], [], [], [], {})
        for run in ranked[1:]:
            c = study.comparisons.of_errors(ranked[0], run, split, quantity)
            group = ranking.unlike if c is None else ranking.beaten if c.better is ranked[0] else ranking.tied
            group.append(run)
            if c is not None:
                ranking.margins[run.index] = _margin(c, run)
        rankings.append(ranking)
    return rankings


def _errors(data: SplitAccuracy, quantity: Quantity) -> Errors | None:
    return data.forces if quantity == "forces" else data.energy_per_atom


def _has(data: SplitAccuracy, quantity: Quantity) -> bool:
    return _errors(data, quantity) is not None


def _rank(data: SplitAccuracy, quantity: Quantity) -> tuple[int, float]:
    errors = _errors(data, quantity)
    rmse = errors.rmse if errors is not None else None
    return data.not_finite, float("inf") if rmse is None else rmse


def _margin(c: ErrorComparison, rival: Run) -> str:
    """By how much the rival is worse, in meV, or on how many frames it alone has no finite prediction."""
    lost = c.found.diverged if rival is c.second else c.found.diverged[::-1]
    if lost[1] and not lost[0]:
        return f"no finite prediction on {lost[1]} frames"
    value, low, high = c.found.difference
    if np.isnan(low):
        return f"not decided on {c.found.units}"
    value, low, high = (-value, -high, -low) if rival is c.second else (value, low, high)
    return f"{digits(1000 * low, 2)} to {digits(1000 * high, 2)}"


def accuracy_findings(rankings: Sequence[Ranking], study: Study, quantity: Quantity) -> list[Finding]:
    """Rankings with the same outcome in one sentence."""
    groups: dict[tuple[int, ...], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.outcome, []).append(ranking)
    unit, what = ("meV/Å", "force") if quantity == "forces" else ("meV/atom", "energy")
    level = f"{100 * (1 - study.criteria.significance):g} %"
    findings = []
    for members in groups.values():
        first = members[0]
        rivals = [*first.beaten, *first.tied]
        where = f"At {joined([m.question for m in members])}"
        margins = {run.index: joined([m.margins[run.index] for m in members]) for run in rivals}
        parts = _gaps(first, margins, where, what, f"{unit} ({level} interval)")
        if len(rivals) == 1:
            counted = [study.comparisons.of_errors(m.best, rivals[0], m.question, quantity) for m in members]
            units = [str(c.found.units) for c in counted if c is not None]
            each = " on each split" if len(units) > 1 else ""
            parts.append(f"Independent are {units[0] + each if len(set(units)) == 1 else joined(units)}.")
        if first.unlike:
            parts.append(f"{where} {names(first.unlike)} was tested on other frames: no comparison is drawn.")
        evidence = [("table-accuracy", "errors"), ("table-differences", "differences")]
        findings.append(
            Finding(" ".join(parts), evidence, sources_of([first.best, *rivals, *first.unlike], AccuracyResult))
        )
    return findings


def _gaps(first: Ranking, margins: dict[int, str], where: str, what: str, unit: str) -> list[str]:
    """Sentences on the rivals that were compared: one for a pair, a list for many."""
    best = first.best.label
    if len(margins) == 1 and first.beaten:
        return [
            f"{where} {best} has a lower {what} RMSE than {first.beaten[0].label}: by {margins.popitem()[1]} {unit}."
        ]
    if len(margins) == 1:
        pair = f"{best} and {first.tied[0].label}"
        return [f"{where} the {what} RMSE of {pair} differ by no more than noise: {margins.popitem()[1]} {unit}."]
    parts = []
    for group, claim in (
        (first.beaten, f"has a lower {what} RMSE than"),
        (first.tied, f"differs in {what} RMSE, all comparisons taken together, by no more than noise from"),
    ):
        if group:
            rivals = some([f"{run.label} ({margins[run.index]})" for run in group])
            parts.append(f"{where} {best} {claim} {rivals}, in {unit}.")
    return parts


def stability_rankings(study: Study) -> list[Ranking]:
    """At most one ranking, by the mean lifetime within the time that was watched."""
    tested = with_result(study.runs, StabilityResult)
    if len(tested) < 2:
        return []
    ranked = sorted(tested, key=lambda pair: float(pair[1].time_to_failure.mean()), reverse=True)
    best, theirs = ranked[0]
    ranking = Ranking("stability", best, [], [], [], {})
    for run, result in ranked[1:]:
        c = study.comparisons.of_survival(best, run)
        group = ranking.unlike if c is None else ranking.beaten if c.longer is best else ranking.tied
        group.append(run)
        if c is None:
            ranking.margins[run.index] = joined(protocol_differences(theirs, result)).replace("_", " ")
        else:
            crossing = ", the curves cross" if c.found.cross else ""
            ranking.margins[run.index] = f"log-rank {p_value(c.p)} of all comparisons{crossing}"
    return [ranking]


def stability_findings(rankings: Sequence[Ranking]) -> list[Finding]:
    """The ranking by survival in words."""
    findings = []
    for ranking in rankings:
        everyone = [ranking.best, *ranking.beaten, *ranking.tied, *ranking.unlike]
        parts = [f"Trajectories alive at the end: {some([f'{r.label} {survival_of(r)}' for r in everyone])}."]
        for group, claim in (
            (ranking.beaten, "survives longer than"),
            (ranking.tied, "differs by no more than noise from"),
        ):
            if group:
                rivals = some([f"{run.label} ({ranking.margins[run.index]})" for run in group])
                parts.append(f"{ranking.best.label} {claim} {rivals}.")
        for run in ranking.unlike[:MOST]:
            parts.append(f"{run.label} ran another protocol ({ranking.margins[run.index]}): no comparison is drawn.")
        if len(ranking.unlike) > MOST:
            parts.append(f"So did {len(ranking.unlike) - MOST} others.")
        evidence = [("figure-survival", "survival"), ("table-log-rank", "test")]
        findings.append(Finding(" ".join(parts), evidence, sources_of(everyone, StabilityResult)))
    return findings
