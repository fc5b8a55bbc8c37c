"""What every assay on fixed frames starts from: a predictor's answers to a data set, in the data set's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fireassay.data.datasets import Dataset
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Prediction, Predictor, check_species, failures_of
from fireassay.progress import Progress

Array = NDArray[np.float64]

NO_NEIGHBOURS = 1e-3  # Å, a cutoff below any bond: a calculator that builds its own neighbour list needs no edges


class Predictions(NamedTuple):
    """Predictions for all S structures and N atoms of a data set; None where they were not asked for."""

    energy: Array  # (S,) eV
    forces: Array | None  # (N, 3) eV/Å
    stress: Array | None  # (S, 3, 3) eV/Å^3
    descriptors: NDArray[np.float32] | None  # (N, D)
    failed: Mapping[int, str] = {}  # structures whose calculation failed, and what was said


def dataset_for(predictor: Predictor, structures: Sequence[Structure]) -> Dataset:
    """The structures with the edges that the predictor needs. Raises InputError for an element unknown to it."""
    check_species(predictor, sorted({int(z) for s in structures for z in s.atomic_numbers}))
    return Dataset(structures, predictor.cutoff or NO_NEIGHBOURS)


def datasets_for(
    predictor: Predictor, splits: Mapping[str, Sequence[Structure]]
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """The data sets of the splits, and for each split that the predictor cannot take, why."""
    found: dict[str, Dataset] = {}
    refused: dict[str, str] = {}
    for split, structures in splits.items():
        try:
            found[split] = dataset_for(predictor, structures)
        except InputError as error:
            refused[split] = str(error)
    return found, refused


def cut(dataset: Dataset, max_edges: int, max_structures: int) -> list[torch.Tensor]:
    """The data set's structures in order, in groups of at most `max_edges` edges and `max_structures` structures."""
    return [part for group in dataset.batches_by_edges(max_edges) for part in torch.split(group, max_structures)]


def predict(
    predictor: Predictor,
    dataset: Dataset,
    *,
    forces: bool = True,
    stress: bool = False,
    descriptors: bool = False,
    device: torch.device | str = "cpu",
    max_edges: int = 10_000,
    max_structures: int = 256,
    progress: Progress,
) -> Predictions:
    """The predictions for every structure of the data set, batch by batch; calls `progress.advance`.

    Raises InputError when there are no descriptors and they are asked for.
    """
    parts: list[Prediction] = []
    failed: dict[int, str] = {}
    for group in cut(dataset, max_edges, max_structures):
        batch = dataset.select(group, predictor.dtype, device)
        found = predictor.predict(batch.graph, forces=forces, stress=stress)
        if descriptors and found.descriptors is None:
            raise InputError(
                f"{type(predictor).__name__} has no descriptors; LTAU needs a local potential, such as NequIP or MACE"
            )
        failed |= {int(group[row]): message for row, message in failures_of(predictor).items()}
        kept = found.descriptors if descriptors else None
        parts.append(
            Prediction(found.energy.detach().cpu(), _host(found.forces), _host(found.stress), None, _host(kept))
        )
        progress.advance(len(group))

    def joined(name: str, precision: type = np.float64) -> NDArray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values).numpy().astype(precision)

    energy = joined("energy")
    assert energy is not None
    return Predictions(energy, joined("forces"), joined("stress"), joined("descriptors", np.float32), failed)


def _host(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.detach().cpu()
