"""Stability in molecular dynamics: survival curves, times to failure and what broke first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run
from fireassay.report.sections.chapter import Chapter, missing_assay
from fireassay.report.statistics import log_rank, wilson
from fireassay.report.style import symbol
from fireassay.report.tables import Column, Table

# What does not decide when a trajectory fails.
_INCIDENTAL = ("seed", "replicas", "skin", "max_edges", "record_every", "confidence", "protocol", "relax_force_limit")
_INCIDENTAL_PREFIXES = ("drift_", "last_")


def survival(run: Run) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Times to failure or to the end (R,) in fs, and whether each trajectory failed (R,)."""
    time = run.array("stability", "time_to_failure", (None,))
    failed = run.array("stability", "failed", (None if time is None else len(time),))
    if time is None or failed is None or not len(time):
        return None
    return time.astype(float), failed.astype(bool)


def compare(a: Run, b: Run) -> float | None:
    """The p value of the log-rank test, None when a record or an equal protocol is missing."""
    first, second = survival(a), survival(b)
    if first is None or second is None or protocol_differences(a, b):
        return None
    return log_rank(*first, *second)


def protocol_differences(a: Run, b: Run) -> list[str]:
    """The settings of the protocol in which two stability assays differ."""
    first, second = a.assays["stability"].settings, b.assays["stability"].settings
    names = [n for n in {**first, **second} if n not in _INCIDENTAL and not n.startswith(_INCIDENTAL_PREFIXES)]
    differing = [name for name in names if first.get(name) != second.get(name)]
    one, two = (run.array("stability", "atomic_numbers", (None,)) for run in (a, b))
    if one is not None and two is not None and not np.array_equal(one, two):
        differing.append("atoms")
    return differing


def chapter(runs: Sequence[Run]) -> Chapter:
    """Everything that the stability assay says."""
    tested = [run for run in runs if "stability" in run.assays and survival(run) is not None]
    missing = missing_assay(runs, "stability", "stability assay")
    if not tested:
        return Chapter("stability", "Stability in molecular dynamics", "", missing=missing)
    lead = (
        "Independent trajectories from one start with different velocities. A trajectory has failed when a criterion "
        "of the protocol is violated for the first time; one that reaches the end is censored there."
    )
    figures = [_curves(tested), _times(tested), *_thermostat(tested)]
    tables = [_summary(tested), *_log_rank(tested), *_drift(tested), *_failures(tested)]
    return Chapter("stability", "Stability in molecular dynamics", lead, figures, tables, missing)


def _duration(run: Run) -> float:
    duration = run.number("stability", "duration")
    times = survival(run)
    return duration or (float(times[0].max()) if times else 0.0)


def _curves(runs: Sequence[Run]) -> Figure:
    bands, lines = [], []
    for run in runs:
        time = run.array("stability", "kaplan_meier.time", (None,))
        if time is None:
            continue
        k = len(time)
        middle, low, high = (
            run.array("stability", f"kaplan_meier.{name}", (k,)) for name in ("survival", "lower", "upper")
        )
        if middle is None:
            continue
        if low is not None and high is not None:
            name = f"{run.label}, 95 %"
            bands.append(Series("band", time / 1000, 100 * low, run.index, name, 100 * high, opacity=0.16))
        lines.append(Series("steps", time / 1000, 100 * middle, run.index, run.label, width=2.4))
    span = (0.0, max(_duration(run) for run in runs) / 1000)
    panel = Panel("", "time (ps)", "trajectories alive (%)", bands + lines, x_range=span, y_range=(-1.0, 103.0))
    caption = (
        "Kaplan-Meier estimate of the share of trajectories that have not failed, with its pointwise 95 % band. "
        "Bands that overlap widely mean that the number of trajectories cannot tell the potentials apart."
    )
    source = sources_of(runs, "stability")
    return Figure("figure-survival", "Survival", caption, [panel], source, [("band", "95 % band")])


def _times(runs: Sequence[Run]) -> Figure:
    series, ticks = [], {}
    for row, run in enumerate(reversed(runs)):
        times = survival(run)
        assert times is not None
        time, failed = times[0] / 1000, times[1]
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
                series.append(
                    Series(
                        "points", time[chosen], offset[chosen], run.index, f"{run.label}, {what}", size=7, open=hollow
                    )
                )
    span = (0.0, 1.03 * max(_duration(run) for run in runs) / 1000)
    panel = Panel("", "time to failure (ps)", "", series, x_range=span, y_range=(-0.6, len(runs) - 0.4), ticks=ticks)
    caption = (
        "Time to failure of every trajectory; hollow marks reached the end alive. The upright bar is the median, the "
        "broad line spans the quartiles, both with survivors counted at the end."
    )
    key = [("open", "alive at the end")]
    source = sources_of(runs, "stability")
    return Figure("figure-time-to-failure", "Time to failure", caption, [panel], source, key)


