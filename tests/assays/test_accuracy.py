"""The accuracy assay on predictors whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from fireassay.assays.accuracy import ASSAY, AccuracySettings
from fireassay.assays.accuracy import run as run_assay
from fireassay.assays.assay import Subject, missing
from fireassay.data.graph import Graph, from_structures, labels_of
from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.potential import Prediction, Predictor
from fireassay.progress import Silent
from fireassay.records import AssayRecord, environment, load_assay
from fireassay.records.accuracy import AccuracyResult, Errors, SplitAccuracy
from fireassay.records.typed import unit_of
from toys import Network, Pair


def frames(n: int, seed: int = 0, temperature: float | None = None, group: str | None = None) -> list[Structure]:
    """Water molecules in boxes, labelled by the pair potential."""
    rng, potential = np.random.default_rng(seed), Pair()
    out = []
    for _ in range(n):
        positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.1 * rng.normal(size=(3, 3))
        bare = Structure(np.array([8, 1, 1]), positions, 8 * np.eye(3), np.ones(3, bool))
        found = potential.predict(from_structures([bare], 5.0), stress=True)
        out.append(
            Structure(
                bare.atomic_numbers,
                positions,
                bare.cell,
                bare.pbc,
                float(found.energy[0]),
                found.forces.numpy(),
                found.stress[0].numpy(),
                Provenance(temperature=temperature, group=group),
            )
        )
    return out


class Off:
    """The pair potential's answers with known errors: a third-party predictor without a cutoff."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def __init__(self, energy: float = 0.0, forces: float = 0.0, per_atom: dict[int, float] | None = None) -> None:
        self.energy, self.forces, self.per_atom, self.calls = energy, forces, per_atom or {}, []

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        self.calls.append(graph.n_structures)
        assert graph.n_edges == 0
        structures = [
            Structure(
                graph.atomic_numbers[graph.structure == s].numpy(),
                graph.positions[graph.structure == s].numpy(),
                graph.cell[s].numpy(),
                graph.pbc[s].numpy(),
            )
            for s in range(graph.n_structures)
        ]
        found = Pair().predict(from_structures(structures, 5.0), forces, stress)
        shift = torch.tensor([sum(self.per_atom.get(z, 0.0) for z in s.atomic_numbers.tolist()) for s in structures])
        off = torch.where(graph.atomic_numbers == 8, self.forces, 0.0).unsqueeze(1)
        forces_off = None if found.forces is None else found.forces + off
        return found._replace(energy=found.energy + self.energy + shift, forces=forces_off)


def run(
    predictor: Predictor,
    splits: dict[str, list[Structure]],
    settings: AccuracySettings | None = None,
    **more,
) -> AccuracyResult:
    subject = Subject(predictor=predictor, test=splits, **more)
    return run_assay(subject, settings or AccuracySettings())


def known(errors: Errors | None) -> Errors:
    assert errors is not None
    return errors


def test_a_perfect_potential_has_no_error():
    split = run(Pair(), {"300K": frames(5)}).splits["300K"]
    found = (split.energy, split.energy_per_atom, split.relative_energy, split.forces, split.elements["O"])
    for errors in (*found, split.stress, split.net_force):
        for size in (known(errors).mae, known(errors).rmse, known(errors).max):
            assert size == pytest.approx(0, abs=1e-10)
    assert split.not_finite == 0
    assert known(split.energy).n == 5
    assert known(split.forces).n == 45


