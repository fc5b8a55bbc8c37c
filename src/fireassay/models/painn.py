"""PaiNN: polarizable atom interaction network (Schütt, Unke and Gastegger, ICML 2021, arXiv:2102.03150).

Numbers are those of the public package schnetpack 2.0.4 under copied weights. Isolated-atom energies, scale and shift
are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.dense import dense
from fireassay.nn.radial import CutBasis, GaussianBasis, SineBasis
from fireassay.nn.so3 import Irrep, Irreps
from fireassay.nn.vectors import norms
from fireassay.potential import NetworkPotential, constructor_arguments

# Sources s, s and v of a neighbour times (1, direction): the messages to s, to v along the direction, and to v along v.
MESSAGE: Final = Coupling(
    Irreps("0e+0e+1o"), Irreps("0e+1o"), [(0, 0, Irrep(0, 1)), (1, 1, Irrep(1, -1)), (2, 0, Irrep(1, -1))]
)
FIRST_MESSAGE: Final = Coupling(Irreps("0e+0e"), Irreps("0e+1o"), MESSAGE.paths[:2])


class PaiNN(NetworkPotential):
    """Atom energies from `n_layers` messages and updates of scalars s (N, C) and vectors v (N, 3, C).

    species: atomic numbers; cutoff in Å; channels C of both kinds; n_basis radial functions, sines over the distance
    (the paper) or Gaussians (the default of schnetpack), under a cosine cutoff; readout_hidden: widths of the hidden
    layers of the readout; epsilon under the root of |v|, without a unit, which makes it smooth where v vanishes; seed
    of the initial weights.

    The defaults are those of the paper. Its form obeys every law once energies are relative to isolated atoms. Forces
    are continuous at the cutoff, their derivatives are not. The paper has no epsilon, so that forces jump where a
    vector vanishes; with the 1e-8 of schnetpack they turn within |v| of 1e-4. Weights from which the energy cannot be
    reached do not exist (schnetpack has them): those of the vectors that enter the first message, which vanish, those
    of the vectors that leave the last update, and the last bias, which cancels.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 3,
        channels: int = 128,
        n_basis: int = 20,
        basis: Literal["sine", "gaussian"] = "sine",
        readout_hidden: Sequence[int] = (64,),
        epsilon: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        if min(epsilon, cutoff, n_layers, channels, n_basis - 1, *readout_hidden) <= 0 or basis not in (
            "sine",
            "gaussian",
        ):
            raise InputError(f"a PaiNN needs positive sizes and a basis of sines or Gaussians, got {self.arguments}")
        generator = torch.Generator().manual_seed(seed)
        self.basis = CutBasis((SineBasis if basis == "sine" else GaussianBasis)(cutoff, n_basis), cutoff)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        places = [(k == 0, k == n_layers - 1) for k in range(n_layers)]
        spread = sqrt(6 / (n_basis + 3 * channels * n_layers))  # Glorot's for the filters of all layers
        self.messages = nn.ModuleList(Message(channels, n_basis, spread, first, generator) for first, _ in places)
        self.updates = nn.ModuleList(Update(channels, last, epsilon, generator) for _, last in places)
        self.readout = nn.Sequential()
        for n_in, n_out in pairwise((channels, *readout_hidden)):
            self.readout.extend([dense(n_in, n_out, generator), nn.SiLU()])
        self.readout.append(dense([channels, *readout_hidden][-1], 1, generator, bias=False))  # a bias would cancel

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the scalars (R, C) after the last update."""
        vectors = edge_vectors(graph)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        around = Surroundings(
            edges=edges,
            directions=torch.cat([torch.ones_like(distances), vectors / distances], 1),
            radial=self.basis(edges.per_pair(distances).squeeze(1)),
        )
        s, v = self.embedding, None
        for message, update in zip(self.messages, self.updates, strict=True):
            s, v = update(*message(s, v, rows, around))
        return self.readout(s).squeeze(1), s


class Surroundings(NamedTuple):
    """What every layer sees of the graph; both directions of an edge share their filters."""

    edges: Connectivity
    directions: Tensor  # (E, 4): 1 and r_ij / |r_ij|
    radial: Tensor  # (P, B+1)


class Filter(nn.Module):
    """W(r) of every path (eqs. 7, 8): linear in the radial functions and, for the bias, in the cutoff."""

    def __init__(self, n_basis: int, n_out: int, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_basis + 1, n_out))
        with torch.no_grad():
            self.weight[:-1].uniform_(-spread, spread, generator=generator)

    def forward(self, radial: Tensor) -> Tensor:
        """(E, B+1) to (E, P C)."""
        return radial @ self.weight


class Message(nn.Module):
    """Δs_i = Σ φ_s(s_j) W_s(r), Δv_i = Σ φ_vs(s_j) W_vs(r) r_ij/r + v_j φ_vv(s_j) W_vv(r) (eqs. 7, 8; fig. 2b)."""

    def __init__(self, channels: int, n_basis: int, spread: float, first: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.coupling = FIRST_MESSAGE if first else MESSAGE
        n_out = len(self.coupling.paths) * channels
        self.context = nn.Sequential(dense(channels, channels, generator), nn.SiLU(), dense(channels, n_out, generator))
        self.filter = Filter(n_basis, n_out, spread, generator)

    def forward(self, s: Tensor, v: Tensor | None, rows: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """s (N, C) and v (N, 3, C) with their messages added; the first message takes s (Z, C) of the species."""
        n_paths = len(self.coupling.paths)
        context = self.context(s).unflatten(1, (n_paths, -1))  # (N, P, C)
        weights = self.filter(around.radial).unflatten(1, (n_paths, -1))  # (P, paths, C)
        if v is None:
            sources = context.index_select(0, rows)
            ds, dv = around.edges.convolve(sources, around.directions, weights, self.coupling).split((1, 3), 1)
            return s.index_select(0, rows) + ds.squeeze(1), dv
        sources = torch.cat([context[:, :2], v * context[:, 2:]], 1)  # (N, 5, C)
        ds, along_r, along_v = around.edges.convolve(sources, around.directions, weights, self.coupling).split(
            (1, 3, 3), 1
        )
        return s + ds.squeeze(1), v + along_r + along_v


class Update(nn.Module):
    """Δs_i = a_ss + a_sv <U v_i, V v_i>, Δv_i = a_vv U v_i with a(s_i, |V v_i|) (eqs. 9, 10; fig. 2c)."""

    def __init__(self, channels: int, last: bool, epsilon: float, generator: torch.Generator) -> None:
        super().__init__()
        self.last, self.epsilon = last, epsilon
        self.mix = dense(channels, 2 * channels, generator, bias=False)  # V, then U
        n_out = (2 if last else 3) * channels
        self.context = nn.Sequential(
            dense(2 * channels, channels, generator), nn.SiLU(), dense(channels, n_out, generator)
        )

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s (N, C) and v (N, 3, C), updated; the last update leaves v as it is."""
        left, right = self.mix(v).chunk(2, 2)
        a_ss, a_sv, *a_vv = self.context(torch.cat([s, norms(left, self.epsilon)], 1)).split(s.shape[1], 1)
        s = s + a_ss + a_sv * (left * right).sum(1)
        return s, v if self.last else v + a_vv[0].unsqueeze(1) * right
