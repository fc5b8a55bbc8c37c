"""The contract that every potential obeys, shipped so that anybody can hold a potential to it.

    from fireassay.testing import assert_potential_contract

    def test_my_potential():
        assert_potential_contract(lambda: MyPotential(species=(1, 6, 8), cutoff=4.0, seed=0))

Fifteen laws, in float64 on the CPU, in seconds. Each law first shows that it is not vacuous: that there are forces to
compare, that the thing moved matters. A law that fails raises AssertionError with its number, its name and the size of
the violation. Laws 10 to 12 concern a `LocalPotential` only; law 15 is checked when recorded values are given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Baseline, LocalPotential, Potential, Sum

TOLERANCE = 1e-8  # relative to the largest value compared, float64
LOCAL_LAWS = ("continuity", "extensivity", "isolated_atom")


@dataclass(frozen=True)
class Recorded:
    """A reference implementation's prediction, for law 15.

    `make` builds the potential with the reference's weights; energy in eV, forces (N, 3) in eV/Å; `rtol` is relative
    to the largest magnitude; `source` names package, version and how the numbers were made.
    """

    make: Callable[[], Potential]
    structure: Structure
    energy: float
    forces: NDArray[np.float64]
    source: str
    rtol: float = 1e-9
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Subject:
    """The potential on trial, and what the laws need to know of it."""

    make: Callable[[], Potential]
    species: tuple[int, ...]
    cutoff: float
    e0: Mapping[int, float]
    recorded: tuple[Recorded, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    potential: Potential = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "potential", self.fresh())

    def fresh(self, dtype: torch.dtype = torch.float64) -> Potential:
        """The potential made anew, in evaluation mode on the device."""
        return self.make().to(self.device, dtype).eval()

    @property
    def exact(self) -> float:
        """The tolerance of what is equal bit for bit on the CPU; on other devices sums may run in any order."""
        return 0.0 if self.device.type == "cpu" else TOLERANCE

    def molecule(self, n: int = 7, seed: int = 0) -> Structure:
        """`n` atoms, no two closer than 0.18 of the cutoff, within reach of each other."""
        rng = np.random.default_rng(seed)
        positions = _scattered(rng, n, 0.42 * self.cutoff, 0.18 * self.cutoff)
        return Structure(rng.choice(self.species, n), positions)

    def crystal(self, n: int = 3, seed: int = 1) -> Structure:
        """A triclinic cell of `n` atoms, narrower than the cutoff, so that atoms see their own images."""
        rng = np.random.default_rng(seed)
        edge = 0.75 * self.cutoff
        cell = edge * (np.eye(3) + np.tril(rng.uniform(0.1, 0.35, (3, 3)), -1) + 0.05 * rng.normal(size=(3, 3)))
        grid = np.array([[0.1, 0.1, 0.1], [0.55, 0.5, 0.15], [0.15, 0.6, 0.6], [0.6, 0.1, 0.55]])[:n]
        positions = (grid + rng.uniform(-0.04, 0.04, grid.shape)) @ cell
        return Structure(rng.choice(self.species, n), positions, cell, np.ones(3, dtype=bool))

    def graph(self, *structures: Structure, cutoff: float | None = None) -> Graph:
        """The float64 graph of the structures."""
        return from_structures(structures, self.cutoff if cutoff is None else cutoff, device=self.device)


def _scattered(rng: np.random.Generator, n: int, radius: float, apart: float) -> NDArray[np.float64]:
    points: list[NDArray[np.float64]] = []
    while len(points) < n:
        point = rng.uniform(-radius, radius, 3)
        if all(np.linalg.norm(point - other) > apart for other in points):
            points.append(point)
    return np.array(points)


def _need(condition: bool, law: str, message: str) -> None:
    if not condition:
        raise AssertionError(f"law {1 + list(LAWS).index(law)} ({law}): {message}")


def _equal(law: str, what: str, got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    _need(got.shape == expected.shape, law, f"{what} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if got.numel() == 0:
        return
    got, expected = got.detach().cpu(), expected.detach().cpu()
    scale = max(expected.abs().max().item(), 1e-3)
    error = (got.to(expected.dtype) - expected).abs().max().item()
    _need(error <= tolerance * scale, law, f"{what} differs by {error:.2e} where values reach {scale:.2e}")


def _moves(law: str, what: str, value: Tensor, least: float = 1e-7) -> None:
    size = value.abs().max().item() if value.numel() else 0.0
    _need(size > least, law, f"would be vacuous: {what} is {size:.1e} everywhere; give weights that are not zero")


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def law_shapes(subject: Subject) -> None:
    """1: shapes, dtypes and devices, with one structure, one atom, no edges, and all of them in one batch."""
    law = "shapes"
    atom = Structure(np.array(subject.species[:1]), np.zeros((1, 3)))
    lone = Structure(
        np.array(subject.species[:1]), np.zeros((1, 3)), np.eye(3) * 0.6 * subject.cutoff, np.ones(3, bool)
    )
    for dtype in (torch.float64, torch.float32):
        potential = subject.fresh(dtype)
        for batch in ([subject.molecule()], [atom], [lone], [atom, subject.molecule(), lone, subject.crystal(), atom]):
            graph = from_structures(batch, subject.cutoff, dtype, subject.device)
            prediction = potential.predict(graph, forces=True, stress=True)
            shapes = {
                "energy": (graph.n_structures,),
                "forces": (graph.n_atoms, 3),
                "stress": (graph.n_structures, 3, 3),
                "atom_energies": (graph.n_atoms,),
            }
            for name, value in prediction._asdict().items():
                if value is None:
                    _need(name not in ("energy", "forces", "stress"), law, f"{name} is missing")
                    continue
                expected = shapes.get(name) or (graph.n_atoms, *value.shape[1:2])
                _need(tuple(value.shape) == expected, law, f"{name} has shape {tuple(value.shape)}, needs {expected}")
                _need(value.device == graph.positions.device, law, f"{name} is on {value.device}")
                _need(value.dtype in (dtype, torch.float64), law, f"{name} is {value.dtype} for positions in {dtype}")
                solid = value[graph.pbc.all(1)] if name == "stress" else value
                _need(bool(torch.isfinite(solid).all()), law, f"{name} is not finite for {len(batch)} structures")
            _need(_given(prediction.forces).dtype == dtype, law, f"forces are not in {dtype}")


def _orthogonal(rng: np.random.Generator, improper: bool) -> NDArray[np.float64]:
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * (np.sign(np.linalg.det(q)) * (-1 if improper else 1))


def law_rotation(subject: Subject) -> None:
    """2: energy, atom energies and descriptors are invariant, forces and stress turn, under rotation and reflection."""
    law = "rotation"
    rng = np.random.default_rng(2)
    original = [subject.molecule(), subject.crystal()]
    before = subject.potential.predict(subject.graph(*original), stress=True)
    _moves(law, "the force", _given(before.forces))
    for improper in (False, True):
        q = _orthogonal(rng, improper)
        turned = [replace(s, positions=s.positions @ q.T, cell=s.cell @ q.T) for s in original]
        after = subject.potential.predict(subject.graph(*turned), stress=True)
        matrix = torch.from_numpy(q).to(subject.device)
        kind = "reflection" if improper else "rotation"
        _equal(law, f"the energy after a {kind}", after.energy, before.energy)
        _equal(law, f"the forces after a {kind}", _given(after.forces), _given(before.forces) @ matrix.T)
        stress = matrix @ _given(before.stress)[1] @ matrix.T
        _equal(law, f"the stress after a {kind}", _given(after.stress)[1], stress)
        for name in ("atom_energies", "descriptors"):
            if (old := getattr(before, name)) is not None:
                _equal(law, f"{name} after a {kind}", getattr(after, name), old)


def law_translation(subject: Subject) -> None:
    """3: nothing changes when everything moves, or when one atom moves by a lattice vector."""
    law = "translation"
    molecule, crystal = subject.molecule(), subject.crystal()
    before = subject.potential.predict(subject.graph(molecule, crystal), stress=True)
    _moves(law, "the force", _given(before.forces))
    wrapped = crystal.positions.copy()
    wrapped[0] += np.array([2, -1, 1]) @ crystal.cell
    moved = [
        replace(molecule, positions=molecule.positions + np.array([3.1, -7.2, 11.3])),
        replace(crystal, positions=wrapped + np.array([0.3, 0.2, -5.0])),
    ]
    after = subject.potential.predict(subject.graph(*moved), stress=True)
    _equal(law, "the energy", after.energy, before.energy)
    _equal(law, "the forces", _given(after.forces), _given(before.forces))
    _equal(law, "the stress", _given(after.stress)[1], _given(before.stress)[1])


def law_permutation(subject: Subject) -> None:
    """4: renumbering the atoms renumbers the forces and changes nothing else."""
    law = "permutation"
    molecule = replace(subject.molecule(), **dict.fromkeys(subject.potential.uses, 2.0))
    order = np.random.default_rng(4).permutation(len(molecule))
    shuffled = replace(molecule, atomic_numbers=molecule.atomic_numbers[order], positions=molecule.positions[order])
    before = subject.potential.predict(subject.graph(molecule))
    after = subject.potential.predict(subject.graph(shuffled))
    _moves(law, "the difference between atoms' forces", _given(before.forces)[order] - _given(before.forces))
    _equal(law, "the energy", after.energy, before.energy)
    _equal(law, "the forces", _given(after.forces), _given(before.forces)[order])


def _energy(subject: Subject, structure: Structure) -> float:
    return subject.potential.predict(subject.graph(structure), forces=False).energy.item()


def law_forces(subject: Subject) -> None:
    """5: forces are minus the central differences of the energy."""
    law = "forces"
    step = 1e-4
    for structure in (subject.molecule(5), subject.crystal()):
        forces = _given(subject.potential.predict(subject.graph(structure)).forces)
        _moves(law, "the force", forces)
        expected = torch.zeros_like(forces)
        for atom, axis in np.ndindex(*structure.positions.shape):
            energies = []
            for sign in (1, -1):
                positions = structure.positions.copy()
                positions[atom, axis] += sign * step
                energies.append(_energy(subject, replace(structure, positions=positions)))
            expected[atom, axis] = -(energies[0] - energies[1]) / (2 * step)
        _equal(law, "the force", forces, expected, 1e-5)


def law_stress(subject: Subject) -> None:
    """6: stress is the central difference of the energy in all nine strains, by volume; positive in tension."""
    law = "stress"
    step = 1e-4
    structure = subject.crystal()
    stress = _given(subject.potential.predict(subject.graph(structure), stress=True).stress)[0]
    _moves(law, "the stress", stress)
    _moves(law, "the shear stress", stress - torch.diag(torch.diag(stress)))
    expected = torch.zeros_like(stress)
    for row, column in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * step
            strained = replace(structure, positions=structure.positions @ strain, cell=structure.cell @ strain)
            energies.append(_energy(subject, strained))
        expected[row, column] = (energies[0] - energies[1]) / (2 * step * abs(np.linalg.det(structure.cell)))
    _equal(law, "the stress", stress, expected, 1e-5)
    _equal(law, "the stress transposed", stress.T, stress)


def law_second_derivatives(subject: Subject) -> None:
    """7: derivatives of forces and stress in the parameters and positions, which training needs, are right."""
    law = "second_derivatives"
    potential = copy.deepcopy(subject.potential)
    generator = torch.Generator().manual_seed(7)
    graph = subject.graph(subject.molecule(5), subject.crystal())
    parameters = [p for p in potential.parameters() if p.requires_grad]
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in parameters]
    weight_f = torch.randn(graph.n_atoms, 3, generator=generator, dtype=torch.float64).to(subject.device)
    weight_s = torch.randn(3, 3, generator=generator, dtype=torch.float64).to(subject.device)

    def loss(differentiable: bool) -> Tensor:
        prediction = potential.predict(graph, stress=True, differentiable=differentiable)
        crystal = _given(prediction.stress)[1]
        return (weight_f * _given(prediction.forces)).sum() + (weight_s * crystal).sum() + prediction.energy.sum()

    if parameters:
        gradients = torch.autograd.grad(loss(True), parameters, allow_unused=True)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
        step, values = 1e-5, []
        for sign in (1, -2):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += sign * step * direction
            values.append(loss(False))
        expected = (values[0] - values[1]) / (2 * step)
        _moves(law, "the slope in the parameters", expected)
        _equal(law, "the slope of forces and stress in the parameters", torch.as_tensor(slope), expected, 1e-4)
    _hessian_is_symmetric(subject, law)


def _hessian_is_symmetric(subject: Subject, law: str) -> None:
    """d(force)/d(positions) by autograd against central differences of the forces."""
    structure = subject.molecule(4)
    graph = subject.graph(structure)
    positions = graph.positions.clone().requires_grad_()
    energy = subject.potential.energy(graph._replace(positions=positions)).sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (product,) = torch.autograd.grad((gradient * direction.to(positions.device)).sum(), positions)
    step, forces = 1e-4, []
    for sign in (1, -1):
        moved = replace(structure, positions=structure.positions + sign * step * direction.numpy())
        forces.append(_given(subject.potential.predict(subject.graph(moved)).forces))
    _equal(law, "the Hessian along a direction", product, -(forces[0] - forces[1]) / (2 * step), 1e-4)


def law_batching(subject: Subject) -> None:
    """8: a batch equals its single structures, in any order, and charge and spin act on their own structure alone."""
    law = "batching"
    structures = [subject.molecule(), subject.crystal(), subject.molecule(4, seed=5), subject.crystal(2, seed=6)]
    _equal_to_singles(subject, law, structures)
    uses, first = subject.potential.uses, structures[0]
    for quantity in sorted(uses):
        given = [replace(s, **{quantity: value}) for s, value in zip(structures, (2.0, None, 1.0, 3.0), strict=True)]
        _equal_to_singles(subject, law, given)
        energies = [_energy(subject, replace(first, **{quantity: value})) for value in (1.0, 2.0)]
        _moves(law, f"the effect of the {quantity}, which it says it uses,", torch.tensor(energies).diff())
    _ignores(subject, law, first, {"charge", "spin"} - uses)


def _ignores(subject: Subject, law: str, structure: Structure, quantities: Iterable[str]) -> None:
    """Nothing depends on what the potential does not say it uses, unless it refuses it."""
    plain = _energy(subject, structure)
    for quantity in sorted(quantities):
        try:
            energy = _energy(subject, replace(structure, **{quantity: 2.0}))
        except InputError:
            continue
        same = abs(energy - plain) <= subject.exact * max(1.0, abs(plain))
        _need(same, law, f"the energy depends on the {quantity}, which is not in uses")


def _equal_to_singles(subject: Subject, law: str, structures: Sequence[Structure]) -> None:
    singles = [subject.potential.predict(subject.graph(s), stress=True) for s in structures]
    _moves(law, "the difference between energies", singles[0].energy - singles[2].energy)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        batch = subject.potential.predict(subject.graph(*(structures[k] for k in order)), stress=True)
        _equal(law, "the energies", batch.energy, torch.cat([singles[k].energy for k in order]))
        _equal(law, "the forces", _given(batch.forces), torch.cat([_given(singles[k].forces) for k in order]))
        for place, k in enumerate(order):
            if structures[k].pbc.all():
                _equal(law, "the stress", _given(batch.stress)[place], _given(singles[k].stress)[0])


def law_independence(subject: Subject) -> None:
    """9: the energy of one structure has exactly no gradient in the atoms of another."""
    law = "independence"
    graph = subject.graph(subject.molecule(), subject.molecule(5, seed=9), subject.crystal())
    positions = graph.positions.clone().requires_grad_()
    energy = subject.potential.energy(graph._replace(positions=positions))
    for number in range(graph.n_structures):
        (gradient,) = torch.autograd.grad(energy[number], positions, retain_graph=True)
        own = graph.structure == number
        _moves(law, "the gradient in the structure's own atoms", gradient[own])
        leak = gradient[~own].abs().max().item()
        _need(leak == 0, law, f"the energy of structure {number} has a gradient of {leak:.1e} in other structures")


def law_continuity(subject: Subject) -> None:
    """10: energy and forces are continuous as a pair crosses the cutoff; edges beyond the cutoff add nothing."""
    law = "continuity"
    r, step = subject.cutoff, 1e-4

    def trimer(distance: float) -> Structure:
        positions = np.array([[0.0, 0, 0], [0.3 * r, 0.1 * r, 0.05 * r], [-distance, 0, 0]])
        return Structure(np.resize(subject.species, 3), positions)

    def predict(distance: float, reach: float = 0.0) -> tuple[Tensor, Tensor]:
        prediction = subject.potential.predict(subject.graph(trimer(distance), cutoff=r + reach))
        return prediction.energy, _given(prediction.forces)

    far, near = predict(1.5 * r), predict(0.6 * r)
    _moves(law, "the interaction at 0.6 of the cutoff", near[0] - far[0], 1e-12)
    inside, outside = predict(r - step), predict(r + step)
    for what, k, floor in (("energy", 0, 1e-9), ("force", 1, 1e-9)):
        scale = max((near[k] - far[k]).abs().max().item(), floor)
        jump = (inside[k] - outside[k]).abs().max().item()
        _need(
            jump <= 2e-3 * scale, law, f"the {what} jumps by {jump:.1e} at the cutoff, {jump / scale:.1e} of its size"
        )
    molecule = subject.molecule()
    plain = subject.potential.predict(subject.graph(molecule))
    skinned_graph = subject.graph(molecule, trimer(1.2 * r), cutoff=1.6 * r)
    _need(
        skinned_graph.n_edges > subject.graph(molecule, trimer(1.2 * r)).n_edges,
        law,
        "would be vacuous: no longer edges",
    )
    skinned = subject.potential.predict(skinned_graph)
    _equal(law, "the energy with edges beyond the cutoff", skinned.energy[:1], plain.energy)
    _equal(
        law, "the forces with edges beyond the cutoff", _given(skinned.forces)[: len(molecule)], _given(plain.forces)
    )


def law_extensivity(subject: Subject) -> None:
    """11: far fragments add up; a supercell has a multiple of the energy and the same stress."""
    law = "extensivity"
    one, two = subject.molecule(), subject.molecule(5, seed=3)
    both = Structure(
        np.concatenate([one.atomic_numbers, two.atomic_numbers]), np.concatenate([one.positions, two.positions + 200.0])
    )
    apart = subject.potential.predict(subject.graph(one, two))
    joined = subject.potential.predict(subject.graph(both))
    _moves(law, "the force", _given(apart.forces))
    _equal(law, "the energy of two far fragments", joined.energy, apart.energy.sum(0, keepdim=True))
    _equal(law, "the forces of two far fragments", _given(joined.forces), _given(apart.forces))
    cell = subject.crystal()
    images = [np.array(n) @ cell.cell for n in np.ndindex(2, 2, 1)]
    large = replace(
        cell,
        atomic_numbers=np.tile(cell.atomic_numbers, 4),
        positions=np.concatenate([cell.positions + image for image in images]),
        cell=cell.cell * np.array([[2.0], [2.0], [1.0]]),
    )
    small_p = subject.potential.predict(subject.graph(cell), stress=True)
    large_p = subject.potential.predict(subject.graph(large), stress=True)
    _equal(law, "the energy of a 2 x 2 x 1 supercell", large_p.energy, 4 * small_p.energy)
    _equal(law, "the forces of a supercell", _given(large_p.forces), _given(small_p.forces).repeat(4, 1))
    _equal(law, "the stress of a supercell", _given(large_p.stress), _given(small_p.stress))


def law_isolated_atom(subject: Subject) -> None:
    """12: an isolated atom has the energy E0 of its species."""
    law = "isolated_atom"
    atoms = [Structure(np.array([z]), np.zeros((1, 3))) for z in subject.species]
    energy = subject.potential.predict(subject.graph(*atoms), forces=False).energy
    bound = subject.potential.predict(subject.graph(subject.molecule()), forces=False).energy
    expected = torch.tensor([subject.e0.get(z, 0.0) for z in subject.species], dtype=torch.float64)
    separate = sum(subject.e0.get(int(z), 0.0) for z in subject.molecule().atomic_numbers)
    _moves(law, "the binding energy of a molecule", bound - separate)
    _equal(law, "the energy of isolated atoms", energy.to(torch.float64), expected)


def law_purity(subject: Subject) -> None:
    """13: the input is not changed, no gradient is left behind, the output is detached unless asked."""
    law = "purity"
    graph = subject.graph(subject.molecule(), subject.crystal())
    before = Graph(*(None if tensor is None else tensor.clone() for tensor in graph))  # type: ignore[arg-type]
    with torch.no_grad():
        quiet = subject.potential.predict(graph, stress=True)
    prediction = subject.potential.predict(graph, stress=True)
    for name, new, old in zip(Graph._fields, graph, before, strict=True):
        if new is None or old is None:
            continue
        _need(torch.equal(new, old) and not new.requires_grad, law, f"predict changed graph.{name}")
    for name, value in prediction._asdict().items():
        _need(value is None or not value.requires_grad, law, f"{name} is not detached")
    _equal(law, "the forces under no_grad", _given(quiet.forces), _given(prediction.forces), subject.exact)
    parameters = [p for p in subject.potential.parameters() if p.requires_grad]
    _need(all(p.grad is None for p in parameters), law, "predict left gradients in the parameters")
    asked = subject.potential.predict(graph, stress=True, differentiable=True)
    if parameters:
        _need(
            _given(asked.forces).requires_grad, law, "forces are detached although differentiable ones were asked for"
        )


def law_reproducibility(subject: Subject) -> None:
    """14: the same seed gives the same weights; copies and saved weights predict the same, bit for bit."""
    law = "reproducibility"
    graph = subject.graph(subject.molecule(), subject.crystal())
    expected = subject.potential.predict(graph)
    again = subject.fresh()
    for name, value in subject.potential.state_dict().items():
        _need(torch.equal(value, again.state_dict()[name]), law, f"{name} differs between two constructions")
    saved = safetensors.torch.save({k: v.contiguous() for k, v in subject.potential.state_dict().items()})
    with torch.no_grad():
        for parameter in again.parameters():
            parameter += 0.1
    if any(True for _ in again.parameters()):
        _moves(law, "the effect of other weights", again.predict(graph).energy - expected.energy, 1e-12)
    again.load_state_dict(safetensors.torch.load(saved))
    frozen = subject.potential.frozen().frozen().predict(graph)
    for name, other in (("a loaded potential", again), ("a deep copy", copy.deepcopy(subject.potential))):
        prediction = other.predict(graph)
        _equal(law, f"the energy of {name}", prediction.energy, expected.energy, subject.exact)
        _equal(law, f"the forces of {name}", _given(prediction.forces), _given(expected.forces), subject.exact)
    _equal(law, "the energy of the frozen twin", frozen.energy, expected.energy, 1e-5)
    _equal(law, "the forces of the frozen twin", _given(frozen.forces), _given(expected.forces), 1e-4)


def law_reference(subject: Subject) -> None:
    """15: the recorded values of the reference implementation under its weights."""
    for record in subject.recorded:
        potential = record.make().to(subject.device, record.dtype).eval()
        graph = from_structures([record.structure], subject.cutoff, record.dtype, subject.device)
        prediction = potential.predict(graph)
        energy = torch.tensor([record.energy], dtype=torch.float64)
        what = f"of {record.source}"
        _equal("reference", f"the energy {what}", prediction.energy.to(torch.float64), energy, record.rtol)
        forces = torch.from_numpy(np.asarray(record.forces, dtype=np.float64))
        _moves("reference", "the recorded force", forces)
        _equal("reference", f"the forces {what}", _given(prediction.forces).to(torch.float64), forces, record.rtol)


def as_trained(potential: Potential) -> Potential:
    """The potential with small random numbers in place of trainable parameters that are exactly zero.

    A copy. Biases often begin at zero and training moves them; a law that holds only while they are zero is broken. The
    shift of a `Baseline`, which moves the energy of an isolated atom on purpose, is left alone.
    """
    potential = copy.deepcopy(potential)
    shifts = {id(module.shift) for module in potential.modules() if isinstance(module, Baseline)}
    generator = torch.Generator().manual_seed(15)
    with torch.no_grad():
        for parameter in potential.parameters():
            if parameter.requires_grad and id(parameter) not in shifts:
                noise = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(torch.where(parameter == 0, noise.to(parameter), parameter))
    return potential


LAWS: dict[str, Callable[[Subject], None]] = {
    "shapes": law_shapes,
    "rotation": law_rotation,
    "translation": law_translation,
    "permutation": law_permutation,
    "forces": law_forces,
    "stress": law_stress,
    "second_derivatives": law_second_derivatives,
    "batching": law_batching,
    "independence": law_independence,
    "continuity": law_continuity,
    "extensivity": law_extensivity,
    "isolated_atom": law_isolated_atom,
    "purity": law_purity,
    "reproducibility": law_reproducibility,
    "reference": law_reference,
}


def _declared_e0(potential: Potential) -> dict[int, float]:
    """The E0 of a `Baseline`, or of those within a `Sum`, in eV by atomic number; empty for a bare network."""
    if isinstance(potential, Baseline):
        return dict(potential.arguments["e0"])
    terms = [_declared_e0(term) for term in potential.arguments["potentials"]] if isinstance(potential, Sum) else []
    return {z: sum(term.get(z, 0.0) for term in terms) for z in {z for term in terms for z in term}}


def assert_potential_contract(
    make: Callable[[], Potential],
    *,
    species: Sequence[int] | None = None,
    cutoff: float | None = None,
    e0: Mapping[int, float] | None = None,
    recorded: Sequence[Recorded] = (),
    laws: Iterable[str] | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Holds a potential to the contract; returns the names of the laws that were checked.

    `make` builds the same potential with the same weights at every call. `species` (atomic numbers), `cutoff` (Å) and
    `e0` (eV by atomic number) are read from the potential when they are not given; E0 is zero for a bare network.
    `laws` picks some of `LAWS`; `device` is where they are tried. Parameters that begin at zero are moved first
    (`as_trained`). Raises AssertionError at the first law that is broken, ValueError for an unknown law.
    """
    example = make()
    known = tuple(species or example.species or (1, 6, 8))
    reach = cutoff if cutoff is not None else example.cutoff or 5.0
    given = _declared_e0(example) if e0 is None else e0
    subject = Subject(lambda: as_trained(make()), known, float(reach), given, tuple(recorded), torch.device(device))
    chosen = list(LAWS) if laws is None else list(laws)
    if unknown := set(chosen) - set(LAWS):
        raise ValueError(f"unknown laws {sorted(unknown)}; known are {list(LAWS)}")
    if not isinstance(example, LocalPotential):
        chosen = [name for name in chosen if name not in LOCAL_LAWS]
    if not subject.recorded:
        chosen = [name for name in chosen if name != "reference"]
    for name in chosen:
        LAWS[name](subject)
    return chosen
