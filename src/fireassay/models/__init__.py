"""The architectures, one file each. A model file imports nn, data.graph and potential; never another model."""

from __future__ import annotations

from fireassay.models.allegro import Allegro
from fireassay.models.botnet import BOTNet
from fireassay.models.dimenetpp import DimeNetPP
from fireassay.models.equiformer import Equiformer
from fireassay.models.mace import MACE
from fireassay.models.nequip import NequIP
from fireassay.models.painn import PaiNN
from fireassay.models.physnet import PhysNet
from fireassay.models.so3krates import SO3krates
from fireassay.models.torchmd_et import TorchMDET
from fireassay.potential import LocalPotential

MODELS: dict[str, type[LocalPotential]] = {
    "allegro": Allegro,
    "botnet": BOTNet,
    "dimenetpp": DimeNetPP,
    "equiformer": Equiformer,
    "mace": MACE,
    "nequip": NequIP,
    "painn": PaiNN,
    "physnet": PhysNet,
    "so3krates": SO3krates,
    "torchmd_et": TorchMDET,
}
