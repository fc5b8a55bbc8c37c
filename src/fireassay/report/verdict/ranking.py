"""Who is better than whom, beyond noise: by force and energy error on every split, and by survival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.sections import accuracy, stability
from fireassay.report.style import brief, digits, p_value
from fireassay.report.verdict.advice import limit, survival_of
from fireassay.report.verdict.finding import Criteria, Finding, joined, names


@dataclass(frozen=True)
class Ranking:
    """One question put to all potentials: the best, those it beats beyond noise, those not told apart from it.

    `margins` holds, per rival, the interval of its RMSE minus that of the best in meV, or the p value, as words.
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


def headline(runs: Sequence[Run], forces: Sequence[Ranking], survival: Sequence[Ranking], criteria: Criteria) -> str:
    """The verdict in one sentence."""
    if len(runs) == 1:
        return limit(runs[0], criteria)
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


def accuracy_rankings(runs: Sequence[Run], criteria: Criteria, quantity: str) -> list[Ranking]:
    """One ranking per split by the RMSE of "forces" or "energy", training frames aside."""
    rankings = []
    for split in split_names(runs, "accuracy", training=False):
        name = f"{split}.{'forces' if quantity == 'forces' else 'energy_per_atom'}.rmse"
        scored = [(run.number("accuracy", name), run) for run in runs]
        ranked = [run for _, run in sorted(((e, r) for e, r in scored if e is not None), key=lambda pair: pair[0])]
        if len(ranked) < 2:
            continue
        confidence = 1 - criteria.significance / (len(ranked) - 1)
        gap = accuracy.compare(ranked[0], ranked[1], split, confidence, quantity) if len(ranked) == 2 else None
        if gap is not None and not gap.decided:
            ranked.sort(key=lambda run: run.index)  # of two that are tied, neither is the best
        ranking = Ranking(split, ranked[0], [], [], [], {})
        for run in ranked[1:]:
            gap = accuracy.compare(run, ranked[0], split, confidence, quantity)
            (ranking.unlike if gap is None else ranking.beaten if gap.low > 0 else ranking.tied).append(run)
            if gap is not None:
                ranking.margins[run.index] = f"{digits(1000 * gap.low, 2)} to {digits(1000 * gap.high, 2)}"
        rankings.append(ranking)
    return rankings


def accuracy_findings(rankings: Sequence[Ranking], criteria: Criteria, quantity: str) -> list[Finding]:
    """Rankings with the same outcome in one sentence."""
    groups: dict[tuple[int, ...], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.outcome, []).append(ranking)
    unit, what = ("meV/Å", "force") if quantity == "forces" else ("meV/atom", "energy")
    findings = []
    for members in groups.values():
        first = members[0]
        rivals = [*first.beaten, *first.tied]
        level = f"{brief(100 * (1 - criteria.significance / max(len(rivals + first.unlike), 1)))} %"
        where = f"At {joined([m.question for m in members])}"
        margins = {run.index: joined([m.margins[run.index] for m in members]) for run in rivals}
        parts = _gaps(first, margins, where, what, f"{unit} ({level} interval)")
        if first.unlike:
            parts.append(f"{where} {names(first.unlike)} was tested on other frames: no comparison is drawn.")
        evidence = [("table-accuracy", "errors"), ("table-differences", "differences")]
        findings.append(
            Finding(" ".join(parts), evidence, sources_of([first.best, *rivals, *first.unlike], "accuracy"))
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
        (first.tied, f"differs in {what} RMSE by no more than noise from"),
    ):
        if group:
            rivals = joined([f"{run.label} ({margins[run.index]})" for run in group])
            parts.append(f"{where} {best} {claim} {rivals}, in {unit}.")
    return parts


def stability_ranking(runs: Sequence[Run], criteria: Criteria) -> list[Ranking]:
    """At most one ranking, by survival."""
    tested = [(survival.share, survival.mean_time, run) for run in runs if (survival := survival_of(run)) is not None]
    if len(tested) < 2:
        return []
    ranked = [run for *_, run in sorted(tested, key=lambda item: item[:2], reverse=True)]
    ranking = Ranking("stability", ranked[0], [], [], [], {})
    for run in ranked[1:]:
        p = stability.compare(ranked[0], run)
        beaten = p is not None and p < criteria.significance / (len(ranked) - 1)
        (ranking.unlike if p is None else ranking.beaten if beaten else ranking.tied).append(run)
        ranking.margins[run.index] = "" if p is None else p_value(p)
    return [ranking]


def stability_findings(rankings: Sequence[Ranking]) -> list[Finding]:
    """The ranking by survival in words."""
    findings = []
    for ranking in rankings:
        everyone = [ranking.best, *ranking.beaten, *ranking.tied, *ranking.unlike]
        parts = [f"Trajectories alive at the end: {joined([f'{r.label} {survival_of(r)}' for r in everyone])}."]
        for group, claim in (
            (ranking.beaten, "survives longer than"),
            (ranking.tied, "differs by no more than noise from"),
        ):
            if group:
                rivals = joined([f"{run.label} (log-rank {ranking.margins[run.index]})" for run in group])
                parts.append(f"{ranking.best.label} {claim} {rivals}.")
        if ranking.unlike:
            parts.append(f"{names(ranking.unlike)} ran another protocol: no comparison is drawn.")
        evidence = [("figure-survival", "survival"), ("table-log-rank", "test")]
        findings.append(Finding(" ".join(parts), evidence, sources_of(everyone, "stability")))
    return findings
