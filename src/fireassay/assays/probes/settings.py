"""Settings of the probes."""

from __future__ import annotations

from pydantic import Field

from fireassay.settings import Settings


class ProbesSettings(Settings):
    """Settings of the probes assay."""

    directions: int = Field(default=6, ge=2, description="random directions of every difference")
    rattle: float = Field(
        default=0.05, ge=0, description="Å, by which atoms of the start are displaced, so that forces act"
    )
    points: int = Field(default=80, ge=20, description="distances on each dimer's and bond's curve")
    dimers: bool = Field(default=True, description="pairs of atoms from 0.4 covalent radii to the cutoff")
    elements: list[str] | None = Field(default=None, description="elements of the dimers; null: those of the start")
    bonds: int = Field(default=8, ge=0, description="bonds of the start that are stretched, at most; 0: none")
    reach: float = Field(default=8.0, gt=0, description="Å, how far dimers and a pulled atom go without a known cutoff")
    bulk_atoms: int = Field(
        default=64, ge=0, description="atoms of a crystal up to which moduli and modes are sought; 0: never"
    )
    relax_steps: int = Field(default=300, ge=1, description="steps of each relaxation, at most")
    duration: float = Field(default=200.0, ge=0, description="fs at constant energy; 0: none")
    temperature: float = Field(default=300.0, gt=0, description="K, of the dynamics")
    timestep: float = Field(default=1.0, gt=0, description="fs")
    max_edges: int = Field(default=20_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=128, ge=1, description="structures of one batch")
    seed: int = Field(default=0, ge=0, description="of directions, displacements and velocities")
