"""Uncertainty: does the predicted error follow the true one, and are its intervals honest?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fireassay.records.uncertainty import Calibration, Estimate, UncertaintyResult
from fireassay.report.figures import Figure, Panel, Rule, Series, sources_of
from fireassay.report.runs import Run, split_names, with_result
from fireassay.report.sections.chapter import PAGE, Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.tables import Column, Table, of_field

BINS = 48


Members = Sequence[tuple[Run, UncertaintyResult]]


def chapter(study: Study) -> Chapter:
    """Everything that the uncertainty assay says."""
    tested = with_result(study.runs, UncertaintyResult)
    missing = missing_assay(study.runs, "uncertainty", weights=True)
    missing += [(f"{run.label} on {split}: {why}", "") for run, r in tested for split, why in r.refused.items()]
    if not tested:
        return Chapter("uncertainty", "Uncertainty", "", missing=missing)
    splits = split_names([run for run, _ in tested], UncertaintyResult)

    def figures(page: Members) -> list[Figure]:
        return [
            *_density(page, splits, BINS if len(tested) <= PAGE else BINS // 3),
            *_calibration(page, splits),
            *_ratio(page, splits),
        ]

    lead = (
        "The predicted error of an atom is what the training errors of its nearest neighbours in descriptor space let "
        "expect (LTAU). It is tested against the true error, the length of the force error vector."
    )
    tables = [_table(tested), _domain(tested), _cost(tested)]
    return Chapter("uncertainty", "Uncertainty", lead, paged(tested, figures), tables, missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What the estimator is, and what the intervals rest on."""
    tested = with_result(runs, UncertaintyResult)
    if not tested:
        return []
    ks = " or ".join(dict.fromkeys(str(result.k) for _, result in tested))
    return [
        (
            f"The predicted error of an atom is the expectation of the mean error histogram of its {ks} nearest "
            "training atoms in the space of the potential's descriptors, the histograms having been collected during "
            "training.",
            ["ltau"],
        ),
        (
            "Intervals of calibration areas, correlations, AUROC and recall are jackknife intervals that leave out one "
            "independent unit of frames at a time.",
            ["efron"],
        ),
    ]


def estimators(result: UncertaintyResult, split: str) -> list[tuple[str, Calibration]]:
    """Name and numbers of each estimator that judged a split, first the one that the potential uses."""
    return sorted(result.splits[split].estimators.items(), key=lambda item: item[0] != result.estimator)


def _density(tested: Members, splits: Sequence[str], bins: int) -> list[Figure]:
    pairs = []
    for run, result in tested:
        for split in splits:
            if split not in result.splits or not result.splits[split].estimators:
                continue
            guess, error = estimators(result, split)[0][1].uncertainty, result.splits[split].error
            known = np.isfinite(guess) & np.isfinite(error) & (guess > 0) & (error > 0)
            if known.any():
                pairs.append((run, split, 1000 * guess[known], 1000 * error[known]))
    if not pairs:
        return []
    low = min(min(np.quantile(g, 0.002), np.quantile(e, 0.01)) for *_, g, e in pairs)
    high = max(max(g.max(), np.quantile(e, 0.9999)) for *_, g, e in pairs)
    edges = np.geomspace(low, max(high, 2 * low), bins + 1)
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
    source = sources_of([run for run, _ in tested], UncertaintyResult)
    return [Figure("figure-uncertainty", "True against predicted error", caption, panels, source)]


def _calibration(tested: Members, splits: Sequence[str]) -> list[Figure]:
    panels = []
    for split in splits:
        series = []
        for run, result in tested:
            if split not in result.splits:
                continue
            for order, (estimator, numbers) in enumerate(estimators(result, split)):
                name, dash = f"{run.label}, {_plain(estimator)}", "dash" if order else "solid"
                x, y = 100 * result.levels, 100 * numbers.coverage
                series.append(Series("line", x, y, run.index, name, width=2.4, dash=dash))
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
    source = sources_of([run for run, _ in tested], UncertaintyResult)
    return [Figure("figure-calibration", "Calibration", caption, panels, source, _key(tested))] if panels else []


def _ratio(tested: Members, splits: Sequence[str]) -> list[Figure]:
    series = []
    for run, result in tested:
        points: dict[str, list[tuple[float, float]]] = {}
        for split in splits:
            kelvin, data = run.temperature(split), result.splits.get(split)
            if kelvin is None or data is None or not data.mean_error:
                continue
            for estimator, numbers in estimators(result, split):
                points.setdefault(estimator, []).append((kelvin, numbers.mean_uncertainty / data.mean_error))
        for order, (estimator, pairs) in enumerate(points.items()):
            if len(pairs) > 1:
                x, y = np.array(sorted(pairs)).T
                name, dash = f"{run.label}, {_plain(estimator)}", "dash" if order else "solid"
                series.append(Series("line", x, y, run.index, name, markers=True, size=9, dash=dash))
    if not series:
        return []
    top = max(1.15, 1.1 * max(float(s.y.max()) for s in series))
    label = "mean predicted / mean true error"
    panel = Panel("", "temperature (K)", label, series, [Rule("y", 1.0, "honest")], y_range=(0.0, top))
    caption = "Mean predicted over mean true force error against temperature: below 1 the errors are underestimated."
    source = sources_of([run for run, _ in tested], UncertaintyResult)
    return [Figure("figure-confidence", "Confidence against temperature", caption, [panel], source, _key(tested))]


