"""Where one potential may be used: up to which temperature its forces hold and its trajectories survive."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from fireassay.records.accuracy import AccuracyResult
from fireassay.records.stability import StabilityResult
from fireassay.report.criteria import Criteria
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.style import brief, digits, percent
from fireassay.report.verdict.finding import Finding, joined
from fireassay.statistics.interval import Interval
from fireassay.statistics.survival import share_alive


class Survival(NamedTuple):
    """How many of how many trajectories reached the end."""

    alive: int
    trajectories: int

    @property
    def share(self) -> Interval:
        """Alive over all, with Wilson's 95 % interval."""
        return share_alive(self.alive, self.trajectories)

    def outcome(self, criteria: Criteria) -> Literal["stable", "breaks", "undecided"]:
        """On which side of the threshold the whole interval lies."""
        _, low, high = self.share
        return "stable" if low >= criteria.survival else "breaks" if high < criteria.survival else "undecided"

    def __str__(self) -> str:
        return f"{self.alive} of {self.trajectories}"


def survival_of(run: Run) -> Survival | None:
    """The outcome of the stability assay; None when there was none."""
    result = run.result(StabilityResult)
    return None if result is None else Survival(int((~result.failed).sum()), len(result.failed))


def md_temperature(run: Run) -> float | None:
    """The temperature of the stability assay in K."""
    result = run.result(StabilityResult)
    return None if result is None else result.protocol.temperature


def normalised_errors(run: Run) -> list[tuple[float | None, str, float]]:
    """Temperature, split and force RMSE in % of the reference's spread, coolest first, without the training frames.

    Infinite where the potential gave no finite prediction for a frame.
    """
    result = run.result(AccuracyResult)
    rows = []
    for split in split_names([run], AccuracyResult, training=False):
        assert result is not None
        data = result.splits[split]
        share = data.forces.rmse_percent if data.forces is not None else None
        if data.not_finite:
            share = math.inf
        if share is not None:
            rows.append((run.temperature(split), split, share))
    return rows


def advice(run: Run, criteria: Criteria) -> list[Finding]:
    """One finding: the limit of use and the numbers behind it."""
    parts, evidence = [limit(run, criteria)], []
    kinds: list[type] = []
    rows = normalised_errors(run)
    if rows:
        numbers = [
            f"{digits(share, 2)} % at {split}" if math.isfinite(share) else f"not finite at {split}"
            for _, split, share in rows
        ]
        parts.append(f"Force RMSE in shares of the reference's spread: {joined(numbers)}.")
        evidence.append(("table-accuracy", "errors"))
        kinds.append(AccuracyResult)
    survival = survival_of(run)
    if survival is not None:
        parts.append(_survival_sentence(run, survival, criteria))
        evidence.append(("figure-survival", "survival"))
        kinds.append(StabilityResult)
    return [Finding(" ".join(parts), evidence, sources_of([run], *kinds), run.index)] if kinds else []


def limit(run: Run, criteria: Criteria) -> str:
    """The advice in one sentence."""
    rows = normalised_errors(run)
    broken = md_temperature(run) if _breaks(run, criteria) else None
    timed = [(kelvin, share) for kelvin, _, share in rows if kelvin is not None]
    if not timed:
        return _limit_by_split(run, rows, broken, criteria)
    good = []
    for kelvin, share in timed:
        if share > criteria.usable:
            break
        good.append(kelvin)
    bad = timed[len(good)] if len(good) < len(timed) else None
    if not good:
        return f"Do not use {run.label}: already at {brief(timed[0][0])} K {_fault(timed[0][1])}."
    if broken is not None and broken <= good[-1]:
        return (
            f"Do not run {run.label} at {brief(broken)} K: its force errors are small up to {brief(good[-1])} K, and "
            "yet its trajectories break."
        )
    if bad is None and broken is None:
        return f"{run.label}: no limit found up to {brief(good[-1])} K, the hottest split tested."
    reasons = [f"at {brief(bad[0])} K {_fault(bad[1])}"] if bad is not None else []
    reasons += [f"at {brief(broken)} K its trajectories break"] if broken is not None else []
    return f"Do not use {run.label} above {brief(good[-1])} K: {joined(reasons)}."


def _limit_by_split(
    run: Run, rows: list[tuple[float | None, str, float]], broken: float | None, criteria: Criteria
) -> str:
    bad = [split for _, split, share in rows if criteria.usable < share < math.inf]
    lost = [split for _, split, share in rows if not math.isfinite(share)]
    reasons = [f"it diverges at {joined(lost)}"] if lost else []
    reasons += [f"its force error is too large at {joined(bad)}"] if bad else []
    reasons += [f"its trajectories break at {brief(broken)} K"] if broken is not None else []
    if reasons:
        return f"Do not use {run.label} there: {joined(reasons)}."
    if not rows and survival_of(run) is None:
        return (
            f"The records of {run.label} say neither how accurate its forces are nor whether its trajectories survive."
        )
    if not rows:
        return f"{run.label} kept its trajectories alive; how accurate its forces are was not measured."
    return f"{run.label}: force errors are small enough on every split; no split has a temperature to set a limit by."


def _fault(share: float) -> str:
    return "its force error is too large" if math.isfinite(share) else "it diverges"


def _breaks(run: Run, criteria: Criteria) -> bool:
    survival = survival_of(run)
    return survival is not None and survival.outcome(criteria) == "breaks"


def _survival_sentence(run: Run, survival: Survival, criteria: Criteria) -> str:
    alive, n = survival.alive, survival.trajectories
    share, low, high = survival.share
    result = run.result(StabilityResult)
    assert result is not None
    run_of = f"{brief(result.protocol.duration / 1000)} ps at {brief(result.protocol.temperature)} K"
    if alive == n:
        return (
            f"All {n} trajectories of {run_of} survived; a failure rate of up to {percent(1 - low)} per trajectory is "
            "still compatible with that (95 %)."
        )
    words = (
        f"{n - alive} of {n} trajectories of {run_of} failed (survival {percent(share)}, 95 % interval {percent(low)} "
        f"to {percent(high)})"
    )
    if survival.outcome(criteria) == "undecided":
        words += f"; so few do not tell whether {percent(criteria.survival)} survive"
    return f"{words}."
