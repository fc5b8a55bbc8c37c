"""Readers and neighbour lists on inputs that nobody thought of: drawn ones, and valid files that were damaged."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.test_neighbours import batch, brute_force, pairs
from fireassay.data.neighbours import batched_neighbour_list, binned_neighbour_list, neighbour_list
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
PBC = st.tuples(st.booleans(), st.booleans(), st.booleans())


def crystal(seed: int, n: int, pbc: tuple[bool, bool, bool], spread: float) -> Structure:
    """Atoms in a skewed cell of heights between 1 and 6 Å, some outside of it."""
    rng = np.random.default_rng(seed)
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 4, (3, 1))
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        if heights.min() > 1.0 and heights.max() < 6.0:
            break
    positions = rng.uniform(-spread, 1 + spread, (n, 3)) @ cell
    return Structure(rng.choice([1, 6, 29], n), positions, cell, np.array(pbc))


def clear_of(found: Counter, structure: Structure, cutoff: float) -> bool:
    """Whether no pair lies so near the cutoff that rounding decides."""
    return found == brute_force(structure, cutoff * (1 + 1e-9)) == brute_force(structure, cutoff * (1 - 1e-9))


@settings(max_examples=80)
@given(SEEDS, st.integers(1, 7), PBC, st.sampled_from([0.0, 0.3, 2.5]), st.floats(0.5, 5.0))
def test_neighbour_lists_agree_with_brute_force(seed, n, pbc, spread, cutoff):
    structure = crystal(seed, n, pbc, spread)
    expected = brute_force(structure, cutoff)
    if not clear_of(expected, structure, cutoff):
        return
    assert pairs(*neighbour_list(structure, cutoff)) == expected
    tensors = batch([structure, structure])
    for method in (batched_neighbour_list, binned_neighbour_list):
        centre, neighbour, shift = method(*tensors, cutoff)
        assert bool((centre.diff() >= 0).all())
        first = centre < n
        assert pairs(centre[first], neighbour[first], shift[first]) == expected
        assert pairs(centre[~first] - n, neighbour[~first] - n, shift[~first]) == expected


@given(SEEDS, st.integers(1, 6), PBC, st.floats(0.5, 4.0))
def test_every_pair_has_its_mirror_image(seed, n, pbc, cutoff):
    centre, neighbour, shift = neighbour_list(crystal(seed, n, pbc, 0.3), cutoff)
    assert pairs(centre, neighbour, shift) == pairs(neighbour, centre, -shift)


def labelled(seed: int, n: int, pbc: tuple[bool, bool, bool], has: tuple[bool, bool, bool]) -> Atoms:
    structure = crystal(seed, n, pbc, 0.0)
    rng = np.random.default_rng(seed + 1)
    atoms = Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": 1e-3 * rng.normal(size=6)}
    chosen = {name: value for (name, value), wanted in zip(labels.items(), has, strict=True) if wanted}
    atoms.calc = SinglePointCalculator(atoms, **chosen)
    return atoms


@settings(max_examples=40)
@given(
    st.lists(st.tuples(SEEDS, st.integers(1, 4), PBC), min_size=1, max_size=3),
    st.sampled_from([(True, True, True), (True, True, False), (False, True, False), (True, False, False)]),
    st.sampled_from(["frames.xyz", "frames.extxyz", "frames.xyz.gz", "frames.db"]),
)
def test_what_ase_writes_comes_back(tmp_path_factory, frames, has, name):
    written = [labelled(seed, n, pbc, has) for seed, n, pbc in frames]
    apart = all(len(a) == 1 or a.get_all_distances(mic=True)[np.triu_indices(len(a), 1)].min() > 0.11 for a in written)
    if not apart:
        return
    path = tmp_path_factory.mktemp("frames") / name
    for atoms in written:
        ase.io.write(path, atoms, append=path.exists())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(path, units={"energy": "eV"})
    assert len(found) == len(written)
    for structure, atoms in zip(found, written, strict=True):
        np.testing.assert_array_equal(structure.atomic_numbers, atoms.numbers)
        np.testing.assert_allclose(structure.positions, atoms.positions, atol=1e-7)
        np.testing.assert_array_equal(structure.pbc, atoms.pbc)
        np.testing.assert_allclose(structure.cell[structure.pbc], atoms.cell.array[atoms.pbc], atol=1e-7)
        assert (structure.energy is not None) == has[0]
        assert (structure.forces is not None) == has[1]
        if has[0]:
            assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        if structure.forces is not None:
            np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-7)
        if structure.stress is not None:
            np.testing.assert_allclose(structure.stress, atoms.get_stress(voigt=False), atol=1e-7)


def originals(folder: Path) -> dict[str, bytes]:
    """One small valid file of each format."""
    frames = [labelled(seed, 3, (True, True, True), (True, True, True)) for seed in (3, 4)]
    ase.io.write(folder / "a.xyz", frames, format="extxyz")
    ase.io.write(folder / "a.xyz.gz", frames, format="extxyz")
    ase.io.write(folder / "a.db", frames)
    np.savez(
        folder / "a.npz",
        R=np.stack([f.positions for f in frames]),
        F=np.stack([f.get_forces() for f in frames]),
        E=np.array([f.get_potential_energy() for f in frames]),
        z=np.array([29, 29, 29]),
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


DAMAGES = st.lists(
    st.tuples(st.sampled_from(["cut", "swap", "drop", "repeat", "write"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damages: list[tuple[str, float, int]]) -> bytes:
    for kind, where, byte in damages:
        at = int(where * len(content))
        piece = content[at : at + 1 + byte % 9]
        if kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + len(piece) :]
        elif kind == "repeat":
            content = content[:at] + piece + content[at:]
        elif kind == "write":
            content = content[:at] + bytes([byte]) + content[at + 1 :]
        else:
            content = content[:at] + piece[::-1] + content[at + len(piece) :]
    return content


def read_or_refused(path: Path) -> None:
    """Nothing but frames of finite numbers or one line of an InputError comes of a file."""
    said = ""
    try:
        assert all(np.isfinite(structure.positions).all() for structure in read(path))
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "a.db", "a.npz"])
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    content = originals(tmp_path)[name]
    path = tmp_path / f"damaged-{name}"

    @settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
    @given(DAMAGES)
    def check(damages):
        path.write_bytes(damaged(content, damages))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_or_refused(path)

    check()


TEXTS = "Lattice lattice Properties = pbc T F energy 1e400 nan - species:S:1 pos:R:3 : forces:R:3 [ ] { } 0 Cu X 3 1.5"
WORDS = st.sampled_from([*TEXTS.split(), "stress", "-1", '"', "'", " ", "\\", "\t", "²", "\n"])


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=12), st.integers(0, 1))
def test_comment_lines_of_any_words_are_read_or_refused(tmp_path_factory, words, given_lattice):
    path = tmp_path_factory.mktemp("words") / "frame.xyz"
    lattice = 'Lattice="3 0 0 0 3 0 0 0 3" ' if given_lattice else ""
    text = f"2\n{lattice}energy=-1.0 {''.join(words)}\nCu 0 0 0 0 0 0.5\nCu 1.5 1.5 0 0 0 -0.5\n"
    path.write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_or_refused(path)


@given(SEEDS, st.integers(1, 40), st.integers(1, 20))
def test_a_float32_batch_keeps_the_pairs_that_are_clear_of_the_cutoff(seed, n, tenths):
    rng = np.random.default_rng(seed)
    structure = Structure(np.ones(n, dtype=np.int64), rng.uniform(0, 4, (n, 3)))
    cutoff = 0.2 * tenths
    expected = brute_force(structure, cutoff)
    if brute_force(structure, cutoff * (1 + 1e-5)) != brute_force(structure, cutoff * (1 - 1e-5)):
        return
    assert pairs(*batched_neighbour_list(*batch([structure], torch.float32), cutoff)) == expected
