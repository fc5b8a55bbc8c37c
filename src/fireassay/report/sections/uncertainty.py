"""Uncertainty: does the predicted error follow the true one, and are its intervals honest?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fireassay.report.figures import Figure, Panel, Rule, Series, sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.sections.chapter import Chapter, missing_assay
from fireassay.report.tables import Column, Table, meV

BINS = 48


def chapter(runs: Sequence[Run]) -> Chapter:
    """Everything that the uncertainty assay says."""
    tested = [run for run in runs if "uncertainty" in run.assays]
    missing = missing_assay(runs, "uncertainty", "uncertainty assay")
    if not tested:
        return Chapter("uncertainty", "Uncertainty", "", missing=missing)
    splits = split_names(tested, "uncertainty")
    figures = [*_density(tested, splits), *_calibration(tested, splits), *_ratio(tested, splits)]
    lead = (
        "The predicted error of an atom is what the training errors of its nearest neighbours in descriptor space let "
        "expect (LTAU). It is tested against the true error, the length of the force error vector."
    )
    return Chapter("uncertainty", "Uncertainty", lead, figures, [_table(tested), _cost(tested)], missing)


def _density(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    pairs = []
    for run in runs:
        for split in splits:
            guess = run.array("uncertainty", f"{split}.uncertainty", (None,))
            error = run.array("uncertainty", f"{split}.error", (None if guess is None else len(guess),))
            if guess is None or error is None:
                continue
            known = np.isfinite(guess) & np.isfinite(error) & (guess > 0) & (error > 0)
            if known.any():
                pairs.append((run, split, 1000 * guess[known], 1000 * error[known]))
    if not pairs:
        return []
    low = min(min(np.quantile(g, 0.002), np.quantile(e, 0.01)) for *_, g, e in pairs)
    high = max(max(g.max(), np.quantile(e, 0.9999)) for *_, g, e in pairs)
    edges = np.geomspace(low, max(high, 2 * low), BINS + 1)
    span = (float(edges[0]), float(edges[-1]))
    panels = []
    for run, split, guess, error in pairs:
        count = np.histogram2d(np.clip(error, *span), np.clip(guess, *span), [edges, edges])[0]
        series = Series("density", edges, edges, run.index, run.label, z=count)
        title = f"{run.label} · {split}"
        panels.append(
            Panel(
                title,
                "predicted error (meV/Å)",
                "true error (meV/Å)",
                [series],
                [],
                True,
                True,
                span,
                span,
                True,
                {},
                True,
            )
        )
    caption = (
        "Atoms by predicted and true force error, both logarithmic; the stronger the colour, the more atoms "
        "(logarithmic). Above the line the error is larger than predicted. A vertical wall on the right is the largest "
        "error that the estimator can predict."
    )
    source = sources_of(runs, "uncertainty")
    return [Figure("figure-uncertainty", "True against predicted error", caption, panels, source)]


def _calibration(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    panels = []
    for split in splits:
        series = []
        for run in runs:
            levels = run.array("uncertainty", "levels", (None,))
            for order, (estimator, prefix) in enumerate(run.estimators(split)):
                coverage = run.array("uncertainty", f"{prefix}.coverage", (None if levels is None else len(levels),))
                if levels is not None and coverage is not None:
                    name, dash = f"{run.label}, {_plain(estimator)}", "dash" if order else "solid"
                    series.append(Series("line", 100 * levels, 100 * coverage, run.index, name, width=2.4, dash=dash))
        if series:
            label = "errors inside the interval (%)"
            span = (0.0, 100.0)
            panels.append(
                Panel(split, "confidence level (%)", label, series, [], False, False, span, span, True, {}, True)
            )
    caption = (
        "Share of true errors inside the predicted interval against its confidence level. On the diagonal the "
        "intervals are honest; below it they are too narrow (overconfident, area A+), above it too wide (area A−)."
    )
    source = sources_of(runs, "uncertainty")
    return [Figure("figure-calibration", "Calibration", caption, panels, source, _key(runs))] if panels else []


def _ratio(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    series = []
    for run in runs:
        points: dict[str, list[tuple[float, float]]] = {}
        for split in splits:
            for estimator, prefix in run.estimators(split):
                kelvin = run.temperature(split)
                guess = run.number("uncertainty", f"{prefix}.mean_uncertainty")
                error = run.number("uncertainty", f"{prefix}.mean_error")
                if kelvin is not None and guess is not None and error:
                    points.setdefault(estimator, []).append((kelvin, guess / error))
        for order, (estimator, pairs) in enumerate(points.items()):
            if len(pairs) > 1:
                x, y = np.array(sorted(pairs)).T
                name, dash = f"{run.label}, {_plain(estimator)}", "dash" if order else "solid"
                series.append(Series("line", x, y, run.index, name, markers=True, size=9, dash=dash))
    if not series:
        return []
    top = max(1.15, 1.1 * max(float(s.y.max()) for s in series))
    panel = Panel(
        "",
        "temperature (K)",
        "mean predicted / mean true error",
        series,
        [Rule("y", 1.0, "honest")],
        y_range=(0.0, top),
    )
    caption = "Mean predicted over mean true force error against temperature: below 1 the errors are underestimated."
    return [
        Figure(
            "figure-confidence",
            "Confidence against temperature",
            caption,
            [panel],
            sources_of(runs, "uncertainty", "accuracy"),
            _key(runs),
        )
    ]


def _key(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the line styles mean, when more than one estimator was judged."""
    names = [run.estimators(split) for run in runs for split in run.splits("uncertainty")]
    second = sorted({_plain(name) for estimators in names for name, _ in estimators[1:]})
    first = sorted({_plain(estimators[0][0]) for estimators in names})
    return [("solid", ", ".join(first)), ("dash", ", ".join(second))] if second else []


