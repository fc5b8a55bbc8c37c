# %% [markdown]
# # Train and assay from Python
# What `fireassay train` and `fireassay assay` do, in a few lines: a small MACE on the embedded copper-gold set.

# %%
from __future__ import annotations

import tempfile
from pathlib import Path

from fireassay.assays import accuracy, landscape
from fireassay.assays.assay import Subject
from fireassay.data.baseline import average_neighbours, fit_e0, statistics
from fireassay.data.datasets import Dataset
from fireassay.data.readers import read
from fireassay.models.mace import MACE
from fireassay.potential import Baseline
from fireassay.training.fit import fit
from fireassay.training.recipe import Recipe

frames = read("cuau-emt/train_300K")
train, validation = Dataset(frames[:40], cutoff=4.0), Dataset(frames[40:50], cutoff=4.0)

# %%
e0 = fit_e0(train.structures)
print(e0)
network = MACE(
    species=train.species, cutoff=4.0, channels=8, l_max=1, correlation=2, average_neighbours=average_neighbours(train)
)
potential = Baseline(network, e0.e0, scale=statistics(train.structures, e0.e0).force_rms or 1.0)

# %%
folder = Path(tempfile.mkdtemp())
recipe = Recipe.model_validate(
    {"epochs": 3, "batch_size": 5, "optimiser": {"lr": 0.01}, "loss": {"stress": {"weight": 1}}}
)
result = fit(potential.float(), train, validation, recipe, folder)
print(result.best)

# %%
subject = Subject(
    predictor=potential,
    name="small MACE",
    train=train.structures,
    test={"900K": read("cuau-emt/test_900K")[:10]},
)
errors = accuracy.run(subject, accuracy.AccuracySettings()).splits["900K"]
print(errors.forces, errors.stress)

# %%
settings = landscape.LandscapeSettings(n_directions=2, points=5, frames=10)
print(landscape.run(subject, settings).lines["filter"].entropy.total)
