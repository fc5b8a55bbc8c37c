"""The convolution: fused kernels beside the torch reference, forward, gradients and gradients of the gradients.

    python benchmarks/convolution.py [--threads 2] [--repeats 20] [--channels 64 32] [--dtype float32]

Shapes of ten frames of 3BPA at 5 Å: 270 atoms, 4510 edges, features l <= 2, harmonics l <= 3, 17 paths. "force" is
the value and its gradient; "training" adds the gradient of a combination of the gradients. Prints the least and the
median wall time of each in milliseconds, with the allocator tuned; the first line is the time to compile or to load.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fireassay.allocator import tune_allocator
from fireassay.nn.convolution import Coupling, convolution, edge_order
from fireassay.nn.so3 import Irreps

FRAMES, ATOMS, EDGES = 10, 27, 451
COUPLING = Coupling.of(Irreps("0e+1o+2e"), Irreps.harmonics(3), Irreps("0e+1o+2e+3o"))


def milliseconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least and median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), statistics.median(times)


def tasks(channels: int, dtype: torch.dtype, implementation: str) -> dict[str, Callable[[], object]]:
    """What is timed, on random factors and edges within frames."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.arange(FRAMES).repeat_interleave(EDGES) * ATOMS
    centre = (frame + torch.randint(0, ATOMS, (len(frame),), generator=generator)).sort()[0]
    neighbour = centre // ATOMS * ATOMS + torch.randint(0, ATOMS, (len(frame),), generator=generator)
    order = edge_order(centre, neighbour, FRAMES * ATOMS)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    factors = (
        random(FRAMES * ATOMS, COUPLING.irreps_in.dim, channels),
        random(len(frame), COUPLING.irreps_sh.dim),
        random(len(frame), len(COUPLING.paths), channels),
    )
    upstream = random(FRAMES * ATOMS, COUPLING.irreps_out.dim, channels)
    directions = [torch.randn(factor.shape, generator=generator).to(dtype) for factor in factors]

    def forward() -> Tensor:
        return convolution(*factors, centre, neighbour, COUPLING, order, implementation=implementation)  # type: ignore

    def force(again: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), factors, upstream, create_graph=again)

    def training() -> tuple[Tensor, ...]:
        return torch.autograd.grad(force(True), (*factors, upstream), directions)

    def inference() -> Tensor:
        with torch.no_grad():
            return forward()

    return {"forward": inference, "force": force, "training": training}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(options.threads)
    dtype: torch.dtype = getattr(torch, options.dtype)
    for channels in options.channels:
        start = time.perf_counter()
        tasks(channels, dtype, "fused")["training"]()
        print(f"kernels for {channels} channels ready after {time.perf_counter() - start:.1f} s")
    print(f"{'channels':>8} {'task':>9} {'reference':>17} {'fused':>17} {'ratio':>6}   (least / median, ms)")
    for channels in options.channels:
        for name, reference in tasks(channels, dtype, "reference").items():
            fused = tasks(channels, dtype, "fused")[name]
            slow, fast = milliseconds(reference, max(3, options.repeats // 4)), milliseconds(fused, options.repeats)
            cells = f"{slow[0]:8.2f} {slow[1]:8.2f} {fast[0]:8.2f} {fast[1]:8.2f} {slow[0] / fast[0]:6.1f}"
            print(f"{channels:8d} {name:>9} {cells}")


if __name__ == "__main__":
    main()