def test_known_errors_of_a_third_party_predictor(tmp_path):
    splits = {"a": frames(4, 1), "b": frames(6, 2)}
    predictor = Off(energy=0.3, forces=0.05)
    result = run(predictor, splits, AccuracySettings(max_structures=4))
    a, b = result.splits["a"], result.splits["b"]
    assert predictor.calls == [4, 4, 2]
    assert known(a.energy).mae == pytest.approx(0.3)
    assert known(a.energy_per_atom).rmse == pytest.approx(0.1)
    assert known(a.relative_energy).max == pytest.approx(0, abs=1e-10)
    assert known(b.forces).mae == pytest.approx(0.05 / 3)
    assert known(b.forces).rmse == pytest.approx(0.05 / np.sqrt(3))
    assert b.elements["O"].max == pytest.approx(0.05)
    assert b.elements["H"].max == pytest.approx(0, abs=1e-10)
    assert known(b.net_force).mae == pytest.approx(0.05)
    assert known(b.net_force).mae_percent is None  # the reference is zero but for rounding
    reference = np.concatenate([s.forces for s in splits["b"]])
    assert known(b.forces).mae_percent == pytest.approx(100 * 0.05 / 3 / np.abs(reference).mean())
    assert known(b.forces).rmse_percent == pytest.approx(100 * 0.05 / np.sqrt(3) / reference.std())
    assert b.forces_predicted.shape == (18, 3)
    assert b.structure.tolist() == np.repeat(np.arange(6), 3).tolist()
    record = AssayRecord("accuracy", "off", "w", {"a": a.fingerprint}, {}, environment(), result)
    again = load_assay(record.save(tmp_path), AccuracyResult).result
    assert again.splits["b"].elements["O"].max == b.elements["O"].max
    np.testing.assert_array_equal(again.splits["a"].energy_reference, [s.energy for s in splits["a"]])


def test_units_are_those_of_the_fields():
    for path, unit in (
        ("splits.300K.forces.rmse", "eV/Å"),
        ("splits.300K.forces.rmse_percent", "%"),
        ("splits.300K.energy_per_atom.mae", "eV/atom"),
        ("splits.300K.elements.O.max", "eV/Å"),
        ("splits.300K.stress.rmse", "eV/Å^3"),
        ("splits.300K.forces_predicted", "eV/Å"),
        ("splits.300K.positions", "Å"),
        ("extrapolation_slope", "eV/Å/K"),
    ):
        assert unit_of(AccuracyResult, path) == unit


def test_batches_do_not_matter():
    potential, split = Network([1, 8]), frames(7)
    whole = run(potential, {"x": split}).splits["x"]
    cut = run(potential, {"x": split}, AccuracySettings(max_edges=7)).splits["x"]
    for name in ("energy", "relative_energy", "forces", "stress", "net_force"):
        for size in ("mae", "rmse", "max"):
            expected = getattr(getattr(whole, name), size)
            assert getattr(getattr(cut, name), size) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_missing_labels_are_masked_not_zero():
    full = frames(4)
    bare = [Structure(s.atomic_numbers, s.positions, s.cell, s.pbc) for s in full]
    some = [Structure(s.atomic_numbers, s.positions, s.cell, s.pbc, s.energy) for s in full]
    result = run(Off(energy=0.3), {"m": [full[0], bare[1], some[2], some[3]], "bare": bare})
    mixed, nothing = result.splits["m"], result.splits["bare"]
    assert known(mixed.energy).mae == pytest.approx(0.3)
    assert known(mixed.energy).n == 3
    assert known(mixed.forces).mae == pytest.approx(0, abs=1e-10)
    assert np.isnan(mixed.energy_reference).tolist() == [False, True, False, False]
    assert np.isnan(mixed.forces_reference).all(1).tolist() == [False] * 3 + [True] * 9
    assert np.isfinite(mixed.forces_predicted).all()
    assert nothing.energy is nothing.forces is nothing.stress is nothing.net_force is None
    assert known(mixed.stress).n == 9
    lacking = missing(ASSAY, Subject(predictor=Pair(), test={"bare": bare}))
    assert lacking is not None
    assert "labelled test frames" in lacking
    assert "data.test" in lacking


def radicals(n: int, seed: int = 9) -> list[Structure]:
    """O-H pairs of the water molecules, labelled."""
    out = []
    for s in frames(n, seed):
        bare = Structure(np.array([8, 1]), s.positions[:2], 8 * np.eye(3), np.ones(3, bool))
        energy = float(Pair().predict(from_structures([bare], 5.0)).energy[0])
        out.append(Structure(bare.atomic_numbers, bare.positions, bare.cell, bare.pbc, energy))
    return out


