"""How a record came about: command, versions, machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from fireassay.records.typed import Unit, record

PACKAGES = ("fireassay", "torch", "numpy", "ase", "vesin", "numba", "faiss-cpu")


@record
class Provenance:
    """Command line, quoted so that it runs when it is pasted; versions of packages; machine; where the work was done.

    `device`, `dtype` and `threads` are those of the potential's calls, empty and zero where there were none.
    """

    command: str
    time: str
    versions: dict[str, str]
    python: str
    platform: str
    cores: int
    device: str = ""
    dtype: str = ""
    threads: int = 0
    seconds: Annotated[float | None, Unit("s")] = None


def environment(
    command: str | None = None, device: str = "", dtype: str = "", threads: int = 0, seconds: float | None = None
) -> Provenance:
    """The provenance of what this process is doing now; `command` in place of the process's own."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return Provenance(
        command=command or command_line(sys.argv),
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=versions,
        python=platform.python_version(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        device=device,
        dtype=dtype,
        threads=threads,
        seconds=seconds,
    )


def command_line(arguments: list[str]) -> str:
    """What to type to do it again: the `fireassay` command, under torchrun where it ran there, or a script's call."""
    program = Path(arguments[0])
    own = program.stem == "fireassay" or program.parts[-2:] == ("fireassay", "__main__.py")
    if own:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        start = ["torchrun", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
        return shlex.join([*start, "fireassay", *arguments[1:]])
    if arguments[0] in ("", "-c", "-"):
        return "an interactive Python session"
    return shlex.join(["python", *arguments])


def renewal(folder: Path, assay: str = "") -> str:
    """The command that makes an assay's record, or all records of a folder, anew."""
    return " ".join(part for part in ("fireassay assay", shlex.quote(str(folder)), assay) if part)
