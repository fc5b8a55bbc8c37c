"""Every architecture of fireassay.models, found by its file, in a size for tests."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from fireassay import models
from fireassay.models import MODELS
from fireassay.potential import LocalPotential

# Arguments that make a model small and keep what is particular to it; a model without an entry is tested as it is.
SMALL: dict[str, dict[str, Any]] = {
    "allegro": {"channels": 4, "two_body_widths": [8, 12], "latent_widths": [12, 12], "readout_hidden": [4]},
    "botnet": {"channels": 4, "n_layers": 3, "l_max": 2, "hidden_l_max": 2, "radial_hidden": [16]},
    "dimenetpp": {
        "n_layers": 2,
        "channels": 8,
        "interaction_channels": 6,
        "basis_channels": 4,
        "l_max": 3,
        "n_basis": 4,
        "readout_hidden": [8, 6],
    },
    "equiformer": {
        "n_layers": 2,
        "irreps": "4x0e+2x0o+2x1e+2x1o",
        "irreps_head": "2x0e+1x0o+1x1e+1x1o",
        "irreps_ffn": "4x0e+2x0o+2x1e+2x1o",
        "n_heads": 2,
        "feature_channels": 6,
        "n_basis": 8,
        "radial_hidden": [8],
    },
    "mace": {"channels": 4, "l_max": 2},
    "nequip": {"channels": 4, "n_layers": 2},
    "torchmd_et": {"channels": 8, "n_layers": 2, "n_heads": 2, "n_basis": 6},
    "painn": {"channels": 8, "n_basis": 6, "readout_hidden": [4]},
    "so3krates": {"channels": 8, "n_layers": 2, "degrees": [1, 2], "n_heads": 2, "n_basis": 8},
    "physnet": {
        "short_cutoff": 3.2,
        "n_layers": 2,
        "channels": 8,
        "n_basis": 10,
        "residual_atomic": 1,
        "residual_interaction": 1,
        "zero_start": False,
    },
}


def _found() -> dict[str, type[LocalPotential]]:
    """Classes by their name in MODELS; one that is not there yet, by its file."""
    names = {model: name for name, model in MODELS.items()}
    out = {}
    for info in pkgutil.iter_modules(models.__path__):
        module = importlib.import_module(f"{models.__name__}.{info.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, LocalPotential) and kind.__module__ == module.__name__:
                out[names.get(kind, info.name)] = kind
    return out


ARCHITECTURES = _found()


def build(name: str, **arguments: Any) -> LocalPotential:
    """The architecture in its small size, for hydrogen and oxygen within 4 Å unless said otherwise."""
    given: dict[str, Any] = {"species": [1, 8], "cutoff": 4.0, **SMALL.get(name, {}), **arguments}
    return ARCHITECTURES[name](**given)
