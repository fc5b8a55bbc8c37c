"""Training curves: errors on training and validation frames, and the learning rate, epoch by epoch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np

from fireassay.report.figures import Figure, Panel, Rule, Series, padded, sources_of
from fireassay.report.runs import Run
from fireassay.report.sections.chapter import Chapter, paged
from fireassay.report.study import Study
from fireassay.report.tables import Column, Table


def chapter(study: Study) -> Chapter:
    """Curves and the last epoch's numbers of every run with metrics."""
    runs = study.runs
    trained = [run for run in runs if len(run.metrics.get("epoch", ())) > 0]
    missing = [_missing(run) for run in runs if run not in trained]
    lead = (
        "Errors are root mean squares over one epoch. The training error is measured with the weights as they change, "
        "the validation error with those that would be kept."
    )
    if not trained:
        return Chapter("training", "Training", "", missing=missing)
    figures = paged(trained, lambda page: [_curves(page)])
    return Chapter("training", "Training", lead, figures, [_table(trained)], missing)


def _missing(run: Run) -> tuple[str, str]:
    stale = run.left_out.get("metrics")
    if stale is not None:
        return f"The training curves of {run.label} {stale.reason} and are left out.", stale.command
    if run.record.source != "training":
        kind = "a calculator" if run.calculator else f"the potential of {run.record.origin}"
        return f"{run.label} is {kind}: nothing was trained here.", ""
    return (
        f"{run.label} has no training metrics.",
        f"fireassay train CONFIG --output {shlex.quote(str(run.folder))}",
    )


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What was trained, and where the energies of isolated atoms come from."""
    trained = [run for run in runs if len(run.metrics.get("epoch", ()))]
    if not trained:
        return []
    keys = [key for key in ("nequip", "mace") if any(key == run.record.architecture for run in trained)]
    spans = ", ".join(f"{run.label} for {int(run.metrics['epoch'][-1])} epochs" for run in trained)
    sentences = [(f"Trained were {spans}, in one training loop and from one data path.", keys)]
    for run in trained:
        baseline = run.record.baseline
        if baseline is not None and baseline.e0.sentence:
            sentences.append((f"Energies of isolated atoms of {run.label}: {baseline.e0.sentence}.", []))
    return sentences


def _curves(runs: Sequence[Run]) -> Figure:
    rates = [Series("steps", r.metrics["epoch"], r.metrics["lr"], r.index, r.label) for r in runs if "lr" in r.metrics]
    panels = [
        _panel(runs, "Forces", "forces_rmse", "RMSE of forces (meV/Å)"),
        _panel(runs, "Energy", "energy_per_atom_rmse", "RMSE of energy (meV/atom)"),
        _panel(runs, "Stress", "stress_rmse", "RMSE of stress (meV/Å³)"),
        Panel(
            "Learning rate",
            "epoch",
            "learning rate",
            rates,
            y_log=True,
            y_range=padded([series.y for series in rates], log=True, share=0.1),
        ),
    ]
    stages = any(len(np.unique(r.metrics["stage"])) > 1 for r in runs if "stage" in r.metrics)
    note = (
        " A vertical line marks the start of stage two, where the weights of energy and forces change."
        if stages
        else ""
    )
    return Figure(
        "figure-training",
        "Training curves",
        f"Errors against epoch, logarithmic. Solid: validation frames; thin: training frames.{note}",
        [panel for panel in panels if panel.series],
        sources_of(runs, "metrics", "run"),
        key=[("solid", "validation"), ("thin", "training")],
    )


def _panel(runs: Sequence[Run], title: str, name: str, label: str) -> Panel:
    series, rules = [], []
    for run in runs:
        epoch = run.metrics["epoch"]
        for part, width, opacity in (("train", 1.0, 0.6), ("validation", 2.2, 1.0)):
            values = run.metrics.get(f"{part}.{name}")
            if values is not None and np.isfinite(values).any():
                series.append(
                    Series(
                        "line", epoch, 1000 * values, run.index, f"{run.label}, {part}", width=width, opacity=opacity
                    )
                )
        later = epoch[run.metrics.get("stage", np.ones(len(epoch))) > 1]
        if len(later) and f"stage two from epoch {later[0]:.0f}" not in {r.label for r in rules}:
            rules.append(Rule("x", float(later[0]), f"stage two from epoch {later[0]:.0f}"))
    return Panel(title, "epoch", label, series, rules, y_log=True, y_range=padded([s.y for s in series], log=True))


def _ending(run: Run) -> str:
    training = run.record.training
    return (training.finished if training is not None else run.record.status).replace("_", " ")


def _table(runs: Sequence[Run]) -> Table:
    names = (
        "validation.forces_rmse",
        "train.forces_rmse",
        "validation.energy_per_atom_rmse",
        "train.energy_per_atom_rmse",
    )
    columns = [
        Column("potential", text=True),
        Column("epochs", record="epoch"),
        Column("time", "s", "min", 1 / 60, "seconds"),
        Column("forces RMSE, validation", "eV/Å", "meV/Å", 1000.0, names[0]),
        Column("forces RMSE, training", "eV/Å", "meV/Å", 1000.0, names[1]),
        Column("energy RMSE, validation", "eV/atom", "meV/atom", 1000.0, names[2]),
        Column("energy RMSE, training", "eV/atom", "meV/atom", 1000.0, names[3]),
        Column("lowest forces RMSE, validation", "eV/Å", "meV/Å", 1000.0, names[0]),
        Column("at epoch", record="epoch"),
        Column("ended by", record="run.json: training.finished, status", text=True),
    ]
    rows = []
    for run in runs:
        last = {name: float(values[-1]) for name, values in run.metrics.items()}
        curve = run.metrics.get(names[0], np.full(1, np.nan))
        best = int(np.nanargmin(curve)) if np.isfinite(curve).any() else None
        rows.append(
            [
                run.label,
                int(last["epoch"]),
                last.get("seconds"),
                *(last.get(name) for name in names),
                None if best is None else float(curve[best]),
                None if best is None else int(run.metrics["epoch"][best]),
                _ending(run),
            ]
        )
    return Table(
        "table-training",
        "The end of training",
        "The last epoch of each run, and its best.",
        columns,
        rows,
        sources_of(runs, "metrics", "run"),
        [run.index for run in runs],
    )
