"""Stability in molecular dynamics: survival curves, times to failure and what broke first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from fireassay.records.stability import Drift, StabilityProtocol, StabilityResult
from fireassay.report.comparisons import Comparisons
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.chapter import Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.style import brief, grouped, p_value, symbol
from fireassay.report.tables import Column, Table, of_field
from fireassay.statistics.survival import share_alive

_THERMOSTATS: Final = {
    "berendsen": "Berendsen thermostat",
    "rescaling": "canonical velocity rescaling",
    "nose_hoover": "Nosé-Hoover chains",
    "langevin": "Langevin thermostat",
    "none": "no thermostat",
}
Members = Sequence[tuple[Run, StabilityResult]]


def chapter(study: Study) -> Chapter:
    """Everything that the stability assay says."""
    tested = with_result(study.runs, StabilityResult)
    missing = missing_assay(study.runs, "stability")
    if not tested:
        return Chapter("stability", "Stability in molecular dynamics", "", missing=missing)
    lead = (
        "Independent trajectories from one start with different velocities. A trajectory has failed when a criterion "
        "of the protocol is violated for the first time; one that reaches the end is censored there."
    )

    def figures(page: Members) -> list[Figure]:
        return [_curves(page), _times(page), *_thermostat(page)]

    tables = [_summary(tested), *_differences(study.comparisons), *_drift(tested), *_failures(tested)]
    return Chapter("stability", "Stability in molecular dynamics", lead, paged(tested, figures), tables, missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The protocols, and how survival was estimated and compared."""
    tested = with_result(runs, StabilityResult)
    if not tested:
        return []
    protocols: dict[str, list[str]] = {}
    for run, result in tested:
        protocols.setdefault(_described(result.protocol, len(result.failed)), []).append(run.label)
    sentences = []
    for words, members in protocols.items():
        subject = "" if len(members) == len(tested) else f" ({', '.join(members)})"
        sentences.append((f"Stability{subject}: {words}.", ["vita"]))
    sentences.append(
        (
            "Survival is the Kaplan-Meier estimate; differences under one protocol from one start are judged by the "
            "log-rank test with permuted labels, and need the restricted mean lifetime to agree.",
            ["kaplan", "mantel"],
        )
    )
    return sentences


def _described(protocol: StabilityProtocol, replicas: int) -> str:
    return (
        f"{replicas} trajectories of {brief(protocol.duration / 1000)} ps at {brief(protocol.temperature)} K with time "
        f"steps of {brief(protocol.timestep)} fs, {_THERMOSTATS.get(protocol.thermostat, protocol.thermostat)}, "
        f"watched for {', '.join(protocol.criteria).replace('_', ' ')}"
    )


def _curves(tested: Members) -> Figure:
    bands, lines = [], []
    for run, result in tested:
        curve = result.curve
        time = curve.time / 1000
        name = f"{run.label}, {100 * curve.confidence:g} %"
        bands.append(Series("band", time, 100 * curve.lower, run.index, name, 100 * curve.upper, opacity=0.16))
        lines.append(Series("steps", time, 100 * curve.survival, run.index, run.label, width=2.4))
    span = (0.0, max(result.protocol.duration for _, result in tested) / 1000)
    panel = Panel("", "time (ps)", "trajectories alive (%)", bands + lines, x_range=span, y_range=(-1.0, 103.0))
    caption = (
        "Kaplan-Meier estimate of the share of trajectories that have not failed, with its pointwise band. "
        "Bands that overlap widely mean that the number of trajectories cannot tell the potentials apart."
    )
    source = sources_of([run for run, _ in tested], StabilityResult)
    return Figure("figure-survival", "Survival", caption, [panel], source, [("band", "pointwise band")])


