"""Where a run computes: device, precision and threads from a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from fireassay.config import Config
from fireassay.errors import InputError
from fireassay.threads import available


def device_of(config: Config) -> torch.device:
    """The device that a configuration asks for. Raises InputError when it is not here."""
    return chosen_device(config.device)


def chosen_device(name: str) -> torch.device:
    """The device of a name, such as auto, cpu or cuda:1. Raises InputError when it is not here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here: {reason}; give device=cpu") from error
    return device


def dtype_of(config: Config) -> torch.dtype:
    """The precision that a configuration asks for."""
    return torch.float64 if config.dtype == "float64" else torch.float32


def use_threads(config: Config, tell: Callable[[str], None]) -> int:
    """Sets torch's number of threads, by the configuration or by what this job may use, and says it."""
    return chosen_threads(config.threads, tell)


def chosen_threads(wanted: int | None, tell: Callable[[str], None]) -> int:
    """As `use_threads`, with the number that is asked for, if any."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = available()
    count = wanted or max(1, found.count // (1 if "OMP_NUM_THREADS" in os.environ else processes))
    torch.set_num_threads(count)
    tell(f"{count} threads ({'as configured' if wanted else found.reason})")
    return count