def _plain(estimator: str) -> str:
    return estimator.replace("_", "-")


def _table(runs: Sequence[Run]) -> Table:
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        Column("estimator", text=True, record="estimator"),
        meV("mean true error", "SPLIT.mean_error", "/Å"),
        meV("mean predicted error", "SPLIT.mean_uncertainty", "/Å"),
        Column("A+ (overconfident)", record="SPLIT.area_over"),
        Column("A− (underconfident)", record="SPLIT.area_under"),
        Column("|A|", record="SPLIT.area"),
        meV("sharpness", "SPLIT.sharpness", "/Å"),
        Column("Pearson", record="SPLIT.pearson"),
        Column("Spearman", record="SPLIT.spearman"),
        Column("NLL", record="SPLIT.nll"),
        meV("CRPS", "SPLIT.crps", "/Å"),
        Column("ENCE", record="SPLIT.ence"),
        Column("out of domain", "", "%", 100.0, "SPLIT.ood_fraction"),
        Column("AUROC", record="SPLIT.auroc"),
        Column("recall of large errors", "", "%", 100.0, "SPLIT.recall"),
    ]
    rows, marks = [], []
    for run in runs:
        for split in run.splits("uncertainty"):
            for estimator, prefix in run.estimators(split):
                number = [run.number("uncertainty", c.record.replace("SPLIT", prefix)) for c in columns[3:]]
                rows.append([run.label, split, _plain(estimator), *number])
                marks.append(run.index)
    caption = (
        "Areas between the calibration curve and the diagonal, correlations of predicted and true error, and how well "
        "the distance to the training atoms finds the large errors."
    )
    return Table(
        "table-uncertainty",
        "Quality of the uncertainty",
        caption,
        columns,
        rows,
        sources_of(runs, "uncertainty"),
        marks,
    )


def _cost(runs: Sequence[Run]) -> Table:
    columns = [
        Column("potential", text=True),
        Column("training atoms", record="n_training_atoms"),
        Column("neighbours", record="k"),
        Column("search per atom", "s", "µs", 1e6, "search_seconds_per_atom"),
        Column("forces per atom", "s", "µs", 1e6, "force_seconds_per_atom"),
        Column("share of a force call", "", "%", 100.0, "cost_share"),
        Column("distance cutoff, out of domain", record="ood_cutoff"),
    ]
    rows = []
    for run in runs:
        number = [run.number("uncertainty", c.record) for c in columns[1:]]
        whole = [None if v is None else int(v) for v in number[:2]]
        rows.append([run.label, *whole, *number[2:]])
    caption = "What the uncertainty costs beside the forces."
    source = sources_of(runs, "uncertainty")
    marks = [run.index for run in runs]
    return Table("table-uncertainty-cost", "Cost of the uncertainty", caption, columns, rows, source, marks, True)
