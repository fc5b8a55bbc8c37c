"""Loss and error metrics of a potential on a data set, the same for validation and for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from fireassay.data.datasets import Dataset
from fireassay.potential import Predictor
from fireassay.training.distributed import Ranks
from fireassay.training.loss import Sums, errors_of, metrics_of, sums_of
from fireassay.training.recipe import Loss
from fireassay.training.terms import SpeciesWeights, Weights, species_weights


def evaluate(
    potential: Predictor,
    dataset: Dataset,
    loss: Loss | None = None,
    *,
    batch_size: int = 10,
    max_edges: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    species: SpeciesWeights | None = None,
    ranks: Ranks | None = None,
    after_batch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """The loss, and MAE and RMSE of energy per atom (eV), force components (eV/Å) and stress (eV/Å^3).

    Averages run over the whole data set and do not depend on the batches; a quantity without labels is absent. `dtype`
    is that of positions, by default the potential's. `species` are the force weights of the training set.
    With several processes each takes a share of the batches, and all return the same metrics.
    """
    loss, ranks = loss or Loss(), ranks or Ranks()
    dtype = dtype or potential.dtype
    species = (species_weights(loss.forces, dataset) if species is None else species).to(device)
    batches = dataset.batches_by_edges(max_edges) if max_edges else dataset.batches_by_size(batch_size)
    forces, stress = dataset.labelled["forces"], dataset.labelled["stress"]
    sums = Sums.zeros(device)
    with _evaluating(potential):
        for chosen in batches[ranks.rank :: ranks.world]:
            batch = dataset.select(chosen, dtype, device)
            errors = errors_of(potential.predict(batch.graph, forces=forces, stress=stress), batch)
            sums = sums.plus(sums_of(errors, batch, loss, species, Weights()))
            if after_batch is not None:
                after_batch()
    return metrics_of(loss, Sums.of(ranks.summed(sums.vector)))


@contextlib.contextmanager
def _evaluating(potential: Predictor) -> Iterator[None]:
    if not isinstance(potential, nn.Module) or not potential.training:
        yield
        return
    potential.eval()
    try:
        yield
    finally:
        potential.train()
