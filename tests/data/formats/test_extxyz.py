from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from fireassay.data.formats.extxyz import read_extxyz
from fireassay.data.formats.extxyz_comment import parse_comment
from fireassay.errors import InputError
from samples import shared


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("energy=-1.5", {"energy": -1.5}),
        ("energy = -1.5 n=3", {"energy": -1.5, "n": 3}),
        ("e=1.5D-3 f=-2d+1", {"e": 1.5e-3, "f": -20.0}),
        ("a=T b=F c=True d=false", {"a": True, "b": False, "c": True, "d": False}),
        ("flag energy=1", {"flag": True, "energy": 1}),
        ('name="two words" other=word', {"name": "two words", "other": "word"}),
        (r'name="a \"quoted\" word"', {"name": 'a "quoted" word'}),
        ('"odd key"=4', {"odd key": 4}),
        ("comp=DMC(4):EC(1)", {"comp": "DMC(4):EC(1)"}),
        ("date=2020-01-01 time=12:30", {"date": "2020-01-01", "time": "12:30"}),
        ("word=dark d=d", {"word": "dark", "d": "d"}),
        ("empty= next=1", {"empty": "next=1"}),
        ('empty="" next=1', {"empty": "", "next": 1}),
        ("just a title", {"comment": "just a title"}),
        ("-17660.5", {"comment": -17660.5}),
        ("", {}),
        ("formula=C12H10", {"formula": "C12H10"}),
        ('mixed="1 two 3"', {"mixed": "1 two 3"}),
    ],
)
def test_scalars(comment: str, expected: dict[str, Any]) -> None:
    found = parse_comment(comment, "here")
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ('v="1 2 3"', [1, 2, 3]),
        ('v="1.0 2 3"', [1.0, 2, 3]),
        ("v=[1, 2, 3]", [1, 2, 3]),
        ("v=[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("v={1 2 3}", [1, 2, 3]),
        ('v="T F T"', [True, False, True]),
        ("v=[T, F]", [True, False]),
        ("v=[[T, F], [F, T]]", [[True, False], [False, True]]),
        ("v='1 2'", [1, 2]),
        ('v="_JSON [[1.5, 2.5]]"', [[1.5, 2.5]]),
        ('v="1, 2, 3"', [1, 2, 3]),
    ],
)
def test_arrays(comment: str, expected: list[Any]) -> None:
    (found,) = parse_comment(comment, "here").values()
    assert isinstance(found, np.ndarray)
    assert found.tolist() == expected


@pytest.mark.parametrize("comment", ['v="1 2 3', "v=[1, 2", 'a=1 "odd'])
def test_what_is_not_closed_is_refused(comment: str) -> None:
    with pytest.raises(InputError, match=r"^here: "):
        parse_comment(comment, "here")


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    comment = f"a=\"__import__('os').mkdir('{tmp_path}/x')\" b=_JSON{{broken c=!!python/object:os.system"
    parse_comment(comment.replace("{broken", "1"), "here")
    assert not (tmp_path / "x").exists()


def test_species_in_other_spellings(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("3\n\nH 0 0 0\n8 1 0 0\nCL 2 0 0\n")
    assert read_extxyz(path).frames[0].atomic_numbers.tolist() == [1, 8, 17]
    path.write_text("2\nProperties=pos:R:3:Z:I:1\n0 0 0 6\n1 0 0 7\n")
    assert read_extxyz(path).frames[0].atomic_numbers.tolist() == [6, 7]


def test_lines_of_frames_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("\n1\na=1\nH 0 0 0\n\n\n1\na=2\nH 0 0 0\n\n")
    frames = read_extxyz(path).frames
    assert [(f.number, f.line, f.values["a"]) for f in frames] == [(0, 2, 1), (1, 7, 2)]


def test_windows_line_ends_and_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(b"1\r\nProperties=species:S:1:pos:R:3 energy=2.5\r\nH\t0\t0\t0\r\n")
    (frame,) = read_extxyz(path).frames
    assert frame.values == {"energy": 2.5}


def test_default_periodicity_follows_the_lattice(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    lattice = 'Lattice="5 0 0 1 6 0 0 0 7"'
    path.write_text(f'1\n{lattice}\nH 0 0 0\n1\n{lattice} pbc="T F T"\nH 0 0 0\n1\n\nH 0 0 0\n')
    frames = read_extxyz(path).frames
    assert [f.pbc.tolist() for f in frames] == [[True] * 3, [True, False, True], [False] * 3]
    assert frames[0].cell.tolist() == [[5, 0, 0], [1, 6, 0], [0, 0, 7]]


@pytest.mark.parametrize(
    "name",
    [
        "3bpa/train_300K.xyz.xz",
        "fcu/fcu_ev5.xyz.gz",
        "silicon_gap/testing_database.xyz",
        "solvent_xtb/solvent_xtb_train_200.xyz.xz",
        "spice_dipeptides/spice-dipep-dipolar_val.xyz.xz",
        "qmc_hydrogen/testing.xyz.xz",
        "ethanol_rmd17_level/test_dimers.xyz",
    ],
)
def test_real_files_read_as_ase_reads_them(name: str) -> None:
    for frame, atoms in zip(
        read_extxyz(shared(name)).frames, ase.io.read(shared(name), ":", format="extxyz"), strict=True
    ):
        assert np.array_equal(frame.atomic_numbers, atoms.numbers)
        assert np.array_equal(frame.positions, atoms.positions)
        assert np.array_equal(frame.cell, atoms.cell[:])
        assert np.array_equal(frame.pbc, atoms.pbc)
        for key, value in atoms.arrays.items():
            if key not in ("numbers", "positions"):
                kept = frame.values.get(key, frame.values.get("Z"))
                assert np.array_equal(np.asarray(kept), value), key
        for key, value in atoms.info.items():
            if np.size(value) != 9:  # ASE transposes these
                assert np.array_equal(np.asarray(frame.values[key]), np.asarray(value)), key
        results = atoms.calc.results if atoms.calc else {}
        for key in results.keys() & {"energy", "forces"}:
            assert np.array_equal(frame.values[key], results[key])
