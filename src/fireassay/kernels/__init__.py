"""Closed-form potentials, behind the seam of the networks."""

from __future__ import annotations

from fireassay.kernels.zbl import ZBL
from fireassay.potential import LocalPotential

KERNELS: dict[str, type[LocalPotential]] = {
    "zbl": ZBL,
}