def test_the_zero_of_energy_is_fitted_to_training_frames():
    predictor = Off(per_atom={1: -13.6, 8: -430.0})
    splits = {"x": frames(6), "y": radicals(6)}
    raw = run(predictor, splits)
    assert known(raw.splits["x"].energy).mae > 400
    assert raw.energy_zero == "none"
    train = [*frames(5, 20), *radicals(5, 21)]
    fitted = run(predictor, splits, AccuracySettings(energy_zero="fit"), train=train)
    assert known(fitted.splits["x"].energy).mae < 1e-6
    assert fitted.fitted_zero is not None
    assert (fitted.fitted_zero.rank, fitted.fitted_zero.frames) == (2, 10)
    assert fitted.fitted_zero.shift["O"] == pytest.approx(430.0)


def test_test_labels_do_not_enter_the_fitted_zero():
    """An offset of the test labels alone stays an error, however the zero is fitted."""
    shifted = [Structure(s.atomic_numbers, s.positions, s.cell, s.pbc, (s.energy or 0) + 0.9) for s in frames(6)]
    result = run(Pair(), {"x": shifted}, AccuracySettings(energy_zero="fit"), train=frames(5, 20))
    assert known(result.splits["x"].energy).mae == pytest.approx(0.9)
    with pytest.raises(InputError, match="needs training frames"):
        run(Pair(), {"x": shifted}, AccuracySettings(energy_zero="fit"))


def test_an_element_that_no_training_frame_has_is_left_out_of_the_energies_by_name():
    told: list[str] = []
    carbon = Structure(np.array([6, 1]), np.array([[0.0, 0, 0], [1.1, 0, 0]]), energy=1.0, forces=np.zeros((2, 3)))
    result = run(
        Pair(), {"x": [*frames(2), carbon]}, AccuracySettings(energy_zero="fit"), train=frames(3, 5), tell=told.append
    )
    assert known(result.splits["x"].energy).n == 2
    assert known(result.splits["x"].forces).n == 24
    assert result.splits["x"].not_finite == 0
    assert "C" in result.notes[0]
    assert any("no training frame" in line for line in told)


def test_slope_uses_test_splits_with_one_temperature_each():
    splits = {"train": frames(2, 0, 300), "300K": frames(3, 1, 300), "600K": frames(3, 2, 600), "mixed": frames(2)}
    result = run(Network([1, 8]), splits)
    cold, hot = (known(result.splits[s].forces).rmse for s in ("300K", "600K"))
    assert cold is not None
    assert hot is not None
    assert result.extrapolation_slope == pytest.approx((hot - cold) / 300)
    assert result.splits["600K"].temperature == 600
    told = run(Network([1, 8]), {"a": frames(2), "b": frames(2, 5)}, AccuracySettings(temperatures={"a": 1, "b": 2}))
    assert told.extrapolation_slope is not None
    assert run(Network([1, 8]), {"a": frames(2)}).extrapolation_slope is None


def test_a_split_may_be_named_by_its_temperature():
    splits = {"300K": frames(2), "600 K": frames(2, seed=1), "rest": frames(2, seed=2)}
    result = run(Network([1, 8]), splits)
    assert [result.splits[s].temperature for s in splits] == [300.0, 600.0, None]
    assert result.extrapolation_slope is not None


def test_groups():
    split = run(Off(energy=0.3), {"x": [*frames(2, 0, group="ice"), *frames(3, 1, group="gas")]}).splits["x"]
    assert known(split.groups["ice"].energy_per_atom).mae == pytest.approx(0.1)
    assert split.groups["gas"].frames == 3
    assert split.group_names == ["gas", "ice"]
    assert split.group.tolist() == [1, 1, 0, 0, 0]
    assert run(Pair(), {"x": frames(2)}).splits["x"].groups == {}


class Diverging(Off):
    """Not finite in the first atom's first force component of every call."""

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        found = super().predict(graph, forces, stress)
        assert found.forces is not None
        found.forces[0, 0] = float("nan")
        return found


