# %% [markdown]
# # Does it move as it should?
# Argon with two potentials: the one that is taken for the truth, and one that is too stiff. Where do atoms stand, how
# do they vibrate, and which number tells the difference?

# %%
from __future__ import annotations

from ase.build import bulk
from ase.calculators.lj import LennardJones

from fireassay.assays import dynamics, structure
from fireassay.assays.assay import Subject
from fireassay.assays.dynamics import DynamicsSettings
from fireassay.assays.structure import StructureSettings
from fireassay.interop.ase import CalculatorPredictor, structure_of

start = structure_of(bulk("Ar", "fcc", a=5.4, cubic=True) * 2)


def argon(epsilon: float) -> CalculatorPredictor:
    """Lennard-Jones with a smooth cutoff; epsilon in eV."""
    return CalculatorPredictor(LennardJones(epsilon=epsilon, sigma=3.4, rc=5.2, ro=4.6, smooth=True))


# %% [markdown]
# ## Structure
# The floor is what the truth says of itself: below it nothing can be told.

# %%
subject = Subject(predictor=argon(0.03), name="too stiff", start=start, oracle=argon(0.0104))
motion = {"replicas": 3, "temperature": 50.0, "timestep": 8.0, "equilibration": 400.0}
found = structure.run(subject, StructureSettings(**motion, duration=800.0, stride=4))
for distribution in found.distributions:
    for name, likeness in distribution.likeness.items():
        print(
            f"{distribution.kind} {distribution.name} against the {name}: W1 {likeness.wasserstein:.4f} "
            f"{distribution.unit} (floor {likeness.wasserstein_floor:.4f})"
        )

# %% [markdown]
# ## Dynamics
# A stiffer crystal vibrates faster; where it goes, its forces are wrong by a known factor.

# %%
moved = dynamics.run(subject, DynamicsSettings(**motion, duration=1600.0, stride=1, paired=400.0, relabelled=30))
assert moved.vibrations is not None
peak = moved.vibrations.frequency[moved.vibrations.density.argmax()]
print(f"strongest vibration at {peak:.2f} THz, drift {moved.drift:.2g} meV/atom/ps")
for violation in moved.violations:
    print(f"{violation.reading}: FV {violation.force_mean:.3f}, decorrelated after {violation.decorrelation_time} fs")
