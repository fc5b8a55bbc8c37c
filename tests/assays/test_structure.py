"""The structure assay: a crystal against its own oracle, a molecule, failures, interruption, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from fireassay import metrics
from fireassay.assays import ASSAYS, structure
from fireassay.assays.assay import Subject
from fireassay.assays.structure import Grid, StructureSettings
from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, structure_of
from fireassay.observables.pairs import count_pairs
from fireassay.potential import Prediction
from fireassay.records.assay import AssayRecord, load_assay
from fireassay.records.provenance import environment
from fireassay.records.structure import StructureResult
from toys import Pair

SHORT = {"replicas": 3, "equilibration": 60.0, "duration": 120.0, "timestep": 4.0, "stride": 3, "temperature": 80.0}


def argon(cells: int = 2) -> Structure:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * cells
    return structure_of(atoms)


def short(**changes) -> StructureSettings:
    return StructureSettings(**{**SHORT, **changes})


def rattled(start: Structure, n: int, amplitude: float, seed: int = 0) -> list[Structure]:
    rng = np.random.default_rng(seed)
    moved = start.positions + rng.normal(size=(n, *start.positions.shape)) * amplitude
    return [replace(start, positions=x) for x in moved]


def by_name(result: StructureResult) -> dict:
    return {(d.kind, d.name): d for d in result.distributions}


def test_a_potential_against_itself_is_below_the_floor_and_a_stiffer_one_is_not():
    start = argon()
    oracle = Pair(cutoff=6.0)
    settings = short(reach=5.2, angle_cutoff=4.5)
    alike = structure.run(Subject(predictor=Pair(cutoff=6.0), start=start, oracle=oracle), settings)
    rdf = by_name(alike)["rdf", "all"]
    found = rdf.likeness["oracle"]
    assert found.jensen_shannon == 0.0  # same seed, same steps
    assert alike.sampled == 1.0
    assert alike.frames == alike.references["oracle"] == 3 * 11
    calm = rattled(start, 40, 0.01)
    cold = structure.run(Subject(predictor=Pair(cutoff=6.0), start=start, reference=calm), settings)
    other = by_name(cold)["rdf", "all"].likeness["reference trajectory"]
    assert other.jensen_shannon > 10 * (other.jensen_shannon_floor or 0)
    assert other.wasserstein > 2 * (other.wasserstein_floor or 0)
    assert other.wright is not None
    assert other.wright > 9
    assert other.r_chi == pytest.approx(10 * np.sqrt(other.wright))
    assert other.wasserstein_error is not None


def test_numbers_are_those_of_plain_functions():
    """The reference's g(r) and all distances, recomputed from its frames and from the recorded arrays."""
    start, calm = argon(), rattled(argon(), 20, 0.05)
    result = structure.run(Subject(predictor=Pair(cutoff=6.0), start=start, reference=calm), short(reach=5.0))
    d = by_name(result)["rdf", "all"]
    x = np.stack([s.positions for s in calm])
    cells = np.broadcast_to(start.cell, (20, 3, 3))
    g = count_pairs(start.atomic_numbers, x, cells, start.pbc, 5.0, 0.05).distribution()[0]
    np.testing.assert_allclose(d.references["reference trajectory"], g, atol=1e-12)
    found = d.likeness["reference trajectory"]
    assert found.wright == pytest.approx(metrics.wright_factor(d.value, g))
    assert found.jensen_shannon == pytest.approx(metrics.jensen_shannon(d.value, g))
    assert found.wasserstein == pytest.approx(metrics.wasserstein(d.value, g, 0.05))
    shells = {c.name: c for c in result.coordination}
    assert shells["Ar-Ar"].references["reference trajectory"] == pytest.approx(12.0, abs=0.1)


def test_a_molecule_has_bonds_angles_dihedrals_and_a_size(tmp_path: Path):
    atoms = molecule("CH3OH")
    calculator = Doomed(10**9, structure_of(atoms))  # springs to where atoms are
    settings = StructureSettings(
        replicas=2, equilibration=5.0, duration=20.0, timestep=0.5, stride=4, temperature=100.0, hydrogens=False
    )
    result = structure.run(Subject(predictor=calculator, start=structure_of(atoms)), settings)
    kinds = {d.kind for d in result.distributions}
    assert kinds == {"pair density", "angle", "bond", "bond angle", "dihedral", "gyration"}
    names = by_name(result)
    assert {name for kind, name in names if kind == "bond"} == {"C-O", "C-H", "H-O"}
    assert {name for kind, name in names if kind == "dihedral"} == {"H-C-O-H"}
    for d in result.distributions:
        width = d.x[1] - d.x[0]
        assert d.value.sum() * width == pytest.approx(1.0), d.name
    heavy = names["gyration", "R_g"]
    assert float(heavy.x @ heavy.value / heavy.value.sum()) == pytest.approx(
        np.linalg.norm(atoms.positions[0] - atoms.positions[1]) * np.sqrt(12.011 * 15.999) / (12.011 + 15.999), abs=0.1
    )
    assert "no reference trajectory and no oracle" in result.notes[0]
    record = AssayRecord("structure", "emt", "", {}, settings.model_dump(mode="json"), environment(), result)
    loaded = load_assay(record.save(tmp_path), StructureResult).result
    assert [d.name for d in loaded.distributions] == [d.name for d in result.distributions]