def _times(tested: Members) -> Figure:
    series, ticks = [], {}
    for row, (run, result) in enumerate(reversed(tested)):
        time, failed = result.time_to_failure / 1000, result.failed
        ticks[float(row)] = run.label
        offset = row + np.random.default_rng(run.index).uniform(-0.24, 0.24, len(time))
        low, middle, high = np.quantile(time, [0.25, 0.5, 0.75])
        spread = np.array([low, high])
        series.append(
            Series("line", spread, np.full(2, row), run.index, f"{run.label}, quartiles", width=7, opacity=0.3)
        )
        series.append(
            Series("line", np.full(2, middle), np.array([row - 0.33, row + 0.33]), run.index, f"{run.label}, median")
        )
        for chosen, hollow, what in ((failed, False, "failed"), (~failed, True, "still alive")):
            if chosen.any():
                name = f"{run.label}, {what}"
                series.append(Series("points", time[chosen], offset[chosen], run.index, name, size=7, open=hollow))
    span = (0.0, 1.03 * max(result.protocol.duration for _, result in tested) / 1000)
    panel = Panel("", "time to failure (ps)", "", series, x_range=span, y_range=(-0.6, len(tested) - 0.4), ticks=ticks)
    caption = (
        "Time to failure of every trajectory; hollow marks reached the end alive. The upright bar is the median, the "
        "broad line spans the quartiles, both with survivors counted at the end."
    )
    key = [("open", "alive at the end")]
    source = sources_of([run for run, _ in tested], StabilityResult)
    return Figure("figure-time-to-failure", "Time to failure", caption, [panel], source, key)


