"""Damaged files of every format are read or refused in one line: no traceback, no hang, nothing executed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from damage import damage
from fireassay.data.inspect import inspect
from fireassay.data.readers import read
from fireassay.errors import InputError
from format_files import ELEMENTS, EXTRAS, FILES

SECONDS = 10.0


def check(name: str, folder: Path, count: int, seed: int) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    rng = random.Random(seed)
    source = folder / "sound" / name
    source.parent.mkdir()
    FILES[name](source)
    for number in range(count):
        target = folder / f"{number}" / name
        target.parent.mkdir()
        damage(source, target, rng)
        began = time.perf_counter()
        said = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for s in read(target, elements=ELEMENTS.get(name)):
                    assert np.isfinite(s.positions).all()
                inspect(target, elements=ELEMENTS.get(name)).to_json()
            except InputError as error:
                said = str(error)
        assert "\n" not in said
        assert len(said) < 1500, said
        assert time.perf_counter() - began < SECONDS
        shutil.rmtree(target.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_few_damaged_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, 6 if name in EXTRAS else 12, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files(name: str, seed: int, tmp_path: Path) -> None:
    check(name, tmp_path, 46, seed)


@pytest.mark.parametrize("name", ["a.xyz.xz", "a.xyz.gz", "a.json.bz2"])
def test_what_unpacks_without_end_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fireassay.data.formats import compressed

    monkeypatch.setattr(compressed, "SMALL", 1 << 20)
    opener = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}[Path(name).suffix]
    with opener(tmp_path / name, "wb") as file:
        file.write((b"[[" if "json" in name else b"1") + b"1" * (1 << 23))
    with pytest.raises(InputError, match="unpacks to more than 300 times its size"):
        read(tmp_path / name)