def test_a_molecule_in_a_box_and_a_slab():
    box = molecule("CH3OH", vacuum=4.0)
    box.pbc = True
    grid = Grid.of(structure_of(box), StructureSettings(), box.cell.array[None])
    assert {k for k, _ in grid.curves(grid.sums(box.positions[None], box.cell.array))} >= {"rdf", "angle", "bond"}
    slab = bulk("Cu", cubic=True)
    slab.pbc = [True, True, False]
    subject = Subject(predictor=CalculatorPredictor(EMT()), start=structure_of(slab))
    result = structure.run(subject, short(temperature=50.0))
    assert {d.kind for d in result.distributions} == {"pair density"}
    assert any("some directions only" in note for note in result.notes)


class Doomed:
    """Harmonic, until its calculation number `end`: then one replica's forces are not finite."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def __init__(self, end: int, start: Structure) -> None:
        self.end, self.calls, self.x0 = end, 0, torch.from_numpy(start.positions)

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        self.calls += 1
        n = len(self.x0)
        moved = graph.positions - self.x0.repeat(graph.n_structures, 1)
        pull = -2.0 * moved
        if self.calls >= self.end:
            pull[:n] = torch.nan
        energy = moved.square().view(-1, n, 3).sum((1, 2))
        return Prediction(energy, pull)


def test_what_failed_is_counted_and_does_not_look_better():
    start = argon()
    result = structure.run(Subject(predictor=Doomed(30, start), start=start), short())
    assert [f.replica for f in result.failures] == [0, 1, 2]  # each time the first of what is left
    assert result.sampled < 1.0
    with pytest.raises(InputError, match="none of 3 trajectories lives through 60 fs at 80 K; the first ended at 12"):
        structure.run(Subject(predictor=Doomed(4, start), start=start), short(replicas=3, energy_jump=None))


def test_an_interrupted_assay_goes_on_and_says_the_same(tmp_path: Path):
    class Stopping(Pair):
        calls = 0

        def frozen(self):
            return self

        def predict(self, *arguments, **options):
            Stopping.calls += 1
            if Stopping.calls == 27:
                raise KeyboardInterrupt
            return super().predict(*arguments, **options)

    start = argon()
    settings = short(stride=2)
    whole = structure.run(Subject(predictor=Pair(cutoff=6.0), start=start), settings)
    subject = Subject(predictor=Stopping(cutoff=6.0), start=start, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        structure.run(subject, settings)
    assert list(tmp_path.glob(".structure-own-*.npz"))
    again = structure.run(subject, settings)
    assert not list(tmp_path.glob(".structure*"))
    for first, second in zip(whole.distributions, again.distributions, strict=True):
        assert np.array_equal(first.value, second.value)
        assert np.array_equal(first.error, second.error)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ([structure_of(bulk("Cu", cubic=True) * 2)] * 3, "data.reference is of Cu32, the start of Ar32"),
        ([argon()], r"data.reference has 1 frame\(s\)"),
        ([structure_of(bulk("Ar", "fcc", a=5.6, cubic=True) * 2)] * 3, "has a cell of 11.200"),
        ([replace(argon(), pbc=np.array([True, True, False]))] * 3, "has pbc"),
        ([argon(), structure_of(bulk("Ar", "fcc", a=5.3, cubic=True))], "the same atoms in one order"),
    ],
)
def test_references_of_something_else_are_refused(reference, said):
    with pytest.raises(InputError, match=said):
        structure.run(Subject(predictor=Pair(cutoff=6.0), start=argon(), reference=reference), short())


def test_ranges_beyond_the_cell_are_refused():
    with pytest.raises(InputError, match=r"up to 8 Å were asked for in a cell whose opposite faces are 10.6 Å apart"):
        structure.run(Subject(predictor=Pair(cutoff=6.0), start=argon()), short(reach=8.0))
    with pytest.raises(InputError, match="do not divide 180"):
        structure.run(Subject(predictor=Pair(cutoff=6.0), start=argon()), short(angle_bin=7.0))


def test_calculators_of_others_are_welcome():
    start = structure_of(Atoms("Ar4", [[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]]))
    calculator = CalculatorPredictor(LennardJones(epsilon=0.0104, sigma=3.4, rc=12.0))
    result = structure.run(Subject(predictor=calculator, start=start), short(temperature=10.0))
    assert by_name(result)["pair density", "all"].value.any()


def test_it_is_run_only_when_it_is_named():
    assert not ASSAYS["structure"].by_default
    assert not ASSAYS["dynamics"].by_default
