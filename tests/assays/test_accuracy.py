"""The accuracy assay on predictors whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.assays import accuracy
from fireassay.assays.accuracy import AccuracySettings
from fireassay.data.graph import Graph, from_structures, labels_of
from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError
from fireassay.potential import Prediction
from fireassay.progress import Silent
from fireassay.records import AssayResult
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
        return found._replace(energy=found.energy + self.energy + shift, forces=found.forces + off)


def value(result: AssayResult, name: str) -> float:
    return result.values[name].value


def test_a_perfect_potential_has_no_error():
    result = accuracy.run(Pair(), {"300K": frames(5)})
    for quantity in ("energy", "energy_per_atom", "relative_energy", "forces", "forces.O", "stress", "net_force"):
        for metric in ("mae", "rmse", "max"):
            assert value(result, f"300K.{quantity}.{metric}") == pytest.approx(0, abs=1e-10)
    assert value(result, "300K.not_finite") == 0


def test_known_errors_of_a_third_party_predictor(tmp_path):
    splits = {"a": frames(4, 1), "b": frames(6, 2)}
    predictor = Off(energy=0.3, forces=0.05)
    result = accuracy.run(predictor, splits, AccuracySettings(max_structures=4), name="off")
    assert predictor.calls == [4, 4, 2]
    assert value(result, "a.energy.mae") == pytest.approx(0.3)
    assert value(result, "a.energy_per_atom.rmse") == pytest.approx(0.1)
    assert value(result, "a.relative_energy.max") == pytest.approx(0, abs=1e-10)
    assert value(result, "b.forces.mae") == pytest.approx(0.05 / 3)
    assert value(result, "b.forces.rmse") == pytest.approx(0.05 / np.sqrt(3))
    assert value(result, "b.forces.O.max") == pytest.approx(0.05)
    assert value(result, "b.forces.H.max") == pytest.approx(0, abs=1e-10)
    assert value(result, "b.net_force.mae") == pytest.approx(0.05)
    reference = np.concatenate([s.forces for s in splits["b"]])
    assert value(result, "b.forces.mae_percent") == pytest.approx(100 * 0.05 / 3 / np.abs(reference).mean())
    assert value(result, "b.forces.rmse_percent") == pytest.approx(100 * 0.05 / np.sqrt(3) / reference.std())
    assert result.values["b.forces.rmse"].unit == "eV/Å"
    assert result.values["b.forces.rmse_percent"].unit == "%"
    assert result.arrays["b.forces.predicted"].shape == (18, 3)
    assert result.arrays["b.structure"].tolist() == np.repeat(np.arange(6), 3).tolist()
    again = AssayResult.load(result.save(tmp_path))
    assert again.values["b.forces.O.max"] == result.values["b.forces.O.max"]
    np.testing.assert_array_equal(again.arrays["a.energy.reference"], [s.energy for s in splits["a"]])


def test_batches_do_not_matter():
    potential, split = Network([1, 8]), frames(7)
    whole = accuracy.run(potential, {"x": split})
    cut = accuracy.run(potential, {"x": split}, AccuracySettings(max_edges=7))
    for name, quantity in whole.values.items():
        if name != "energy_zero":
            assert cut.values[name].value == pytest.approx(quantity.value, rel=1e-3, abs=1e-6)


def test_missing_labels_are_masked_not_zero():
    full = frames(4)
    bare = [Structure(s.atomic_numbers, s.positions, s.cell, s.pbc) for s in full]
    some = [Structure(s.atomic_numbers, s.positions, s.cell, s.pbc, s.energy) for s in full]
    mixed = accuracy.run(Off(energy=0.3), {"m": [full[0], bare[1], some[2], some[3]], "bare": bare})
    assert value(mixed, "m.energy.mae") == pytest.approx(0.3)
    assert value(mixed, "m.forces.mae") == pytest.approx(0, abs=1e-10)
    assert np.isnan(mixed.arrays["m.energy.reference"]).tolist() == [False, True, False, False]
    assert np.isnan(mixed.arrays["m.forces.reference"]).all(1).tolist() == [False] * 3 + [True] * 9
    assert np.isfinite(mixed.arrays["m.forces.predicted"]).all()
    assert not [name for name in mixed.values if name.startswith("bare.") and "mae" in name]
    assert "m.stress.mae" in mixed.values
    with pytest.raises(InputError, match="needs reference labels"):
        accuracy.run(Pair(), {"bare": bare})


def test_energies_of_another_zero_are_shifted_and_said_to_be():
    water = frames(6)
    radical = [
        Structure(s.atomic_numbers[:2], s.positions[:2], s.cell, s.pbc, _energy(s.positions[:2])) for s in frames(6, 9)
    ]
    predictor = Off(per_atom={1: -13.6, 8: -430.0})
    raw = accuracy.run(predictor, {"x": water, "y": radical})
    assert value(raw, "x.energy.mae") > 400
    assert value(raw, "energy_zero") == "none"
    fitted = accuracy.run(predictor, {"x": water, "y": radical}, AccuracySettings(energy_zero="fit"))
    assert value(fitted, "x.energy.mae") < 1e-6
    assert value(fitted, "energy_zero") == "fit"
    assert value(fitted, "energy_zero.rank") == 2
    assert value(fitted, "energy_zero.O") == pytest.approx(430.0)


def _energy(positions: np.ndarray) -> float:
    bare = Structure(np.array([8, 1]), positions, 8 * np.eye(3), np.ones(3, bool))
    return float(Pair().predict(from_structures([bare], 5.0)).energy[0])


def test_slope_uses_test_splits_with_one_temperature_each():
    splits = {"train": frames(2, 0, 300), "300K": frames(3, 1, 300), "600K": frames(3, 2, 600), "mixed": frames(2)}
    result = accuracy.run(Network([1, 8]), splits)
    rmse = [value(result, f"{s}.forces.rmse") for s in ("300K", "600K")]
    assert value(result, "extrapolation_slope") == pytest.approx((rmse[1] - rmse[0]) / 300)
    assert result.values["600K.temperature"].value == 600
    told = accuracy.run(
        Network([1, 8]), {"a": frames(2), "b": frames(2, 5)}, AccuracySettings(temperatures={"a": 1, "b": 2})
    )
    assert "extrapolation_slope" in told.values
    assert "extrapolation_slope" not in accuracy.run(Network([1, 8]), {"a": frames(2)}).values


def test_a_split_may_be_named_by_its_temperature():
    splits = {"300K": frames(2), "600 K": frames(2, seed=1), "rest": frames(2, seed=2)}
    result = accuracy.run(Network([1, 8]), splits)
    assert value(result, "300K.temperature") == 300.0
    assert value(result, "600 K.temperature") == 600.0
    assert "rest.temperature" not in result.values
    assert "extrapolation_slope" in result.values


def test_groups():
    result = accuracy.run(Off(energy=0.3), {"x": [*frames(2, 0, group="ice"), *frames(3, 1, group="gas")]})
    assert value(result, "x.group.ice.energy_per_atom.mae") == pytest.approx(0.1)
    assert "x.group.gas.forces.rmse" in result.values
    assert not [n for n in accuracy.run(Pair(), {"x": frames(2)}).values if "group" in n]


def test_a_diverged_prediction_is_reported_not_averaged():
    class Diverging(Off):
        def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
            found = super().predict(graph, forces, stress)
            found.forces[0, 0] = float("nan")
            return found

    result = accuracy.run(Diverging(), {"x": frames(3)})
    assert result.values["x.forces.mae"].value is None
    assert value(result, "x.energy.mae") == pytest.approx(0, abs=1e-10)
    assert value(result, "x.not_finite") == 1


def test_progress_and_unknown_elements():
    class Counter(Silent):
        done = total = 0

        def start(self, description: str, total: int, done: int = 0) -> None:
            self.total = total

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps

    counter = Counter()
    accuracy.run(Pair(), {"a": frames(3), "b": frames(2)}, progress=counter)
    assert counter.done == counter.total == 5
    with pytest.raises(InputError, match=r"\[8\] are unknown"):
        accuracy.run(Network([1]), {"a": frames(1)})


def test_labels_are_those_of_the_structures():
    split = frames(2)
    result = accuracy.run(Pair(), {"a": split})
    np.testing.assert_array_equal(result.arrays["a.forces.reference"], labels_of(split).forces.numpy())
    assert set(result.units) == set(result.arrays)
    assert result.units["a.forces.predicted"] == "eV/Å"
    assert result.units["a.positions"] == "Å"
