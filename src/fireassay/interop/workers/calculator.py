"""Serves an ASE calculator to another process: `PYTHON -I calculator.py "package.module:Class(key=value)"`.

Requests and answers are npz archives, each after its length as 8 bytes, little-endian, on standard input and output.
A request holds the structures of exchange.py and `wanted`, whether forces and stress are; an answer `energy` (S,) eV,
`forces` (N, 3) eV/Å, `stress` (S, 3, 3) eV/Å^3 in ASE's sign, NaN where a structure is not periodic in any
direction, and `messages` (S,), empty but for structures whose calculation failed, which are NaN; or `error`, one line.
The first answer comes after `BEGIN`, since an interpreter may have greeted on its standard output, and is empty.
"""

from __future__ import annotations

import ast
import importlib
import io
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

sys.path.append(str(Path(__file__).parent))
from exchange import Frame, read_frames


def build(text: str) -> Any:
    """The calculator of "package.module:Class(key=value)"; values are Python literals."""
    module, colon, call = text.partition(":")
    node = ast.parse(call or "missing", mode="eval").body
    if not colon or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{text!r} is not of the form package.module:Class(key=value)")
    arguments = [ast.literal_eval(value) for value in node.args]
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    return getattr(importlib.import_module(module), node.func.id)(*arguments, **options)


def tell(atoms: Atoms, frame: Frame) -> None:
    """Charge and multiplicity in both ways in which calculators look for them: `info`, and sums over the atoms."""
    n = len(atoms)
    if frame.charge is not None:
        atoms.info["charge"] = int(frame.charge) if frame.charge.is_integer() else frame.charge
        atoms.set_initial_charges([frame.charge / n] * n)
    if frame.spin is not None:
        atoms.info["spin"] = int(frame.spin) if frame.spin.is_integer() else frame.spin
        atoms.set_initial_magnetic_moments([(frame.spin - 1) / n] * n)


BEGIN = b"\n<fireassay-calculator>\n"


def line(error: Exception) -> str:
    """The kind of an error and what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def answer(calculator: Any, request: Any) -> dict[str, np.ndarray]:
    """Energies, and what else is wanted, of the structures of a request."""
    forces, stress = (bool(flag) for flag in request["wanted"])
    energies, pulls, tensors, messages = [], [np.zeros((0, 3))], [np.zeros((0, 3, 3))], []
    for frame in read_frames(request):
        atoms = Atoms(frame.atomic_numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        tell(atoms, frame)
        atoms.calc = calculator
        solid = bool(np.any(frame.pbc)) and abs(float(np.linalg.det(frame.cell))) > 1e-12
        energy, pull, tensor, message = float("nan"), np.full((len(atoms), 3), np.nan), np.full((3, 3), np.nan), ""
        try:
            found = np.array(atoms.get_forces(), dtype=float) if forces else pull
            energy = float(atoms.get_potential_energy())
            pull = found.reshape(len(atoms), 3)
            tensor = np.array(atoms.get_stress(voigt=False), dtype=float) if stress and solid else tensor
        except Exception as error:
            energy, pull, message = float("nan"), np.full((len(atoms), 3), np.nan), line(error)
        energies.append(energy)
        pulls.append(pull)
        tensors.append(tensor[None])
        messages.append(message)
    arrays = {"energy": np.array(energies), "messages": np.array(messages, dtype=str)}
    if forces:
        arrays["forces"] = np.concatenate(pulls)
    if stress:
        arrays["stress"] = np.concatenate(tensors)
    return arrays


def serve(text: str) -> None:
    """Answers requests until the standard input ends."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the calculator prints is no part of the protocol

    def send(arrays: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        channel.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
        channel.flush()

    try:
        calculator = build(text)
    except Exception as error:
        channel.write(BEGIN)
        send({"error": np.array(line(error))})
        return
    channel.write(BEGIN)
    send({})
    while len(head := sys.stdin.buffer.read(8)) == 8:
        content = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as request:
                send(answer(calculator, request))
        except Exception as error:
            send({"error": np.array(line(error))})


if __name__ == "__main__":
    serve(sys.argv[1])
