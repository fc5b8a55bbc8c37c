"""How many threads a job may use, under masks and quotas, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fireassay import threads
from fireassay.errors import InputError
from fireassay.threads import available, cpu_quota, prepare


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A file system with control groups."""
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "200000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "50000 100000"}, 0.5),
        (
            "4:cpu,cpuacct:/j\n2:memory:/j\n",
            {"sys/fs/cgroup/cpu/j/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/j/cpu.cfs_period_us": "100000\n"},
            4.0,
        ),
        (
            "4:cpu,cpuacct:/j\n",
            {"sys/fs/cgroup/cpu/j/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/j/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("", {}, None),
        ("nonsense\n", {"sys/fs/cgroup/cpu.max": "x y z\n"}, None),
    ],
)
def test_the_quota_is_that_of_the_narrowest_group(tmp_path, cgroup, files, expected):
    assert cpu_quota(tree(tmp_path, cgroup, files)) == expected


@pytest.mark.parametrize(
    ("quota", "cores", "count"), [(None, 8, 8), (3.7, 8, 3), (0.5, 8, 1), (16.0, 4, 4), (2.0, 8, 2)]
)
def test_the_least_bound_counts(monkeypatch, quota, cores, count):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    found = available()
    assert found.count == count
    assert ("quota" in found.reason) == (quota is not None and quota < cores)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert available() == (7, "OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert available().count == 4
    for wrong in ("0", "many", "-2"):
        monkeypatch.setenv("OMP_NUM_THREADS", wrong)
        with pytest.raises(InputError, match="OMP_NUM_THREADS"):
            available()


def test_waiting_is_set_before_torch_and_never_against_the_user(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    bare: dict[str, str] = {}
    prepare(bare)
    assert bare["GOMP_SPINCOUNT"] == threads.SPIN
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        given = {name: "x"}
        prepare(given)
        assert given == {name: "x"}


def test_the_command_line_sets_it():
    code = (
        "import os; from fireassay import cli;"
        "cli.app = lambda **_: print(os.environ.get('GOMP_SPINCOUNT')) or 0; cli.main()"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == threads.SPIN, done.stderr