def test_a_frame_that_diverged_counts_and_the_others_are_summarised():
    split = run(Diverging(), {"x": frames(3)}).splits["x"]
    assert split.not_finite == 1
    assert split.diverged.tolist() == [1, 0, 0]
    assert known(split.forces).n == 18
    assert known(split.forces).mae == pytest.approx(0, abs=1e-10)
    assert known(split.energy).n == 2
    alone = run(Diverging(), {"x": frames(1)}).splits["x"]
    assert known(alone.forces).n == 0
    assert known(alone.forces).mae is None


def test_a_potential_that_diverges_has_no_slope():
    splits = {"300K": frames(3, 1, 300), "600K": frames(3, 2, 600)}
    result = run(Diverging(), splits)
    assert result.extrapolation_slope is None
    assert any("no extrapolation slope" in note for note in result.notes)


def test_molecules_beside_crystals_are_not_diverged():
    """A molecule has no stress: whatever its label says, it neither counts nor diverges."""
    crystal = frames(1)[0]
    gas = Structure(
        crystal.atomic_numbers,
        crystal.positions,
        energy=crystal.energy,
        forces=np.zeros((3, 3)),
        stress=np.zeros((3, 3)),
    )
    split = run(Pair(), {"x": [crystal, gas]}).splits["x"]
    assert split.not_finite == 0
    assert known(split.stress).n == 9
    assert known(split.stress).max == pytest.approx(0, abs=1e-10)


def test_an_unknown_element_refuses_its_split_by_name_and_no_other():
    told: list[str] = []
    result = run(
        Network([1, 8]), {"a": frames(3), "b": [structure_of(Atoms("N2", [[0, 0, 0], [1.1, 0, 0]]))]}, tell=told.append
    )
    assert list(result.splits) == ["a"]
    assert "[7]" in result.refused["b"]
    assert "split b" in told[0]
    with pytest.raises(InputError, match=r"\[8\] are unknown"):
        run(Network([1]), {"a": frames(1)})


def test_the_net_force_on_each_molecule():
    """F(mol): two waters pulled apart by 0.05 eV/Å on each oxygen, which the whole frame's net force hides."""

    class Apart(Off):
        def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
            found = super().predict(graph, forces, stress)
            assert found.forces is not None
            rows = torch.nonzero(graph.atomic_numbers == 8).flatten()
            found.forces[rows[0::2], 0] += 0.05
            found.forces[rows[1::2], 0] -= 0.05
            return found

    def pair(seed: int) -> Structure:
        one, two = frames(2, seed)
        positions = np.concatenate([one.positions, two.positions + np.array([4.0, 0, 0])])
        bare = Structure(np.array([8, 1, 1] * 2), positions)
        forces = Pair().predict(from_structures([bare], 5.0)).forces
        assert forces is not None
        return Structure(bare.atomic_numbers, positions, forces=forces.numpy(), provenance=Provenance(group=f"g{seed}"))

    split = run(Apart(), {"x": [pair(0), pair(1)]}).splits["x"]
    assert known(split.net_force).max == pytest.approx(0, abs=1e-10)
    assert known(split.molecule_force).n == 12
    assert known(split.molecule_force).max == pytest.approx(0.05)
    assert known(split.molecule_force).rmse == pytest.approx(0.05 / np.sqrt(3))
    assert known(split.molecule_force).mae_percent is not None
    assert list(split.molecules) == ["H2O"]
    assert known(split.groups["g1"].molecule_force).n == 6
    single: SplitAccuracy = run(Pair(), {"x": frames(2)}).splits["x"]
    assert single.molecule_force is None


def test_progress():
    class Counter(Silent):
        done = total = 0

        def start(self, description: str, total: int, done: int = 0) -> None:
            self.total = total

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps

    counter = Counter()
    run(Pair(), {"a": frames(3), "b": frames(2)}, progress=counter)
    assert counter.done == counter.total == 5


def test_labels_are_those_of_the_structures():
    split = frames(2)
    result = run(Pair(), {"a": split}).splits["a"]
    np.testing.assert_array_equal(result.forces_reference, labels_of(split).forces.numpy())
    np.testing.assert_array_equal(result.cell, np.stack([s.cell for s in split]))
