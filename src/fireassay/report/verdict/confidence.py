"""Are the error bars honest, and may the loss entropies be compared?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fireassay.records.landscape import Entropy, LandscapeResult
from fireassay.records.typed import encode
from fireassay.records.uncertainty import Calibration, UncertaintyResult
from fireassay.report.criteria import Criteria
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names, with_result
from fireassay.report.style import digits, percent
from fireassay.report.verdict.finding import Finding, joined, names, some
from fireassay.statistics.interval import standard_error, two_sided

Honesty = Literal["honest", "overconfident", "underconfident", "undecided"]


def calibration_of(run: Run, split: str) -> Calibration | None:
    """The numbers of the estimator that the potential uses."""
    result = run.result(UncertaintyResult)
    data = result.splits.get(split) if result is not None else None
    return None if result is None or data is None else data.estimators.get(result.estimator)


def honesty_of(found: Calibration, criteria: Criteria) -> Honesty:
    """By the interval of the interpolated area: on which side of the threshold it lies; by the area without one."""
    area = found.area
    low = area.value if area.low is None else area.low
    high = area.value if area.high is None else area.high
    if high <= criteria.calibrated:
        return "honest"
    if low > criteria.calibrated:
        return "overconfident" if found.over >= found.under else "underconfident"
    return "undecided"


def confidence(runs: Sequence[Run], criteria: Criteria) -> list[Finding]:
    """Per run what its error bars are worth, split by split."""
    findings = []
    for run in runs:
        splits = split_names([run], UncertaintyResult, training=False)
        rows = [(split, c) for split in splits if (c := calibration_of(run, split)) is not None]
        if not rows:
            continue
        by: dict[Honesty, list[str]] = {}
        for split, c in rows:
            by.setdefault(honesty_of(c, criteria), []).append(_with_area(split, c, honesty_of(c, criteria)))
        claims: dict[Honesty, str] = {
            "honest": "honest at",
            "overconfident": "too small at",
            "underconfident": "too large at",
            "undecided": "not told from honest ones at",
        }
        words = [f"{claim} {joined(by[name])}" for name, claim in claims.items() if name in by]
        parts = [f"The error bars of {run.label} are {joined(words)}."]
        parts += _wall(run, splits)
        rho = [(split, c.spearman) for split, c in rows]
        weak = [s for s, r in rho if (r.value if r.high is None else r.high) < criteria.informative]
        if weak:
            parts.append(
                f"They say little about which atoms err at {joined(weak)} (Spearman below {criteria.informative:g})."
            )
        elif all((r.value if r.low is None else r.low) >= criteria.informative for _, r in rho):
            low = min(r.value for _, r in rho)
            parts.append(f"They rank the atoms by error on every split (Spearman at least {digits(low, 2)}).")
        evidence = [("figure-calibration", "calibration"), ("table-uncertainty", "numbers")]
        findings.append(Finding(" ".join(parts), evidence, sources_of([run], UncertaintyResult), run.index))
    return findings


def _with_area(split: str, found: Calibration, honesty: Honesty) -> str:
    if honesty == "overconfident":
        return f"{split} (A+ {digits(found.over, 2)})"
    if honesty == "underconfident":
        return f"{split} (A− {digits(found.under, 2)})"
    return split


def _wall(run: Run, splits: Sequence[str]) -> list[str]:
    result = run.result(UncertaintyResult)
    assert result is not None
    ratios = []
    for split in splits:
        data, found = result.splits[split], calibration_of(run, split)
        if found is not None and data.mean_error:
            ratios.append((found.mean_uncertainty / data.mean_error, split))
    if not ratios:
        return []
    ratio, split = min(ratios)
    domain = result.splits[split].domain
    far = (
        f", where {percent(domain.outside_fraction)} of the {domain.atoms} atoms lie outside the training domain"
        if domain.atoms
        else ""
    )
    return [f"At {split} the mean predicted error is {percent(ratio)} of the true one{far}."] if ratio < 0.8 else []


def _total(result: LandscapeResult) -> Entropy | None:
    lines = result.lines.get("filter")
    return lines.entropy.total if lines is not None else None


def entropy(runs: Sequence[Run], significance: float) -> list[Finding]:
    """The loss entropies, ranked only within one architecture and one setting, corrected for all pairs of these."""
    tested = [(run, r, s) for run, r in with_result(runs, LandscapeResult) if (s := _total(r)) is not None]
    if len(tested) < 2:
        return []
    alike: dict[str, list[tuple[Run, Entropy]]] = {}
    for run, result, found in tested:
        key = f"{result.architecture} {encode(result.setting)[0]}"
        alike.setdefault(key, []).append((run, found))
    evidence = [("table-entropy", "entropies")]
    findings = []
    for members in alike.values():
        if len(members) < 2:
            continue
        values = some([f"{run.label} {_worded(s)}" for run, s in members])
        best, below = largest([s for _, s in members], significance)
        beaten = [members[row][0] for row in below]
        reading = (
            f"{members[best][0].label} has a flatter valley than {names(beaten)}, in one training."
            if beaten
            else "None is told from the others beyond the spread over directions, all pairs taken together."
        )
        source = sources_of([run for run, _ in members], LandscapeResult)
        findings.append(Finding(f"Loss entropies at equal settings: {values}. {reading}", evidence, source))
    alone = [members[0] for members in alike.values() if len(members) == 1]
    if alone:
        values = some([f"{run.label} {_worded(s)}" for run, s in alone])
        text = (
            f"Loss entropies ({values}) are shown but not used to rank: they compare potentials of one architecture "
            "at one setting, on the same frames and directions, only."
        )
        findings.append(Finding(text, evidence, sources_of([run for run, _ in alone], LandscapeResult)))
    return findings


def largest(entropies: Sequence[Entropy], significance: float) -> tuple[int, list[int]]:
    """The row of the largest entropy, and the rows that lie below it beyond chance, all pairs taken together."""
    best = max(range(len(entropies)), key=lambda row: entropies[row].value)
    pairs = len(entropies) * (len(entropies) - 1) // 2
    p = [_equal(entropies[best], other) for other in entropies]
    return best, [row for row, value in enumerate(p) if row != best and value * pairs < significance]


def _equal(one: Entropy, other: Entropy) -> float:
    """The two-sided p of two entropies over independent directions being equal; 1 without an interval of both."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return 1.0
    first = standard_error(one.low, one.high, len(one.each))
    second = standard_error(other.low, other.high, len(other.each))
    return two_sided(one.value - other.value, float(np.hypot(first, second)), min(len(one.each), len(other.each)) - 1)


def _worded(found: Entropy) -> str:
    interval = "" if found.low is None or found.high is None else f" ({digits(found.low)} to {digits(found.high)})"
    return f"{digits(found.value)}{interval}"
