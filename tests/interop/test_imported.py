"""Models of mace-torch and nequip, trained by those packages, predict the same here.

The recorded exports are of tests/interop/elsewhere.py; the tests that train anew run when FIREASSAY_MACE_PYTHON,
FIREASSAY_NEQUIP_PYTHON (>= 0.7) or FIREASSAY_NEQUIP06_PYTHON (0.6) names an interpreter.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from architectures import build
from fireassay.cli import app
from fireassay.data.graph import from_structures
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.interop.imported import Agreement, Imported, compared, coupling_signs, finished, kind_of
from fireassay.interop.mace import import_mace, mace_potential
from fireassay.interop.nequip import import_nequip, nequip_potential
from fireassay.interop.worker import Export, read_export
from fireassay.nn.so3 import sign_of_e3nn_0_4
from fireassay.potential import Baseline, LocalPotential, Sum
from fireassay.potential_file import load_potential, save_potential
from fireassay.testing import assert_potential_contract
from interop import elsewhere

EXPORTS = Path(__file__).parent / "exports"
CASES = sorted(path.name for path in EXPORTS.iterdir())


def export_of(case: str) -> Export:
    return read_export(EXPORTS / case)


def potential_of(export: Export) -> LocalPotential:
    return (mace_potential if export.need("package") == "mace-torch" else nequip_potential)(export)


def test_every_kind_is_recorded():
    assert set(CASES) == set(elsewhere.RECORDED)


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_recorded_predictions_are_met(case, tmp_path):
    export = export_of(case)
    assert any(frame.pbc.all() for frame in export.frames)
    assert all(np.abs(frame.forces).max() > 1e-3 for frame in export.frames)
    double = export.need("dtype") == "float64"
    imported = finished(potential_of(export), export)
    assert imported.agreement.n_structures == 6
    assert max(imported.agreement[1:]) < (1e-10 if double else 3e-6)

    save_potential(imported.potential, tmp_path / "potential.safetensors")
    loaded = load_potential(tmp_path / "potential.safetensors")
    assert isinstance(loaded, LocalPotential)
    dtype = getattr(torch, export.need("dtype"))
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    for frame in export.frames:
        graph = from_structures([frame], loaded.cutoff + 0.5, dtype)
        for potential, rtol in ((loaded, 1e-10 if double else 1e-5), (loaded.frozen(), 1e-5)):
            prediction = potential.predict(graph)
            assert abs(float(prediction.energy) - frame.energy) < rtol * max(abs(frame.energy), 1.0)
            error = np.abs(prediction.forces.numpy() - frame.forces).max()
            assert error < rtol * max(np.abs(frame.forces).max(), 1.0)
            assert prediction.descriptors is not None
            assert prediction.descriptors.shape[1] > 1


@pytest.mark.contract
@pytest.mark.parametrize("case", ["mace_density", "nequip_zbl", "nequip06", "nequip_sizes"])
def test_contract(case):
    export = export_of(case)
    potential = potential_of(export)
    inner = potential.potentials[0] if isinstance(potential, Sum) else potential
    assert_potential_contract(lambda: potential_of(export), e0=inner.arguments["e0"])


def changed(export: Export, arrays=None, **description) -> Export:
    return replace(
        export,
        description={**export.description, **description},
        arrays={**export.arrays, **(arrays or {})},
    )


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("mace_density", "state/pair_repulsion_fn.a_prefactor"),
        ("mace_density", "state/radial_embedding.distance_transform.q"),
        ("mace_density", "state/interactions.1.density_fn.layer0.weight"),
        ("mace_density", "state/products.0.symmetric_contractions.contractions.1.U_matrix_2"),
        ("mace_float64", "state/interactions.0.skip_tp.weight"),
        ("mace_float64", "state/scale_shift.scale"),
        ("nequip_zbl", "layers/1/self_connection/1/1"),
        ("nequip_zbl", "layers/1/linear_1/0/0"),
        ("nequip_sizes", "pair_cutoffs"),
        ("nequip_sizes", "attributes"),
        ("nequip06", "shifts"),
        ("nequip06", "readout/1"),
    ],
)
def test_a_potential_that_differs_is_refused(case, name):
    """Each of these arrays matters: the comparison that every import ends with notices when it is off."""
    export = export_of(case)
    array = export.arrays[name]
    other = changed(export, {name: np.asarray(array * 0.7)})
    with pytest.raises(InputError, match="differs from the"):
        compared(potential_of(other), other)


@pytest.mark.parametrize(
    ("case", "description", "message"),
    [
        ("mace_float64", {"heads": ["pbe", "r2scan"]}, "several heads .pbe, r2scan.*mace_select_head"),
        ("mace_float64", {"class": "AtomicDipolesMACE"}, "class AtomicDipolesMACE"),
        ("mace_float64", {"radial_basis": "ChebychevBasis"}, "radial basis ChebychevBasis"),
        ("mace_float64", {"interactions": ["RealAgnosticAttResidualInteractionBlock"] * 2}, "AttResidual"),
        ("mace_float64", {"products": ["4x0e+2x1o", "4x0e"]}, "one number of channels"),
        ("mace_float64", {"products": ["4x0e+4x1o", "4x0e+4x1o"]}, "after the last layer"),
        ("mace_float64", {"edge_irreps": ["4x0e", "4x0e"]}, "edge irreps"),
        ("mace_float64", {"correlations": [[2, 2], [3]]}, "correlation orders differ"),
        ("mace_float64", {"readouts": ["LinearReadoutBlock", "NonLinearBiasReadoutBlock"]}, "NonLinearBias"),
        ("mace_float64", {"cuequivariance": True}, "mace_cueq_to_e3nn"),
        ("mace_float64", {"embeddings": ["total_charge"]}, "total_charge"),
        ("mace_float64", {"apply_cutoff": False}, "apply_cutoff"),
        ("nequip_zbl", {"type_names": ["A", "B", "C"]}, "no chemical symbols"),
        ("nequip_zbl", {"readout_activation": "gelu"}, "gelu"),
        ("nequip_zbl", {"envelope_p": 5.5}, "whole numbers"),
    ],
)
def test_what_is_not_supported_is_named(case, description, message):
    with pytest.raises(InputError, match=message):
        potential_of(changed(export_of(case), **description))


def test_a_gate_other_than_silu_is_refused():
    export = export_of("mace_float64")
    with pytest.raises(InputError, match="gate other than silu"):
        mace_potential(changed(export, {"activation/values": np.tanh(export.arrays["activation/points"])}))
    export = export_of("nequip_zbl")
    with pytest.raises(InputError, match="gates of nequip"):
        nequip_potential(changed(export, {"layers/0/scalars/0": export.arrays["layers/0/scalars/0"] + 0.1}))


def test_signs_are_those_of_the_foreign_e3nn():
    recorded = coupling_signs(export_of("mace_float64"))  # e3nn 0.4.4
    recent = coupling_signs(export_of("nequip_zbl"))  # e3nn 0.6
    triples = [(a, b, c) for a in range(3) for b in range(3) for c in range(abs(a - b), min(a + b, 2) + 1)]
    assert [recorded(*t) for t in triples] == [sign_of_e3nn_0_4(*t) for t in triples]
    assert -1 in [recorded(*t) for t in triples]
    assert {recent(a, b, c) for a, b, c in triples if max(a, b, c) < 2} == {1}
    export = export_of("mace_float64")
    with pytest.raises(InputError, match="up to a sign"):
        coupling_signs(changed(export, {"wigner/1/1/1": np.roll(export.arrays["wigner/1/1/1"], 1, 0)}))
    with pytest.raises(InputError, match="spherical harmonics"):
        coupling_signs(changed(export, {"harmonics/values": export.arrays["harmonics/values"][:, ::-1]}))


def test_contractions_agree_with_and_without_their_tensors():
    """Two ways to our basis of polynomials: least squares on the tensors U, and the signs of e3nn 0.4."""
    export = export_of("mace_float64")
    bare = {name: array for name, array in export.arrays.items() if "U_matrix" not in name}
    assert len(bare) < len(export.arrays)
    a, b = mace_potential(export), mace_potential(replace(export, arrays=bare))
    for frame in export.frames:
        graph = from_structures([frame], a.cutoff)
        torch.testing.assert_close(a.predict(graph).forces, b.predict(graph).forces, rtol=0, atol=1e-12)


@pytest.mark.parametrize("square", [True, False])
def test_a_reduced_basis_of_contractions_is_carried_over(square):
    """mace-torch with cuEquivariance has fewer tensors U, which span the same polynomials."""
    export, rng = export_of("mace_float64"), np.random.default_rng(0)
    name = "state/products.0.symmetric_contractions.contractions.0"
    tensor, weight = export.arrays[f"{name}.U_matrix_2"], export.arrays[f"{name}.weights_max"]
    flat = tensor.reshape(-1, tensor.shape[-1])
    rank = np.linalg.matrix_rank(flat)
    mixing = rng.normal(size=(tensor.shape[-1], tensor.shape[-1] if square else rank))
    mixed = flat @ mixing  # spans what U spans
    carried = np.einsum("jk,zkc->zjc", np.linalg.lstsq(mixed, flat, rcond=None)[0], weight)
    arrays = {f"{name}.U_matrix_2": mixed.reshape(*tensor.shape[:-1], -1), f"{name}.weights_max": carried}
    other = changed(export, arrays)
    assert compared(mace_potential(other), other).forces < 1e-9
    with pytest.raises(InputError, match="not among the symmetric polynomials"):
        mace_potential(changed(export, {f"{name}.U_matrix_2": rng.normal(size=tensor.shape)}))


def test_isolated_atoms_and_the_repulsive_core_have_their_places():
    core = nequip_potential(export_of("nequip_zbl"))
    assert isinstance(core, Sum)
    assert [type(p).__name__ for p in core.potentials] == ["Baseline", "ZBL"]
    old = nequip_potential(export_of("nequip06"))
    assert isinstance(old, Baseline)
    assert old.potential.first_self_connection
    assert np.abs(old.potential.isolated_energies().detach().numpy()).min() > 1e-6


def test_the_kind_of_a_file():
    endings = {
        "a.model": "mace",
        "a_epoch-3.pt": "mace",
        "a.ckpt": "nequip",
        "a.nequip.zip": "nequip",
        "b.pth": "nequip",
    }
    assert {name: kind_of(Path(name)) for name in endings} == endings
    with pytest.raises(InputError, match="--kind"):
        kind_of(Path("model.xyz"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.xyz", "--python", "python"], "--kind mace or nequip"),
        (["a.model", "--python", "/nowhere/python"], "cannot start /nowhere/python"),
        (["missing.ckpt", "--python", "python"], "missing.ckpt is not a file"),
        (["a.model", "--python", "python", "--kind", "schnet"], "known are mace, nequip"),
    ],
)
def test_the_command_says_what_is_wrong(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.model").write_text("")
    result = CliRunner().invoke(app, ["import", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.safetensors"))


def interpreter(kind: str) -> str:
    variable = elsewhere.VARIABLES[kind]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no interpreter")
    return os.environ[variable]


LIVE = {
    "mace_defaults": (
        "mace",
        {"model": "ScaleShiftMACE", "hidden_irreps": "16x0e+16x1o", "max_ell": 3, "correlation": 3},
    ),
    "mace_float32": ("mace", {"model": "MACE", "dtype": "float32", "ema": None}),
    "mace_scalars": ("mace", {"model": "ScaleShiftMACE", "hidden_irreps": "6x0e", "num_interactions": 3}),
    "mace_soft": ("mace", {"model": "ScaleShiftMACE", "distance_transform": "Soft", "E0s": "average"}),
    "nequip_parity": ("nequip", {"l_max": 2, "num_layers": 4, "radial_mlp_depth": 2}),
    "nequip_readout": ("nequip", {"dtype": "float64", "readout_mlp_hidden_layers_depth": 2}),
    "nequip06_l2": ("nequip06", {"dtype": "float64", "l_max": 2, "avg_num_neighbors": 7.5}),
}


@pytest.mark.parametrize("case", LIVE)
def test_trained_elsewhere_and_imported(case, tmp_path):
    kind, options = LIVE[case]
    python = interpreter(kind)
    file = elsewhere.TRAINERS[kind](python, tmp_path, **options)
    frames = [structure_of(atoms) for atoms in elsewhere.clusters(4, seed=2)]
    imported = (import_mace if kind == "mace" else import_nequip)(file, python, frames)
    assert imported.agreement.n_structures == 8
    assert max(imported.agreement[1:]) < (
        1e-9 if options.get("dtype", "float64") == "float64" and kind != "nequip" else 3e-6
    )


def test_a_checkpoint_beside_its_model(tmp_path):
    python = interpreter("mace")
    model = elsewhere.train_mace(python, tmp_path, model="MACE")
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.pt")
    assert import_mace(checkpoint, python).agreement.forces < 1e-9
    for path in (model, *(tmp_path / "checkpoints").glob("*.model")):
        path.unlink()
    with pytest.raises(InputError, match="weights without the architecture"):
        import_mace(checkpoint, python)


def test_the_whole_name_is_kept_and_nothing_is_overwritten_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "fireassay.interop.mace.import_mace", lambda *_: Imported(build("mace"), Agreement(4, 0.0, 0.0), {})
    )
    names = ("MACE_2022.8.model", "MACE_2022.9.model")
    for name in names:
        Path(name).write_text("")
        assert CliRunner().invoke(app, ["import", name, "--python", "python"]).exit_code == 0
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"MACE_2022.8.safetensors", "MACE_2022.9.safetensors"}
    again = CliRunner().invoke(app, ["import", names[0], "--python", "python"])
    assert again.exit_code == 2
    assert "exists" in again.stderr
    advised = (["--output", "other.safetensors"], ["--force"])
    for words in advised:
        assert CliRunner().invoke(app, ["import", names[0], "--python", "python", *words]).exit_code == 0
