"""The allocator's thresholds: a freed large block stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROBE = """
import ctypes, resource
from fireassay.allocator import tune_allocator
assert tune_allocator() or {allowed}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_kept():
    def faults(tuned: bool) -> int:
        code = PROBE.format(allowed=False)
        if not tuned:
            code = code.replace("assert tune_allocator() or False", "")
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults(tuned=True) < 100 < faults(tuned=False)


def test_elsewhere_it_does_nothing(monkeypatch):
    from fireassay.allocator import tune_allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert tune_allocator() is False
