"""How many threads a job may use, and what they do while they wait. Imports nothing heavy: it comes before torch.

A job may use fewer cores than the machine has: an affinity mask (a batch system, taskset) or a quota of a control group
(a container) bounds it, and threads beyond that bound only take turns. Threads of one job that wait for each other spin
by default; where another job needs the core, a spinning thread keeps the one it waits for from running.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

from fireassay.errors import InputError

SPIN: Final = "2000"  # turns of a waiting loop before a thread sleeps: longer than a kernel waits on a quiet machine


class Threads(NamedTuple):
    """A number of threads, and what bounds it."""

    count: int
    reason: str


def prepare(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Sets how OpenMP's threads wait. To be called before torch is imported; what the user has set stays."""
    if "torch" in sys.modules:
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(environment):
        environment["GOMP_SPINCOUNT"] = SPIN  # libgomp, which torch's wheels bring
        environment["KMP_BLOCKTIME"] = "0"  # the same for LLVM's and Intel's, in ms


def available() -> Threads:
    """The threads that this job may use: the least of OMP_NUM_THREADS, the affinity mask and the CPU quota.

    Raises InputError when OMP_NUM_THREADS is no positive number.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given:
        if not given.isdigit() or int(given) < 1:
            raise InputError(f"OMP_NUM_THREADS is {given!r}, needs a positive number; set it to one or unset it")
        return Threads(int(given), "OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = [Threads(cores, "cores that this job may run on")]
    quota = cpu_quota()
    if quota is not None:
        found.append(Threads(max(1, math.floor(quota + 1e-9)), "CPU quota"))
    return min(found)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPUs that control groups allow this process, None without a limit; the least of all groups it is within."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            inner = Path(*parts[:depth])
            if controllers == "":
                limits.append(_ratio(_read(root / "sys/fs/cgroup" / inner / "cpu.max").split()))
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / inner
                words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
                limits.append(_ratio(words))
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _ratio(words: list[str]) -> float | None:
    """Time allowed over period; None for "max", -1 or nothing."""
    try:
        quota, period = (float(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