def _key(tested: Members) -> list[tuple[str, str]]:
    """What the line styles mean, when more than one estimator was judged."""
    names = [[name for name, _ in estimators(result, split)] for _, result in tested for split in result.splits]
    first = sorted({_plain(group[0]) for group in names if group})
    second = sorted({_plain(name) for group in names for name in group[1:]})
    return [("solid", ", ".join(first)), ("dash", ", ".join(second))] if second else []


def _plain(estimator: str) -> str:
    return estimator.replace("_", "-")


def _field(path: str, label: str, **how: Any) -> Column:
    return of_field(UncertaintyResult, path, label, **how)


def _interval(path: str, label: str, **how: Any) -> list[Column]:
    return [
        _field(f"{path}.value", label, **how),
        _field(f"{path}.low", f"{label}, 95 % from", **how),
        _field(f"{path}.high", "to", **how),
    ]


def _ends(estimate: Estimate | None) -> list[float | None]:
    return [None, None, None] if estimate is None else [estimate.value, estimate.low, estimate.high]


def _table(tested: Members) -> Table:
    stem = "splits.SPLIT.estimators.ESTIMATOR"
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        Column("estimator", text=True, record="estimator"),
        _field("splits.SPLIT.not_finite", "atoms without a finite force"),
        _field("splits.SPLIT.mean_error", "mean true error"),
        _field(f"{stem}.mean_uncertainty", "mean predicted error"),
        _field(f"{stem}.over", "A+ (overconfident)"),
        _field(f"{stem}.under", "A− (underconfident)"),
        *_interval(f"{stem}.area", "|A|"),
        _field(f"{stem}.published", "|A|, as published"),
        _field(f"{stem}.sharpness", "sharpness"),
        _field(f"{stem}.pearson.value", "Pearson"),
        *_interval(f"{stem}.spearman", "Spearman"),
        _field(f"{stem}.nll", "NLL"),
        _field(f"{stem}.crps", "CRPS"),
        _field(f"{stem}.ence", "ENCE"),
        Column("independent units", text=True, record="splits.SPLIT.units, units_by"),
    ]
    rows, marks = [], []
    for run, result in tested:
        for split in run.splits(UncertaintyResult):
            data = result.splits[split]
            for name, c in estimators(result, split):
                rows.append(
                    [
                        *(run.label, split, _plain(name), data.not_finite, data.mean_error, c.mean_uncertainty),
                        *(c.over, c.under, *_ends(c.area), c.published, c.sharpness, c.pearson.value),
                        *(*_ends(c.spearman), c.nll, c.crps, c.ence, f"{data.units} ({data.units_by})"),
                    ]
                )
                marks.append(run.index)
    caption = (
        "Areas between the calibration curve and the diagonal, and correlations of predicted and true error, with "
        "intervals over independent units of frames."
    )
    source = sources_of([run for run, _ in tested], UncertaintyResult)
    return Table("table-uncertainty", "Quality of the uncertainty", caption, columns, rows, source, marks)


def _domain(tested: Members) -> Table:
    stem = "splits.SPLIT.domain"
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        _field(f"{stem}.atoms", "atoms"),
        _field(f"{stem}.large", "with a large error"),
        _field(f"{stem}.outside", "out of domain"),
        _field(f"{stem}.outside_fraction", "share out of domain", shown="%", factor=100.0),
        *_interval(f"{stem}.auroc", "AUROC of the distance"),
        *_interval(f"{stem}.auroc_uncertainty", "AUROC of the predicted error"),
        *_interval(f"{stem}.recall", "recall of large errors", shown="%", factor=100.0),
    ]
    rows, marks = [], []
    for run, result in tested:
        for split in run.splits(UncertaintyResult):
            d = result.splits[split].domain
            numbers = [*_ends(d.auroc), *_ends(d.auroc_uncertainty), *_ends(d.recall)]
            rows.append([run.label, split, d.atoms, d.large, d.outside, d.outside_fraction, *numbers])
            marks.append(run.index)
    caption = (
        "How well the distance to the training atoms, and the predicted error, find the large errors; what it rests "
        "on stands beside it. Without a large error there is nothing to find."
    )
    source = sources_of([run for run, _ in tested], UncertaintyResult)
    return Table("table-domain", "Out of domain", caption, columns, rows, source, marks)


def _cost(tested: Members) -> Table:
    columns = [
        Column("potential", text=True),
        _field("n_training_atoms", "training atoms"),
        _field("k", "neighbours"),
        _field("cost.search", "search per atom"),
        _field("cost.force", "forces per atom"),
        _field("cost.share", "share of a force call", shown="%", factor=100.0),
        _field("ood_cutoff", "distance cutoff, out of domain"),
        _field("large_error", "a large error is above"),
    ]
    rows = [
        [run.label, r.n_training_atoms, r.k, r.cost.search, r.cost.force, r.cost.share, r.ood_cutoff, r.large_error]
        for run, r in tested
    ]
    caption = "What the uncertainty costs beside the forces."
    runs = [run for run, _ in tested]
    source = sources_of(runs, UncertaintyResult)
    marks = [run.index for run in runs]
    return Table("table-uncertainty-cost", "Cost of the uncertainty", caption, columns, rows, source, marks, True)


SECTION = Section(UncertaintyResult, chapter, methods, weights=True)