def _thermostat(tested: Members) -> list[Figure]:
    series = []
    for run, result in tested:
        kelvin = result.temperature
        alive = np.isfinite(kelvin).any(1)
        if alive.any():
            step = max(1, int(alive.sum()) // 300)
            middle = np.nanmedian(kelvin[alive], axis=1)[::step]
            time = result.time[alive][::step] / 1000
            low, high = np.nanquantile(kelvin[alive], [0.25, 0.75], axis=1)[:, ::step]
            series.append(Series("band", time, low, run.index, run.label, high, opacity=0.14, smooth=True))
            series.append(Series("line", time, middle, run.index, run.label, width=1.6))
    if not series:
        return []
    panel = Panel("", "time (ps)", "temperature (K)", series)
    caption = (
        "Median temperature of the trajectories still alive, with its quartiles: whether the thermostat held what was "
        "asked of it."
    )
    source = sources_of([run for run, _ in tested], StabilityResult)
    return [Figure("figure-thermostat", "Temperature held", caption, [panel], source)]


def _field(path: str, label: str, **how: Any) -> Column:
    return of_field(StabilityResult, path, label, **how)


def _summary(tested: Members) -> Table:
    columns = [
        Column("potential", text=True),
        _field("protocol.temperature", "temperature", trim=True),
        _field("protocol.duration", "duration", trim=True),
        Column("trajectories", record="failed"),
        Column("failed", record="failed"),
        Column("survived", "", "%", 100.0, "failed"),
        Column("from, 95 %", "", "%", 100.0, "Wilson interval of the share"),
        Column("to, 95 %", "", "%", 100.0, "Wilson interval of the share"),
        *(_field(f"times.{name}", f"time to failure, {name}") for name in ("mean", "std", "median", "q25", "q75")),
        _field("curve.median", "median of the survival curve"),
        _field("curve.mean", "restricted mean lifetime"),
        _field("replica_steps_per_second", "replica-steps per second", shown="1/s"),
    ]
    rows = []
    for run, result in tested:
        n, dead = len(result.failed), int(result.failed.sum())
        share, times = share_alive(n - dead, n), result.times
        rows.append(
            [
                run.label,
                result.protocol.temperature,
                result.protocol.duration,
                n,
                dead,
                *share,
                *(times.mean, times.std, times.median, times.q25, times.q75),
                result.curve.median,
                result.curve.mean,
                result.replica_steps_per_second,
            ]
        )
    caption = "Times count a survivor as failing at the end, so that mean and quartiles are lower bounds."
    runs = [run for run, _ in tested]
    source = sources_of(runs, StabilityResult)
    return Table("table-stability", "Survival", caption, columns, rows, source, [r.index for r in runs])


def _drift(tested: Members) -> list[Table]:
    columns = [
        Column("potential", text=True),
        _field("drift.rate", "drift"),
        _field("drift.rate_half_step", "drift at half the time step"),
        _field("drift.fluctuation", "fluctuation"),
        _field("drift.fluctuation_half_step", "fluctuation at half the time step"),
        _field("drift.fluctuation_ratio", "ratio of fluctuations"),
    ]
    known = [(run, result.drift) for run, result in tested if result.drift is not None]
    if not known:
        return []
    caption = (
        "Total energy at constant energy, without a thermostat. The fluctuation of a smooth potential falls fourfold "
        "when the time step is halved; one that falls less has forces that jump. A dash: it did not stay finite."
    )
    rows = [[run.label, *_drift_numbers(drift)] for run, drift in known]
    marks = [run.index for run, _ in known]
    source = sources_of([run for run, _ in known], StabilityResult)
    return [Table("table-drift", "Conservation of energy", caption, columns, rows, source, marks)]


def _drift_numbers(drift: Drift) -> list[float | None]:
    return [
        drift.rate,
        drift.rate_half_step,
        drift.fluctuation,
        drift.fluctuation_half_step,
        drift.fluctuation_ratio,
    ]


def _differences(comparisons: Comparisons) -> list[Table]:
    rows: list[list[Any]] = []
    for c in comparisons.survival:
        reading = f"{c.longer.label} survives longer" if c.longer else "within noise"
        if c.found.cross:
            reading += "; the curves cross"
        ends = [None if np.isnan(v) else float(v) for v in c.found.mean_difference]
        rows.append([c.first.label, c.second.label, c.found.p, p_value(c.p), *ends, reading])
    columns = [
        Column("first", text=True),
        Column("second", text=True),
        Column("p value", record="log-rank test on time_to_failure, failed"),
        Column("corrected p", text=True, record="Holm"),
        Column("difference of restricted mean lifetimes", "fs", "ps", 1e-3, "time_to_failure, failed"),
        Column("from", "fs", "ps", 1e-3, "Welch's interval"),
        Column("to", "fs", "ps", 1e-3, "Welch's interval"),
        Column("reading", text=True),
    ]
    caption = (
        "Log-rank test of equal survival under one protocol from one start, and mean lifetimes within the time that "
        "both were watched. The reading is corrected for all "
        f"{grouped(comparisons.family)} comparisons of this report, of forces, energies and survival."
    )
    source = sources_of(list({c.first.index: c.first for c in comparisons.survival}.values()), StabilityResult)
    return [Table("table-log-rank", "Are the differences real?", caption, columns, rows, source)] if rows else []


def _failures(tested: Members) -> list[Table]:
    rows, marks = [], []
    for run, result in tested:
        for item in sorted(result.failures, key=lambda f: f.time):
            rows.append(
                [
                    run.label,
                    item.replica,
                    item.time,
                    item.criterion.replace("_", " "),
                    " – ".join(f"{symbol(int(result.start.atomic_numbers[a]))}{a}" for a in item.atoms),
                    item.value,
                    item.limit,
                    item.unit,
                    item.message,
                ]
            )
            marks.append(run.index)
    columns = [
        Column("potential", text=True),
        Column("trajectory", record="failures: replica"),
        Column("time", "fs", "ps", 1e-3, "failures: time"),
        Column("criterion", record="failures: criterion", text=True),
        Column("atoms that went first", record="failures: atoms", text=True),
        Column("value", record="failures: value"),
        Column("limit", record="failures: limit"),
        Column("unit", record="failures: unit", text=True),
        Column("message", record="failures: message", text=True),
    ]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    caption = "Every failure, earliest first; atoms by symbol and index from 0."
    source = sources_of([run for run, _ in tested], StabilityResult)
    return [Table("table-failures", "Failures", caption, columns, rows, source, marks, True)] if rows else []


SECTION = Section(StabilityResult, chapter, methods)
