"""Neighbour lists: of one structure by vesin, of a batch on any device in torch.

All give directed pairs i -> j with r_ij = x_j + shift @ cell - x_i and |r_ij| < cutoff, sorted by i, over as many
periodic images as the cutoff reaches. An atom neighbours its own images but not itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import vesin
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.structure import Structure
from fireassay.errors import InputError

_BINS: Final = 30_000  # of vesin's, up to which it makes no fewer along each direction
_POINTS: Final = 30_000_000  # images of atoms within the cutoff of a cell
_ALL_PAIRS: Final = 400  # atoms of a molecule up to which looking at every pair is fastest


def neighbour_list(
    structure: Structure, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs within `cutoff` Å, sorted by centre and then neighbour: centre (E,), neighbour (E,), shift (E, 3).

    Raises InputError when the cutoff is not a positive number.
    """
    _check_cutoff(cutoff)
    centre, neighbour, shift = _vesin(structure.positions, structure.cell, structure.pbc, cutoff)
    order = np.lexsort((neighbour, centre))
    return centre[order], neighbour[order], shift[order]


def batched_neighbour_list(
    positions: Tensor, cell: Tensor, pbc: Tensor, structure: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of S structures at once, on the device of the tensors: centre (E,), neighbour (E,), shift (E, 3), int64.

    positions (N, 3) Å, cell (S, 3, 3) Å, pbc (S, 3) bool, structure (N,) ascending. Sorted by centre. No gradient
    flows through the list. Molecules take all pairs, crystals vesin on the CPU and sorted bins elsewhere.

    Raises InputError when the cutoff is not a positive number.
    """
    _check_cutoff(cutoff)
    positions, cell = positions.detach(), cell.detach()
    sizes = torch.bincount(structure, minlength=cell.shape[0])
    if not bool(pbc.any()) and int(sizes.max()) <= _ALL_PAIRS:
        return _all_pairs(positions, structure, sizes, cutoff)
    if positions.device.type == "cpu":
        return _one_by_one(positions, cell, pbc, sizes, cutoff)
    return binned_neighbour_list(positions, cell, pbc, structure, cutoff)


def binned_neighbour_list(
    positions: Tensor, cell: Tensor, pbc: Tensor, structure: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The batched list in torch alone, in time linear in the number of atoms: same arguments and result.

    Atoms are wrapped into their cells, images within the cutoff of a cell are added as points, points are sorted into
    cubic bins no narrower than the cutoff, and each atom is compared with the points of the 27 bins around it.
    """
    full = _completed(cell, pbc)
    inverse = torch.linalg.inv(full)
    fractional = torch.bmm(positions.unsqueeze(1), inverse[structure]).squeeze(1)
    wrap = torch.where(pbc[structure], fractional.floor(), 0.0)
    fractional = fractional - wrap
    atom, image = _images(fractional, inverse, pbc, structure, cutoff)
    points = torch.bmm((fractional[atom] + image).unsqueeze(1), full[structure[atom]]).squeeze(1)
    inside = torch.bmm(fractional.unsqueeze(1), full[structure]).squeeze(1)
    centre, point = _candidates(inside, points, structure, structure[atom], cell.shape[0], cutoff)
    near = (points[point] - inside[centre]).square().sum(1) < cutoff**2
    near &= (atom[point] != centre) | image[point].any(1)
    centre, point = centre[near], point[near]
    neighbour = atom[point]
    shift = image[point] - wrap[neighbour] + wrap[centre]
    return centre, neighbour, shift.round().to(torch.int64)


def completed_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell (3, 3) with every non-periodic row replaced by a unit vector normal to all the others: invertible."""
    if pbc.all():
        return cell.astype(np.float64)
    return _completed(torch.from_numpy(cell[None].astype(np.float64)), torch.from_numpy(pbc[None].astype(bool)))[
        0
    ].numpy()


def _check_cutoff(cutoff: float) -> None:
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise InputError(f"cutoff is {cutoff}, needs a positive number of Å")


def _vesin(positions: NDArray, cell: NDArray, pbc: NDArray, cutoff: float) -> tuple[NDArray, NDArray, NDArray]:
    if not _regular(positions, cell, pbc, cutoff):
        place = torch.zeros(len(positions), dtype=torch.int64)
        x, cells, periodic = (torch.from_numpy(np.array(a)) for a in (positions, cell[None], pbc[None]))
        centre, neighbour, shift = binned_neighbour_list(x, cells, periodic, place, cutoff)
        return centre.numpy(), neighbour.numpy(), shift.numpy()
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True)
    centre, neighbour, shift = calculator.compute(points=positions, box=cell, periodic=pbc, quantities="ijS")
    return centre.astype(np.int64), neighbour.astype(np.int64), shift.astype(np.int64).reshape(-1, 3)


def _regular(positions: NDArray, cell: NDArray, pbc: NDArray, cutoff: float) -> bool:
    """Whether vesin takes such a cell: one with very many bins along one direction and few along another ends it.

    Raises InputError for a cell so narrow that its images within the cutoff do not fit into memory.
    """
    if not pbc.any() and np.ptp(positions, axis=0).max(initial=0.0) < np.cbrt(_BINS) * cutoff:
        return True
    inverse = np.linalg.inv(completed_cell(cell, pbc))
    heights = 1 / np.linalg.norm(inverse, axis=0)
    if pbc.any():
        images = np.prod(2 * np.ceil(cutoff / heights[pbc]) + 1)
        if images * len(positions) > _POINTS:
            raise InputError(
                f"a cell {heights[pbc].min():.3g} Å high has {images:.3g} images within {cutoff:g} Å; needs a larger "
                "cell, check the unit of length"
            )
    extent = np.where(pbc, heights, np.ptp(positions @ inverse, axis=0) * heights)
    bins = np.maximum(extent / cutoff, 1.0)
    return bool(bins.prod() < _BINS or bins.min() * np.cbrt(_BINS / bins.prod()) > 2)


def _one_by_one(
    positions: Tensor, cell: Tensor, pbc: Tensor, sizes: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    x, cells, periodic = positions.double().numpy(), cell.double().numpy(), pbc.numpy()
    ends = np.cumsum(sizes.numpy())
    found = []
    for k, (end, size) in enumerate(zip(ends, sizes.tolist(), strict=True)):
        first = end - size
        centre, neighbour, shift = _vesin(x[first:end], cells[k], periodic[k], cutoff)
        order = np.argsort(centre, kind="stable")
        found.append((centre[order] + first, neighbour[order] + first, shift[order]))
    centre, neighbour, shift = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
    return centre, neighbour, shift


def _all_pairs(positions: Tensor, structure: Tensor, sizes: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    largest = int(sizes.max())
    first = sizes.cumsum(0) - sizes
    n = len(positions)
    if n == largest * len(sizes):
        padded = positions.view(len(sizes), largest, 3)
    else:
        place = torch.arange(n, device=positions.device) - first[structure]
        padded = positions.new_full((len(sizes), largest, 3), torch.nan)
        padded[structure, place] = positions
    distance = padded.new_zeros(len(sizes), largest, largest)
    for axis in range(3):
        x = padded[:, :, axis]
        distance += (x.unsqueeze(2) - x.unsqueeze(1)).square_()
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    which, centre, neighbour = torch.nonzero(distance < cutoff**2, as_tuple=True)
    start = first[which]
    return centre + start, neighbour + start, positions.new_zeros((len(which), 3), dtype=torch.int64)


def _completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells (S, 3, 3) with every non-periodic row replaced by a unit vector that is normal to all other rows."""
    rows = torch.where(pbc.unsqueeze(2), cell, 0.0)
    _, _, right = torch.linalg.svd(rows)  # the last rows of right span what the lattice vectors leave free
    free = ~pbc
    place = (pbc.sum(1, keepdim=True) + free.cumsum(1) - 1).clamp(0, 2)
    return torch.where(pbc.unsqueeze(2), cell, right.gather(1, place.unsqueeze(2).expand(-1, -1, 3)))


def _images(
    fractional: Tensor, inverse: Tensor, pbc: Tensor, structure: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Atoms (M,) and their images (M, 3) that lie in the cell or within the cutoff of it."""
    reach = torch.where(pbc, cutoff * inverse.norm(dim=1), 0.0)  # (S, 3), the cutoff in units of the cell's heights
    most = reach.amax(0).ceil().to(torch.int64).tolist()
    axes = [torch.arange(-k, k + 1, device=fractional.device) for k in most]
    images = torch.cartesian_prod(*axes).to(fractional.dtype)  # (I, 3)
    reach = reach[structure]
    kept = torch.ones(len(images), len(fractional), dtype=torch.bool, device=fractional.device)
    for axis in range(3):
        place = fractional[:, axis] + images[:, axis : axis + 1]
        inside = (place >= -reach[:, axis]) & (place <= 1 + reach[:, axis])
        kept &= torch.where(pbc[structure, axis], inside, images[:, axis : axis + 1] == 0)
    image, atom = torch.nonzero(kept, as_tuple=True)
    return atom, images[image]


def _candidates(
    inside: Tensor, points: Tensor, structure: Tensor, point_structure: Tensor, n: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Pairs of an atom and a point that are in the same or in touching bins, sorted by atom."""
    low = points.amin(0)
    bins = ((points.amax(0) - low) / cutoff).floor().to(torch.int64).clamp(0, 2**20 - 1) + 1
    width = torch.maximum((points.amax(0) - low) / bins, torch.full_like(low, cutoff))

    def place(x: Tensor) -> Tensor:
        return torch.minimum(((x - low) / width).floor().to(torch.int64), bins - 1)

    at = place(points)
    key = ((point_structure * bins[0] + at[:, 0]) * bins[1] + at[:, 1]) * bins[2] + at[:, 2]
    key, order = key.sort()
    at = place(inside)
    steps = torch.cartesian_prod(*[torch.arange(-1, 2, device=inside.device)] * 2)  # (9, 2): columns of three bins
    x, y = at[:, 0:1] + steps[:, 0], at[:, 1:2] + steps[:, 1]  # (N, 9)
    column = ((structure.unsqueeze(1) * bins[0] + x) * bins[1] + y) * bins[2]
    first = torch.searchsorted(key, column + (at[:, 2:] - 1).clamp(min=0))
    last = torch.searchsorted(key, column + torch.minimum(at[:, 2:] + 1, bins[2] - 1), right=True)
    valid = (x >= 0) & (x < bins[0]) & (y >= 0) & (y < bins[1])
    count = torch.where(valid, last - first, 0).flatten()
    offset = torch.repeat_interleave(first.flatten() - (count.cumsum(0) - count), count)
    point = order[torch.arange(len(offset), device=inside.device) + offset]
    atom = torch.arange(len(inside), device=inside.device).repeat_interleave(count.view(-1, 9).sum(1))
    return atom, point
