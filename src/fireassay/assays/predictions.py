"""What every assay on fixed frames starts from: a predictor's answers to a data set, in the data set's order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fireassay.data.datasets import Batch, Dataset
from fireassay.errors import InputError
from fireassay.potential import Potential, Prediction, Predictor
from fireassay.progress import Progress

Array = NDArray[np.float64]

NO_NEIGHBOURS = 1e-3  # Å, a cutoff below any bond: a calculator that builds its own neighbour list needs no edges


class Predictions(NamedTuple):
    """Predictions for all S structures and N atoms of a data set; None where they were not asked for."""

    energy: Array  # (S,) eV
    forces: Array | None  # (N, 3) eV/Å
    stress: Array | None  # (S, 3, 3) eV/Å^3
    descriptors: NDArray[np.float32] | None  # (N, D)


def cutoff_of(potential: Predictor, cutoff: float | None = None) -> float:
    """`cutoff` when given, else the potential's own, else one so small that graphs have no edges (Å)."""
    return float(cutoff or getattr(potential, "cutoff", 0.0) or NO_NEIGHBOURS)


def dtype_of(potential: Predictor, dtype: torch.dtype | None = None) -> torch.dtype:
    """`dtype` when given, else that of the potential's parameters, else float64."""
    if dtype is not None:
        return dtype
    parameters = potential.parameters() if isinstance(potential, nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float64)


def cut(dataset: Dataset, max_edges: int, max_structures: int) -> list[torch.Tensor]:
    """The data set's structures in order, in groups of at most `max_edges` edges and `max_structures` structures."""
    return [part for group in dataset.batches_by_edges(max_edges) for part in torch.split(group, max_structures)]


def check_species(potential: Predictor, dataset: Dataset) -> None:
    """Raises InputError when the data set has an element that the potential does not know."""
    if isinstance(potential, Potential):
        potential.check_species(dataset.species)


def predict(
    potential: Predictor,
    dataset: Dataset,
    *,
    forces: bool = True,
    stress: bool = False,
    descriptors: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    max_edges: int = 10_000,
    max_structures: int = 256,
    progress: Progress,
) -> Predictions:
    """The potential's predictions for every structure of the data set, batch by batch; calls `progress.advance`.

    Raises InputError when the potential does not know an element, or has no descriptors when these are asked for.
    """
    check_species(potential, dataset)
    parts: list[Prediction] = []
    for group in cut(dataset, max_edges, max_structures):
        batch: Batch = dataset.select(group, dtype_of(potential, dtype), device)
        found = potential.predict(batch.graph, forces=forces, stress=stress)
        if descriptors and found.descriptors is None:
            raise InputError(
                f"{type(potential).__name__} has no descriptors; LTAU needs a local potential, such as NequIP or MACE"
            )
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
    return Predictions(energy, joined("forces"), joined("stress"), joined("descriptors", np.float32))


def _host(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.detach().cpu()
