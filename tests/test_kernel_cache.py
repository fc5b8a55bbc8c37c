"""Compiled kernels find a folder, or do without one, wherever the package is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core.caching import CacheImpl

from fireassay import kernel_cache
from fireassay.kernel_cache import cached, prepare, writable


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither the package's folder nor the user's can be written; temporary files can."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(kernel_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "writable", lambda folder: folder.is_relative_to(tmp_path))
    return tmp_path


def test_where_numba_finds_a_folder_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert prepare(tmp_path) is None
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_given_folder_is_used(monkeypatch, nowhere):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
    assert prepare() is None
    assert os.environ["NUMBA_CACHE_DIR"] == "/somewhere"


def test_a_folder_among_temporary_files_is_made_for_the_user_alone(nowhere):
    line = prepare()
    folder = os.environ.pop("NUMBA_CACHE_DIR")
    assert folder.startswith(str(nowhere))
    assert line is not None
    assert folder in line
    assert "NUMBA_CACHE_DIR" in line
    assert os.stat(folder).st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_is_not_used(nowhere):
    folder = nowhere / f"fireassay-kernels-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    line = prepare()
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert line is not None
    assert "compiled anew" in line
    folder.rmdir()
    folder.symlink_to(nowhere)
    assert "compiled anew" in (prepare() or "")


def test_a_file_in_the_way_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert writable(tmp_path / "new" / "folder")
    assert not writable(tmp_path / "file")


def test_kernels_work_without_any_cache(monkeypatch):
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(lambda x: x + 1)

    @cached(numba.njit, nogil=True)
    def twice(x):  # type: ignore[no-untyped-def]
        return 2 * x

    assert twice(np.float64(3.0)) == 6.0


def test_the_package_is_imported_without_any_cache():
    code = (
        "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []\n"
        "import fireassay.data.verlet, fireassay.uncertainty.search\n"
        "from fireassay.nn import segment_numba, simd\n"
        "def kernel(data):\n    pass\n"
        "print(simd.compiled(kernel).address > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
