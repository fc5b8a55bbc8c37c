# %% [markdown]
# # The entropy of a loss landscape
# From any curve of losses: yours, ours, or one from a paper.

# %%
from __future__ import annotations

import numpy as np

from fireassay.assays.landscape import loss_entropy

t = np.linspace(-0.25, 0.25, 81)
for sharpness in (0.1, 1.0, 10.0):
    forces = 0.02 + sharpness * t**2  # RMSE of force components along the line, eV/Å
    print(f"sharpness {sharpness:5.1f}: S_F = {loss_entropy(forces, temperature=0.040):.3f}")
print(f"flat and zero: {loss_entropy(np.zeros(81), 0.040):.3f} = log 81 = {np.log(81):.3f}")
