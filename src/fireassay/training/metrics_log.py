"""One row per epoch, as JSON lines, as CSV and, on request, as TensorBoard events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fireassay.errors import InputError
from fireassay.training.error_log import truncate
from fireassay.training.loss import METRICS

COLUMNS = (
    *("epoch", "stage", "seconds", "lr", "gradient_norm", "loss"),
    *(f"train.{name}" for name in METRICS if name != "loss"),
    *(f"validation.{name}" for name in METRICS),
)


class MetricsLog:
    """Appends rows to `metrics.jsonl` and `metrics.csv`; their lengths belong to a checkpoint, see `position`."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._files = {"jsonl": folder / "metrics.jsonl", "csv": folder / "metrics.csv"}
        self._sizes = {"jsonl": 0, "csv": 0}
        self._writer = _summary_writer(folder / "tensorboard") if tensorboard else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one epoch's row. Raises InputError when the disk is full."""
        finite = {name: value if _finite(value) else None for name, value in row.items()}
        line = ",".join("" if finite.get(name) is None else repr(finite[name]) for name in COLUMNS)
        head = "" if self._sizes["csv"] else ",".join(COLUMNS) + "\n"
        self._extend("jsonl", json.dumps(finite, allow_nan=False) + "\n")
        self._extend("csv", f"{head}{line}\n")
        if self._writer is not None:
            for name, value in finite.items():
                if name != "epoch" and value is not None:
                    self._writer.add_scalar(name.replace(".", "/"), value, row["epoch"])

    def position(self) -> dict[str, int]:
        """Lengths of the files in bytes, for a checkpoint."""
        return dict(self._sizes)

    def restore(self, position: Mapping[str, int]) -> None:
        """Cuts the files back to `position`. Raises InputError when one is shorter than that."""
        for name, path in self._files.items():
            truncate(path, position[name])
            self._sizes[name] = position[name]

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        if self._writer is not None:
            self._writer.close()

    def _extend(self, name: str, text: str) -> None:
        content = text.encode()
        try:
            with open(self._files[name], "ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            path = self._files[name]
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; free space and repeat the command to continue"
            ) from error
        self._sizes[name] += len(content)


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "training.tensorboard needs the package tensorboard: pip install fireassay[tensorboard]"
        ) from error
    return SummaryWriter(str(folder))
