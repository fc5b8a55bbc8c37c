"""The methods paragraph, generated from the settings in the records, and the papers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, Source
from fireassay.report.style import brief
from fireassay.report.verdict import Criteria

PAPERS = {
    "nequip": (
        "Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky",
        "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials",
    ),
    "mace": (
        "Batatia, Kovács, Simm, Ortner, Csányi",
        "MACE: Higher order equivariant message passing neural networks for fast and accurate force fields",
    ),
    "tea": (
        "Poltavsky and others",
        "Crash testing machine learning force fields for molecules, materials, and interfaces: model analysis in the "
        "TEA Challenge 2023",
    ),
    "vita": (
        "Vita, Schwalbe-Koda",
        "Data efficiency and extrapolation trends in neural network interatomic potentials",
    ),
    "ltau": (
        "Vita, Samanta, Zhou, Lordi",
        "LTAU-FF: Loss trajectory analysis for uncertainty in atomistic force fields",
    ),
    "kaplan": ("Kaplan, Meier", "Nonparametric estimation from incomplete observations"),
    "mantel": ("Mantel", "Evaluation of survival data and two new rank order statistics arising in its consideration"),
    "li": ("Li, Xu, Taylor, Studer, Goldstein", "Visualizing the loss landscape of neural nets"),
    "efron": ("Efron, Tibshirani", "An introduction to the bootstrap"),
    "kovacs": (
        "Kovács, van der Oord, Kucera, Allen, Cole, Ortner, Csányi",
        "Linear atomic cluster expansion force fields for organic molecules: beyond RMSE",
    ),
}


@dataclass(frozen=True)
class Methods:
    """Sentences with the keys of the papers they cite, the papers in order, and every setting with its source."""

    paragraphs: list[tuple[str, list[int]]]
    papers: list[tuple[str, str]]
    settings: list[tuple[str, str, str, str, Source]]
    criteria: list[tuple[str, str, str]]


def methods(runs: Sequence[Run], criteria: Criteria) -> Methods:
    """What was done, said from the records; settings that they lack are not mentioned."""
    drafts = [*_training(runs), *_accuracy(runs), *_stability(runs), *_landscape(runs), *_uncertainty(runs)]
    order = list(dict.fromkeys(key for _, keys in drafts for key in keys))
    thresholds = [
        (name, f"{value:g}", Criteria.model_fields[name].description or "")
        for name, value in criteria.model_dump().items()
    ]
    return Methods(
        [(text, [order.index(key) + 1 for key in keys]) for text, keys in drafts],
        [PAPERS[key] for key in order],
        [
            (run.label, assay, key, _shown(value), run.sources[assay])
            for run in runs
            for assay, result in run.assays.items()
            for key, value in sorted(result.settings.items())
        ],
        thresholds,
    )


def _shown(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 160 else f"{words[:157]}..."


def _architecture(run: Run) -> str:
    model = run.config.get("model")
    words = [str(v) for v in model.values() if isinstance(v, str)] if isinstance(model, dict) else []
    return " ".join([*words, run.label]).lower()


def _training(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    sentences: list[tuple[str, list[str]]]
    trained = [run for run in runs if len(run.metrics.get("epoch", ()))]
    if not trained:
        return []
    keys = [key for key in ("nequip", "mace") if any(key in _architecture(run) for run in trained)]
    spans = ", ".join(f"{run.label} for {int(run.metrics['epoch'][-1])} epochs" for run in trained)
    sentences = [(f"Trained were {spans}, in one training loop and from one data path.", keys)]
    for run in trained:
        e0 = run.record.get("e0")
        if isinstance(e0, dict) and isinstance(e0.get("sentence"), str):
            sentences.append((f"Energies of isolated atoms of {run.label}: {e0['sentence']}.", []))
    return sentences


def _accuracy(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    if not any("accuracy" in run.assays for run in runs):
        return []
    return [
        (
            "Errors are over all force components and over energies per atom. They are normalised by the mean absolute "
            "value (MAE) or by the standard deviation (RMSE) of the reference on the same split.",
            ["tea"],
        ),
        (
            "The extrapolation slope is that of the least-squares line of force RMSE against the splits' temperature.",
            ["vita"],
        ),
        (
            "Differences of force RMSE between potentials on the same frames have percentile intervals from a paired "
            "bootstrap over frames, which are taken as independent.",
            ["efron"],
        ),
    ]


def _stability(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    tested = [run for run in runs if "stability" in run.assays]
    if not tested:
        return []
    sentences = []
    for words, members in _grouped([(run, _protocol(run)) for run in tested]):
        subject = "" if len(members) == len(tested) else f" ({', '.join(members)})"
        sentences.append((f"Stability{subject}: {words}.", ["vita"]))
    sentences.append(
        ("Survival is the Kaplan-Meier estimate; differences are judged by the log-rank test.", ["kaplan", "mantel"])
    )
    return sentences


def _protocol(run: Run) -> str:
    settings = run.assays["stability"].settings
    replicas = run.number("stability", "n_replicas")
    duration = run.number("stability", "duration")
    parts = [f"{int(replicas)} trajectories" if replicas is not None else "trajectories"]
    parts += [f"of {brief(duration / 1000)} ps"] if duration is not None else []
    for key, words in (("temperature", "at {} K"), ("timestep", "with time steps of {} fs")):
        if isinstance(settings.get(key), int | float):
            parts.append(words.format(brief(float(settings[key]))))
    if isinstance(settings.get("thermostat"), str):
        parts.append(f"under a {settings['thermostat'].capitalize()} thermostat")
    return " ".join(parts)


def _landscape(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    tested = [run for run in runs if "landscape" in run.assays]
    if not tested:
        return []
    settings = tested[0].assays["landscape"].settings
    points = tested[0].array("landscape", "t", (None,))
    size = f", {len(points)} points each" if points is not None else ""
    number = f"{settings['n_directions']} " if isinstance(settings.get("n_directions"), int) else ""
    return [
        (
            f"The loss was evaluated on lines along {number}random directions{size}, normalised by filter and, for "
            "comparison, as published where recorded; its entropy follows the cited definition.",
            ["vita", "li"],
        )
    ]


def _uncertainty(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    tested = [run for run in runs if "uncertainty" in run.assays]
    if not tested:
        return []
    k = tested[0].number("uncertainty", "k")
    neighbours = f"its {int(k)} nearest training atoms" if k is not None else "its nearest training atoms"
    return [
        (
            f"The predicted error of an atom is the expectation of the mean error histogram of {neighbours} in the "
            "space of the potential's descriptors, the histograms having been collected during training.",
            ["ltau"],
        )
    ]


def _grouped(pairs: list[tuple[Run, str]]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for run, words in pairs:
        groups.setdefault(words, []).append(run.label)
    return list(groups.items())


def all_sources(runs: Sequence[Run]) -> list[Source]:
    """Every record file, run by run."""
    return sources_of(runs, "run", "metrics", "accuracy", "stability", "landscape", "uncertainty")
