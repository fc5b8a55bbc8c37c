"""docs/how-to/add-a-format.md is run as it is printed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fireassay.data.formats import loading
from fireassay.data.inspect import inspect
from fireassay.data.readers import read
from fireassay.errors import InputError
from fireassay.units import BOHR, HARTREE
from pages import blocks


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("add-a-format.md").values()
    module = tmp_path / "blocks.py"
    module.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("blocks", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setitem(loading.READERS, "blocks", lambda path, elements: loaded.read_blocks(path))
    known = loading._by_content

    def by_content(path: Path, raw: bytes, head: bytes) -> str | None:
        return "blocks" if head.startswith(b"atoms ") else known(path, raw, head)

    monkeypatch.setattr(loading, "_by_content", by_content)
    path = tmp_path / "run.out"
    row = "C 0 0 0 0 0 -0.1\nO 0 0 2.1 0 0 0.1\n"
    path.write_text(f"atoms 2\nenergy -1.5\n{row}atoms 2\nenergy -1.4\n{row}")
    first, second = read(path)
    assert (first.energy, second.energy) == (-1.5 * HARTREE, -1.4 * HARTREE)
    assert first.positions[1, 2] == pytest.approx(2.1 * BOHR)
    assert first.forces is not None
    assert np.allclose(first.forces[1, 2], 0.1 * HARTREE / BOHR)
    assert inspect(path).format == "blocks"
    path.write_text("atoms 2\nenergy -1.5\nC 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match="frame 0: the block is damaged"):
        read(path)