def _thermostat(runs: Sequence[Run]) -> list[Figure]:
    series = []
    for run in runs:
        time = run.array("stability", "time", (None,))
        kelvin = run.array("stability", "temperature", (None if time is None else len(time), None))
        if time is None or kelvin is None or kelvin.shape[1] == 0:
            continue
        alive = np.isfinite(kelvin).any(1)
        if alive.any():
            step = max(1, int(alive.sum()) // 300)
            middle = np.nanmedian(kelvin[alive], axis=1)[::step]
            series.append(Series("line", time[alive][::step] / 1000, middle, run.index, run.label, width=1.6))
    if not series:
        return []
    panel = Panel("", "time (ps)", "temperature (K)", series)
    caption = "Median temperature of the trajectories still alive: whether the thermostat held what was asked of it."
    return [Figure("figure-thermostat", "Temperature held", caption, [panel], sources_of(runs, "stability"))]


def _summary(runs: Sequence[Run]) -> Table:
    columns = [
        Column("potential", text=True),
        Column("temperature", "K", "K", record="settings: temperature", trim=True),
        Column("duration", "fs", "ps", 1e-3, "duration", trim=True),
        Column("trajectories", record="n_replicas"),
        Column("failed", record="failed"),
        Column("survived", "", "%", 100.0, "survival_fraction"),
        Column("from, 95 %", "", "%", 100.0, "Wilson interval of survival_fraction"),
        Column("to, 95 %", "", "%", 100.0, "Wilson interval of survival_fraction"),
        *(
            Column(f"time to failure, {name}", "fs", "ps", 1e-3, f"time_to_failure.{name}")
            for name in ("mean", "std", "median", "q25", "q75")
        ),
        Column("median of the survival curve", "fs", "ps", 1e-3, "median_survival"),
        Column("replica-steps per second", "1/s", "1/s", record="replica_steps_per_second"),
    ]
    rows = []
    for run in runs:
        times = survival(run)
        assert times is not None
        n, dead = len(times[0]), int(times[1].sum())
        low, high = wilson(n - dead, n)
        number = [run.number("stability", column.record) for column in columns]
        temperature = run.assays["stability"].settings.get("temperature")
        temperature = float(temperature) if isinstance(temperature, int | float) else None
        rows.append([run.label, temperature, number[2], n, dead, 1 - dead / n, low, high, *number[8:]])
    caption = "Times count a survivor as failing at the end, so that mean and quartiles are lower bounds."
    return Table(
        "table-stability", "Survival", caption, columns, rows, sources_of(runs, "stability"), [r.index for r in runs]
    )


def _drift(runs: Sequence[Run]) -> list[Table]:
    columns = [
        Column("potential", text=True),
        Column("drift", "meV/atom/ps", "meV/atom/ps", record="drift.rate"),
        Column("drift at half the time step", "meV/atom/ps", "meV/atom/ps", record="drift.rate_half_step"),
        Column("fluctuation", "meV/atom", "meV/atom", record="drift.fluctuation"),
        Column("fluctuation at half the time step", "meV/atom", "meV/atom", record="drift.fluctuation_half_step"),
        Column("ratio of fluctuations", record="drift.fluctuation_ratio"),
    ]
    rows = [[run.label, *(run.number("stability", column.record) for column in columns[1:])] for run in runs]
    known = [(row, run.index) for row, run in zip(rows, runs, strict=True) if any(v is not None for v in row[1:])]
    if not known:
        return []
    caption = (
        "Total energy at constant energy, without a thermostat. The fluctuation of a smooth potential falls fourfold "
        "when the time step is halved; one that falls less has forces that jump."
    )
    body, marks = [row for row, _ in known], [mark for _, mark in known]
    source = sources_of(runs, "stability")
    return [Table("table-drift", "Conservation of energy", caption, columns, body, source, marks)]


def _log_rank(runs: Sequence[Run]) -> list[Table]:
    rows: list[list[Any]] = []
    for a, b in combinations(runs, 2):
        p = compare(a, b)
        if p is None:
            rows.append([a.label, b.label, None, f"not compared: {', '.join(protocol_differences(a, b))} differ"])
        else:
            rows.append([a.label, b.label, p, "survival differs" if p < 0.05 else "within noise"])
    columns = [
        Column("first", text=True),
        Column("second", text=True),
        Column("p value", record="log-rank test on time_to_failure, failed"),
        Column("reading", text=True),
    ]
    caption = "Log-rank test of equal survival: a small p value means that chance alone hardly explains the difference."
    source = sources_of(runs, "stability")
    return [Table("table-log-rank", "Are the differences real?", caption, columns, rows, source)] if rows else []


def failures(run: Run) -> list[dict[str, Any]]:
    """The recorded failures, checked.

    Raises InputError when the record is no list of objects.
    """
    quantity = run.assays["stability"].values.get("failures")
    value = quantity.value if quantity else []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{run.folder / 'assays' / 'stability.json'}: failures is no list of failures; run it again")
    return value


def _failures(runs: Sequence[Run]) -> list[Table]:
    rows, marks = [], []
    for run in runs:
        numbers = run.array("stability", "atomic_numbers", (None,))
        for item in sorted(failures(run), key=lambda f: _plain_number(f.get("time")) or 0.0):
            rows.append(
                [
                    run.label,
                    None if _plain_number(item.get("replica")) is None else int(item["replica"]),
                    _plain_number(item.get("time")),
                    str(item.get("criterion", "")).replace("_", " "),
                    " – ".join(_atom(a, numbers) for a in _list(item.get("atoms"))),
                    _plain_number(item.get("value")),
                    _plain_number(item.get("limit")),
                    str(item.get("unit", "")),
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
    ]
    caption = "Every failure, earliest first; atoms by symbol and index from 0."
    source = sources_of(runs, "stability")
    return [Table("table-failures", "Failures", caption, columns, rows, source, marks, True)] if rows else []


def _plain_number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _atom(index: Any, numbers: NDArray[np.int64] | None) -> str:
    if numbers is None or not isinstance(index, int) or not 0 <= index < len(numbers):
        return str(index)
    return f"{symbol(int(numbers[index]))}{index}"
