"""Records what e3nn says of harmonics, Clebsch-Gordan tensors, rotations and a tensor product.

Run it in an environment with e3nn: `python record_e3nn.py e3nn.npz`. The file here is of e3nn 0.6.0; `signs_0_4` was
added from a run with e3nn 0.4.4 (the degrees whose wigner_3j differs, in each case by its sign alone; all other
entries agreed to 1e-12).
"""

from __future__ import annotations

import sys

import e3nn
import numpy as np
import torch
from e3nn import o3

L_MAX = 4


def main(path: str) -> None:
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    out: dict[str, np.ndarray] = {"provenance": np.array(f"e3nn {e3nn.__version__}, torch {torch.__version__}")}
    for a in range(L_MAX + 1):
        for b in range(L_MAX + 1):
            for c in range(abs(a - b), min(L_MAX, a + b) + 1):
                out[f"wigner_{a}_{b}_{c}"] = o3.wigner_3j(a, b, c).numpy()
    vectors = torch.randn(6, 3, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    rotation = rotation * torch.det(rotation)
    out["vectors"], out["rotation"] = vectors.numpy(), rotation.numpy()
    for degree in range(7):
        out[f"harmonics_{degree}"] = o3.spherical_harmonics(degree, vectors, True, "component").numpy()
    for degree in range(L_MAX + 1):
        out[f"matrix_{degree}"] = o3.Irrep(degree, 1).D_from_matrix(rotation).numpy()

    left, right = o3.Irreps("3x0e+3x1o+3x1e"), o3.Irreps("1x0e+1x1o+1x2e")
    blocks, instructions = [], []
    for i, (channels, a) in enumerate(left):
        for j, (_, b) in enumerate(right):
            for product in a * b:
                if product in [o3.Irrep(name) for name in ("0e", "1o", "1e", "2e")]:
                    instructions.append((i, j, len(blocks)))
                    blocks.append((channels, product))
    blocks, permutation, _ = o3.Irreps(blocks).sort()
    instructions = sorted(((i, j, permutation[k], "uvu", True) for i, j, k in instructions), key=lambda path: path[2])
    tensor_product = o3.TensorProduct(left, right, blocks, instructions, shared_weights=False, internal_weights=False)
    x = torch.randn(6, left.dim, generator=generator)
    weights = torch.randn(6, tensor_product.weight_numel, generator=generator)
    harmonics = o3.spherical_harmonics(right, vectors, True, "component")
    out |= {"product_x": x.numpy(), "product_weights": weights.numpy(), "product_harmonics": harmonics.numpy()}
    out["product_out"] = tensor_product(x, harmonics, weights).numpy()
    out["product_paths"] = np.array([path[:3] for path in instructions])
    out["product_irreps"] = np.array([(irrep.l, irrep.p) for _, irrep in blocks])
    np.savez_compressed(path, **out)


if __name__ == "__main__":
    main(sys.argv[1])
