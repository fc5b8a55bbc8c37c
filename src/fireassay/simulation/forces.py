"""The force call of a simulation: a predictor behind a neighbour list that is reused while atoms move little."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from fireassay.data.graph import Graph
from fireassay.data.verlet import VerletList
from fireassay.errors import InputError
from fireassay.potential import Potential, Prediction, Predictor, check_species, failures_of
from fireassay.simulation.state import State


class Forces:
    """Maps a state to the same state with forces and energies of its positions.

    Positions go to the potential in its own dtype, edges in the order of their centres and none beyond its cutoff. A
    `Potential` is replaced by its `frozen()` equivalent. `reach` in Å makes the list see at least that far, for
    criteria that look at short distances with a predictor that needs no edges; `stress` asks for stress as well. Fixed
    atoms have no force. After a call `graph`, `length` (E,) Å
    and `prediction` tell what was seen and said, `failures` which calculations failed and why, by replica's row;
    `seconds` adds up the time spent in the predictor alone.

    Batches of more than `max_edges` edges are given to the potential in parts, which bounds its memory.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        skin: float = 1.0,
        reach: float = 0.0,
        max_edges: int | None = None,
        stress: bool = False,
    ) -> None:
        self.max_edges, self.stress = max_edges, stress
        self.dtype = predictor.dtype
        self.predictor = predictor.frozen() if isinstance(predictor, Potential) else predictor
        self.cutoff = max(predictor.cutoff, reach)
        self.neighbours = VerletList(self.cutoff, skin)
        self.seconds = 0.0
        self.calls = 0
        self.graph: Graph | None = None
        self.length: Tensor | None = None
        self.prediction: Prediction | None = None
        self.failures: dict[int, str] = {}

    def check(self, state: State) -> None:
        """Raises InputError when the predictor does not know one of the elements."""
        check_species(self.predictor, sorted(set(state.atomic_numbers.tolist())))

    def __call__(self, state: State) -> State:
        """The state with fresh forces (N, 3) eV/Å and energies (R,) eV, and stress (R, 3, 3) eV/Å^3 on request.

        Raises InputError when the predictor gives forces of another shape, or no stress where it is asked for.
        """
        graph, self.length = self.neighbours.graph(
            state.atomic_numbers, state.positions, state.cell, state.pbc, state.structure
        )
        self.graph = graph._replace(
            positions=graph.positions.to(self.dtype),
            cell=graph.cell.to(self.dtype),
            charge=state.charge,
            spin=state.spin,
        )
        began = time.perf_counter()
        parts, self.failures = [], {}
        for part in _parts(self.graph, self.max_edges):
            first = sum(len(found.energy) for found in parts)
            parts.append(self.predictor.predict(part, forces=True, stress=self.stress))
            self.failures |= {first + row: message for row, message in failures_of(self.predictor).items()}
        self.prediction = parts[0] if len(parts) == 1 else _joined(parts)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        forces = self.prediction.forces
        if forces is None or forces.shape != state.positions.shape:
            shape = None if forces is None else tuple(forces.shape)
            raise InputError(f"the predictor returned forces of shape {shape}; needs {tuple(state.positions.shape)}")
        forces = forces.to(state.positions.dtype)
        if state.fixed is not None:
            forces = torch.where(state.fixed.unsqueeze(1), 0.0, forces)
        state = state._replace(forces=forces, energy=self.prediction.energy.to(state.energy.dtype))
        return state._replace(stress=self._stress(state)) if self.stress else state

    def _stress(self, state: State) -> Tensor:
        assert self.prediction is not None
        stress = self.prediction.stress
        if stress is None:
            name = type(self.predictor).__name__
            raise InputError(
                f"{name} gives no stress; run at constant volume, without a barostat and without pressures"
            )
        return stress.to(state.positions.dtype)


def _parts(graph: Graph, max_edges: int | None) -> list[Graph]:
    """Runs of whole structures with at most `max_edges` edges each, or a single structure that has more."""
    if max_edges is None or graph.n_edges <= max_edges or graph.n_structures == 1:
        return [graph]
    rows = torch.arange(graph.n_structures + 1, device=graph.structure.device)
    atom_ends = torch.searchsorted(graph.structure, rows)
    edge_ends = torch.searchsorted(graph.centre, atom_ends).tolist()
    atoms = atom_ends.tolist()
    parts, first = [], 0
    for last in range(1, graph.n_structures + 1):
        if last < graph.n_structures and edge_ends[last + 1] - edge_ends[first] <= max_edges:
            continue
        a, b, e, f = atoms[first], atoms[last], edge_ends[first], edge_ends[last]
        parts.append(
            Graph(
                graph.atomic_numbers[a:b],
                graph.positions[a:b],
                graph.cell[first:last],
                graph.pbc[first:last],
                graph.structure[a:b] - first,
                graph.centre[e:f] - a,
                graph.neighbour[e:f] - a,
                graph.shift[e:f],
                None if graph.charge is None else graph.charge[first:last],
                None if graph.spin is None else graph.spin[first:last],
            )
        )
        first = last
    return parts


def _joined(parts: list[Prediction]) -> Prediction:
    def column(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else torch.cat(values)

    energy = torch.cat([part.energy for part in parts])
    return Prediction(energy, *(column(name) for name in Prediction._fields[1:]))
