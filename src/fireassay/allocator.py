"""The C library's allocator, told to keep large blocks.

By default glibc maps every large tensor anew and unmaps it when it is freed, so that each step of a simulation pays
for touching fresh pages, which costs up to half of a network's time. Thresholds above the size of any tensor keep the
memory in the process instead.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_TRIM_THRESHOLD: Final = -1  # the parameters of mallopt(3)
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 2**31 - 1  # mallopt takes an int
_PAD: Final = 2**28  # bytes that the heap grows by at a time


def tune_allocator() -> bool:
    """Makes glibc keep freed memory and serve large blocks from it; True when it did, False where there is no glibc.

    It applies to the whole process, from the call on; what is freed stays with the process. Call it once, at the start
    of a program, not in a library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
