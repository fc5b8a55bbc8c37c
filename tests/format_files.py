"""One small file of each format that is read, all of the same few frames, made without our own writers."""

from __future__ import annotations

import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.jsonio import encode

from fireassay.data.embedded import find
from fireassay.units import BOHR as Bohr
from fireassay.units import HARTREE as Hartree
from fireassay.units import KJ_PER_MOL

COUNT = 12


def crystals(count: int = COUNT) -> list[Atoms]:
    """Strained Cu-Au cells of 8 atoms with energies, forces and stresses of EMT."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", a=3.8, cubic=True).repeat((2, 1, 1))
        atoms.numbers[1::3] = 79
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def molecules(count: int = COUNT) -> list[Atoms]:
    """Frames of the embedded 3BPA set, 27 atoms, with GFN2-xTB energies and forces."""
    return list(ase.io.read(str(find("3bpa-xtb/train_300K")), f":{count}", format="extxyz"))  # type: ignore[arg-type]


def labels(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None]:
    results = atoms.calc.results
    return results["energy"], results["forces"], results.get("stress")


def stacked(frames: list[Atoms]) -> dict[str, np.ndarray]:
    return {
        "numbers": frames[0].numbers,
        "positions": np.stack([atoms.positions for atoms in frames]),
        "energy": np.array([labels(atoms)[0] for atoms in frames]),
        "forces": np.stack([labels(atoms)[1] for atoms in frames]),
    }


def spice(path: Path) -> list[Atoms]:
    import h5py

    frames = molecules()
    with h5py.File(path, "w") as file:
        for name, members in (("mol-a", frames[:7]), ("mol-b", frames[7:])):
            values, group = stacked(members), file.create_group(name)
            group["atomic_numbers"] = values["numbers"]
            group["conformations"] = (values["positions"] / Bohr).astype(np.float64)
            group["dft_total_energy"] = values["energy"] / Hartree
            group["formation_energy"] = values["energy"] / Hartree + 3
            group["dft_total_gradient"] = -values["forces"] / Hartree * Bohr
            group["subset"] = np.array([b"test"])
            group["smiles"] = np.array([b"c1ccccc1"])
            group["mbis_quadrupoles"] = np.zeros((len(members), 27, 3, 3))
            group["wiberg_lowdin_bond_orders"] = np.zeros((len(members), 27, 27))
    return frames


def ani1x(path: Path) -> list[Atoms]:
    import h5py

    frames = molecules()
    values = stacked(frames)
    with h5py.File(path, "w") as file:
        group = file.create_group("C12H12N2O")
        group["atomic_numbers"] = values["numbers"].astype(np.uint8)
        group["coordinates"] = values["positions"].astype(np.float64)
        group["wb97x_dz.energy"] = values["energy"] / Hartree
        group["wb97x_dz.forces"] = values["forces"] / Hartree
        group["ccsd(t)_cbs.energy"] = np.full(len(frames), np.nan)
    return frames


def ani2x(path: Path) -> list[Atoms]:
    import h5py

    frames = molecules()
    values = stacked(frames)
    with h5py.File(path, "w") as file:
        group = file.create_group("027")
        group["species"] = np.tile(values["numbers"], (len(frames), 1))
        group["coordinates"] = values["positions"]
        group["energies"] = values["energy"] / Hartree
        group["forces"] = values["forces"] / Hartree
    return frames


def qm7x(path: Path) -> list[Atoms]:
    import h5py

    frames = molecules()
    with h5py.File(path, "w") as file:
        for k, atoms in enumerate(frames):
            group = file.create_group(f"1/Geom-m1-i1-c1-d{k}")
            group["atNUM"], group["atXYZ"] = atoms.numbers, atoms.positions
            group["ePBE0+MBD"], group["totFOR"] = np.array([labels(atoms)[0]]), labels(atoms)[1]
            group["pbe0FOR"], group["eAT"] = labels(atoms)[1] + 1, np.array([-1.0])
    return frames


def general_hdf5(path: Path) -> list[Atoms]:
    import h5py

    frames = molecules()
    values = stacked(frames)
    with h5py.File(path, "w") as file:
        file["Z"], file["R"] = values["numbers"], values["positions"] * 0.1
        file["E"], file["F"] = values["energy"] / KJ_PER_MOL, values["forces"] / KJ_PER_MOL * 10
        file["R"].attrs["units"], file["E"].attrs["units"] = "nm", "kJ/mol"
        file["F"].attrs["units"] = "kJ/mol/nm"
    return frames


def deepmd_hdf5(path: Path) -> list[Atoms]:
    import h5py

    frames = crystals()
    values = stacked(frames)
    with h5py.File(path, "w") as file:
        system = file.create_group("Cu5Au3")
        system["type.raw"] = (values["numbers"] == 79).astype(int)
        system["type_map.raw"] = np.array([b"Cu", b"Au"])
        for k, part in enumerate((slice(0, 5), slice(5, None))):
            group = system.create_group(f"set.{k:03d}")
            group["coord.npy"] = values["positions"][part].reshape(-1, 24)
            group["box.npy"] = np.stack([a.cell[:] for a in frames[part]]).reshape(-1, 9)
            group["energy.npy"], group["force.npy"] = values["energy"][part], values["forces"][part].reshape(-1, 24)
    return frames


def deepmd_mixed(path: Path) -> list[Atoms]:
    """Two systems, frames of 8 and of 2 atoms, padded to 8 with the type -1, in sets 2 and 10."""
    frames = crystals()
    small = frames[3]
    for system, members in ((path / "8", frames), (path / "16", frames[:2])):
        for number, chosen in ((2, members[: len(members) // 2]), (10, members[len(members) // 2 :])):
            folder = system / f"set.{number}"
            folder.mkdir(parents=True)
            values = stacked(chosen)
            np.save(folder / "real_atom_types.npy", np.tile(np.where(small.numbers == 79, 0, 1), (len(chosen), 1)))
            np.save(folder / "coord.npy", values["positions"].reshape(len(chosen), -1))
            np.save(folder / "box.npy", np.stack([a.cell[:] for a in chosen]).reshape(-1, 9))
            np.save(folder / "energy.npy", values["energy"])
            np.save(folder / "force.npy", values["forces"].reshape(len(chosen), -1))
        (system / "type.raw").write_text("0\n" * 8)
        (system / "type_map.raw").write_text("Au Cu\n")
    return [*frames, *frames[:2]]


def aselmdb(path: Path) -> list[Atoms]:
    import lmdb

    frames = crystals()
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for k, atoms in enumerate(frames, start=1):
            row = {
                "numbers": atoms.numbers, "positions": atoms.positions, "cell": np.asarray(atoms.cell),
                "pbc": atoms.pbc, "unique_id": f"{k}", "ctime": 1.0, "mtime": 1.0, "user": "x", "constraints": [],
                "calculator": "unknown", "calculator_parameters": {},
                **atoms.calc.results, "key_value_pairs": {"sid": f"random{k}"}, "data": {"charge": 0},
            }  # fmt: skip
            transaction.put(f"{k}".encode(), zlib.compress(encode(row).encode()))
        transaction.put(b"nextid", zlib.compress(json.dumps(len(frames) + 1).encode()))
        transaction.put(b"metadata", zlib.compress(b"{}"))
        transaction.put(b"deleted_ids", zlib.compress(b"[]"))
    return frames


def pymatgen(atoms: Atoms) -> dict[str, Any]:
    fractional = atoms.get_scaled_positions(wrap=False)
    sites = [
        {"species": [{"element": s, "occu": 1}], "abc": f.tolist(), "xyz": x.tolist(), "label": s, "properties": {}}
        for s, f, x in zip(atoms.get_chemical_symbols(), fractional, atoms.positions, strict=True)
    ]
    lattice = {"matrix": atoms.cell.tolist(), "pbc": [True] * 3}
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": lattice,
        "sites": sites,
    }


def vasp_stress(atoms: Atoms) -> np.ndarray:
    """The stress as VASP has it: kbar, positive in compression, (3, 3)."""
    return -1602.176634 * atoms.get_stress(voigt=False)


def mptrj(path: Path) -> list[Atoms]:
    frames = crystals()
    content: dict[str, Any] = {}
    for k, atoms in enumerate(frames):
        energy, forces, _ = labels(atoms)
        content.setdefault(f"mp-{k // 6}", {})[f"mp-{k // 6}-0-{k}"] = {
            "structure": pymatgen(atoms),
            "uncorrected_total_energy": energy,
            "corrected_total_energy": energy - 3.0,
            "energy_per_atom": energy / 8,
            "force": forces.tolist(),
            "stress": vasp_stress(atoms).tolist(),
            "magmom": None,
            "bandgap": 0.0,
        }
    path.write_text(json.dumps(content))
    return frames


def matpes(path: Path) -> list[Atoms]:
    frames = crystals()
    rows = []
    for k, atoms in enumerate(frames):
        energy, forces, _ = labels(atoms)
        s = vasp_stress(atoms)
        six = [s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[1, 2], s[2, 0]]
        rows.append({"matpes_id": f"m-{k}", "structure": pymatgen(atoms), "energy": energy, "forces": forces.tolist(),
                     "stress": six, "functional": "PBE", "nsites": 8})  # fmt: skip
    path.write_text(json.dumps(rows))
    return frames


def columns(path: Path) -> list[Atoms]:
    frames = molecules()
    keys = [str(k) for k in range(len(frames))]
    table = {
        "coords": dict(zip(keys, [a.positions.tolist() for a in frames], strict=True)),
        "atomic_number": dict(zip(keys, [a.numbers.tolist() for a in frames], strict=True)),
        "energy": dict(zip(keys, [labels(a)[0] for a in frames], strict=True)),
        "forces": dict(zip(keys, [labels(a)[1].tolist() for a in frames], strict=True)),
    }
    path.write_text(json.dumps(table))
    return frames


def by_ase(form: str) -> Callable[[Path], list[Atoms]]:
    def made(path: Path) -> list[Atoms]:
        frames = crystals()
        ase.io.write(path, frames, format=form)
        return frames

    return made


def constrained(path: Path) -> list[Atoms]:
    frames = crystals()
    for atoms in frames:
        atoms.set_constraint(FixAtoms([0, 1, 2]))
    ase.io.write(path, frames, format="traj")
    return frames


def asedb(path: Path) -> list[Atoms]:
    frames = crystals()
    database: Any = ase.db.connect(path, use_lock_file=False)
    for atoms in frames:
        database.write(atoms)
    return frames


def ml_ab(path: Path) -> list[Atoms]:
    frames = crystals()
    double, single, stars = "=" * 50, "-" * 50, "*" * 50
    text = [" 1.0 Version", stars, "     The number of configurations", single, f"        {len(frames)}"]
    for k, atoms in enumerate(frames, start=1):
        order = np.argsort(atoms.numbers, kind="stable")
        energy, forces, _ = labels(atoms)
        s = vasp_stress(atoms)
        text += [stars, f"     Configuration num.      {k}", double, "     System name", single, "     alloy"]
        text += [
            double,
            "     The number of atom types",
            single,
            "       2",
            double,
            "     The number of atoms",
            single,
        ]
        text += ["      8", stars, "     Atom types and atom numbers", single]
        text += [f"     {name}    {int((atoms.numbers == z).sum())}" for name, z in (("Cu", 29), ("Au", 79))]
        text += [double, "     CTIFOR", single, "   2.000000000000000E-002"]
        for title, table in (
            ("Primitive lattice vectors (ang.)", atoms.cell[:]),
            ("Atomic positions (ang.)", atoms.positions[order]),
        ):
            text += [double, f"     {title}", single, *("  " + " ".join(f"{x:.16g}" for x in row) for row in table)]
        text += [
            double,
            "     Total energy (eV)",
            single,
            f"  {energy:.16g}",
            double,
            "     Forces (eV ang.^-1)",
            single,
        ]
        text += ["  " + " ".join(f"{x:.16g}" for x in row) for row in forces[order]]
        text += [double, "     Stress (kbar)", single, "     XX YY ZZ", single]
        text += [f"  {s[0, 0]:.16g} {s[1, 1]:.16g} {s[2, 2]:.16g}", single, "     XY YZ ZX", single]
        text += [f"  {s[0, 1]:.16g} {s[1, 2]:.16g} {s[2, 0]:.16g}"]
    path.write_text("\n".join(text) + "\n")
    found = []
    for atoms in frames:
        order = np.argsort(atoms.numbers, kind="stable")
        energy, forces, stress = labels(atoms)
        turned = atoms[order]
        turned.calc = SinglePointCalculator(turned, energy=energy, forces=forces[order], stress=stress)
        found.append(turned)
    return found


def mtp(path: Path) -> list[Atoms]:
    frames = crystals()
    text = []
    for atoms in frames:
        energy, forces, stress = labels(atoms)
        assert stress is not None
        virial = -stress * atoms.get_volume()  # xx yy zz yz xz xy
        text += [
            "BEGIN_CFG",
            " Size",
            "    8",
            " Supercell",
            *("  " + " ".join(map(repr, row)) for row in atoms.cell.tolist()),
        ]
        text += [" AtomData:  id type       cartes_x      cartes_y      cartes_z           fx          fy          fz"]
        rows = zip(atoms.numbers.tolist(), atoms.positions.tolist(), forces.tolist(), strict=True)
        text += [f"  {k + 1} {int(z == 79)} {' '.join(map(repr, [*x, *f]))}" for k, (z, x, f) in enumerate(rows)]
        text += [
            " Energy",
            f"  {float(energy)!r}",
            " PlusStress:  xx          yy          zz          yz          xz          xy",
        ]
        text += ["  " + " ".join(map(repr, virial.tolist())), " Feature   EFS_by       EMT", "END_CFG", ""]
    path.write_text("\n".join(text))
    return frames


def lammps_dump(path: Path) -> list[Atoms]:
    frames = []
    text = []
    for k, atoms in enumerate(crystals()):
        lengths = atoms.cell.lengths()
        box = Atoms(atoms.numbers, atoms.get_scaled_positions() * lengths, cell=np.diag(lengths), pbc=True)
        box.calc = EMT()
        forces = box.get_forces()
        text += ["ITEM: TIMESTEP", f"{k}", "ITEM: NUMBER OF ATOMS", "8", "ITEM: BOX BOUNDS pp pp pp"]
        text += [f"0.0 {x!r}" for x in lengths.tolist()] + ["ITEM: ATOMS id type x y z fx fy fz"]
        rows = zip(box.numbers, box.positions.tolist(), forces.tolist(), strict=True)
        text += [f"{i + 1} {1 + int(z == 79)} {' '.join(map(repr, [*x, *f]))}" for i, (z, x, f) in enumerate(rows)]
        box.calc = SinglePointCalculator(box, forces=forces)
        frames.append(box)
    path.write_text("\n".join(text) + "\n")
    return frames


def tarred(path: Path) -> list[Atoms]:
    inner = path.with_name("inside-tar.xyz")
    frames = by_ase("extxyz")(inner)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(inner, "data/frames.xyz")
        archive.add(Path(__file__), "data/README.md")
    inner.unlink()
    return frames


def zipped(path: Path) -> list[Atoms]:
    inner = path.with_name("inside-zip.json")
    frames = matpes(inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "a/b.json")
    inner.unlink()
    return frames


def npz(path: Path) -> list[Atoms]:
    frames = molecules()
    values = stacked(frames)
    np.savez(path, z=values["numbers"], R=values["positions"], E=values["energy"], F=values["forces"])
    return frames


FILES: dict[str, Callable[[Path], list[Atoms]]] = {
    "spice.hdf5": spice,
    "ani1x.h5": ani1x,
    "ani2x.h5": ani2x,
    "qm7x.hdf5": qm7x,
    "general.h5": general_hdf5,
    "deepmd.h5": deepmd_hdf5,
    "mixed": deepmd_mixed,
    "frames.aselmdb": aselmdb,
    "mptrj.json": mptrj,
    "matpes.json": matpes,
    "columns.json": columns,
    "ase.json": by_ase("json"),
    "frames.db": asedb,
    "frames.traj": by_ase("traj"),
    "fixed.traj": constrained,
    "frames.extxyz": by_ase("extxyz"),
    "ML_AB": ml_ab,
    "train.cfg": mtp,
    "md.dump": lammps_dump,
    "frames.tar.gz": tarred,
    "frames.zip": zipped,
    "frames.npz": npz,
}
ELEMENTS = {"train.cfg": ["Cu", "Au"], "md.dump": ["Cu", "Au"]}
EXTRAS = {"spice.hdf5": "h5py", "ani1x.h5": "h5py", "ani2x.h5": "h5py", "qm7x.hdf5": "h5py", "general.h5": "h5py",
          "deepmd.h5": "h5py", "frames.aselmdb": "lmdb"}  # fmt: skip
