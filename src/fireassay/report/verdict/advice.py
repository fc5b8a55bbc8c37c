"""Where one potential may be used: up to which temperature its forces hold and its trajectories survive."""

from __future__ import annotations

from typing import NamedTuple

from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.sections import stability
from fireassay.report.statistics import wilson
from fireassay.report.style import brief, digits, percent
from fireassay.report.verdict.finding import Criteria, Finding, joined


class Survival(NamedTuple):
    """How many of how many trajectories reached the end, and the mean time to failure in fs, survivors at the end."""

    alive: int
    trajectories: int
    mean_time: float

    @property
    def share(self) -> float:
        """Alive over all."""
        return self.alive / self.trajectories

    def __str__(self) -> str:
        return f"{self.alive} of {self.trajectories}"


def survival_of(run: Run) -> Survival | None:
    """The outcome of the stability assay; None when there was none."""
    times = stability.survival(run) if "stability" in run.assays else None
    if times is None:
        return None
    return Survival(int((~times[1]).sum()), len(times[0]), float(times[0].mean()))


def md_temperature(run: Run) -> float | None:
    """The temperature of the stability assay in K, as set."""
    value = run.assays["stability"].settings.get("temperature") if "stability" in run.assays else None
    return float(value) if isinstance(value, int | float) else None


def normalised_errors(run: Run) -> list[tuple[float | None, str, float]]:
    """Temperature, split and force RMSE in % of the reference's spread, coolest first, without the training frames."""
    rows = []
    for split in split_names([run], "accuracy", training=False):
        share = run.number("accuracy", f"{split}.forces.rmse_percent")
        if share is not None:
            rows.append((run.temperature(split), split, share))
    return rows


def advice(run: Run, criteria: Criteria) -> list[Finding]:
    """One finding: the limit of use and the numbers behind it."""
    parts, evidence, kinds = [limit(run, criteria)], [], []
    rows = normalised_errors(run)
    if rows:
        numbers = [f"{digits(share, 2)} % at {split}" for _, split, share in rows]
        parts.append(f"Force RMSE in shares of the reference's spread: {joined(numbers)}.")
        evidence.append(("table-accuracy", "errors"))
        kinds.append("accuracy")
    survival = survival_of(run)
    if survival is not None:
        parts.append(_survival_sentence(run, survival))
        evidence.append(("figure-survival", "survival"))
        kinds.append("stability")
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
    bad = timed[len(good)][0] if len(good) < len(timed) else None
    if not good:
        return f"Do not use {run.label}: already at {brief(timed[0][0])} K its force error is too large."
    if broken is not None and broken <= good[-1]:
        return (
            f"Do not run {run.label} at {brief(broken)} K: its force errors are small up to {brief(good[-1])} K, and "
            "yet its trajectories break."
        )
    if bad is None and broken is None:
        return f"{run.label}: no limit found up to {brief(good[-1])} K, the hottest split tested."
    reasons = [f"at {brief(bad)} K its force error is too large"] if bad is not None else []
    reasons += [f"at {brief(broken)} K its trajectories break"] if broken is not None else []
    return f"Do not use {run.label} above {brief(good[-1])} K: {joined(reasons)}."


def _limit_by_split(
    run: Run, rows: list[tuple[float | None, str, float]], broken: float | None, criteria: Criteria
) -> str:
    bad = [split for _, split, share in rows if share > criteria.usable]
    reasons = [f"its force error is too large at {joined(bad)}"] if bad else []
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


def _breaks(run: Run, criteria: Criteria) -> bool:
    survival = survival_of(run)
    return survival is not None and survival.share < criteria.survival


def _survival_sentence(run: Run, survival: Survival) -> str:
    alive, n = survival.alive, survival.trajectories
    low, high = wilson(alive, n)
    duration, kelvin = run.number("stability", "duration"), md_temperature(run)
    run_of = f"{brief((duration or 0) / 1000)} ps" + (f" at {brief(kelvin)} K" if kelvin is not None else "")
    if alive == n:
        return (
            f"All {n} trajectories of {run_of} survived; a failure rate of up to {percent(1 - low)} per trajectory is "
            "still compatible with that (95 %)."
        )
    interval = f"95 % interval {percent(low)} to {percent(high)}"
    return f"{n - alive} of {n} trajectories of {run_of} failed (survival {percent(survival.share)}, {interval})."
