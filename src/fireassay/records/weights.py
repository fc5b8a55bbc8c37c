"""Which potential a file holds, as a short text that changes with its weights or its architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from fireassay.errors import InputError


def fingerprint_of_file(path: Path) -> str:
    """The fingerprint of a potential's file: of its architecture, and of names, shapes, types and bytes of its tensors.

    Other metadata, such as names and provenance, do not count. Raises InputError when the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            architecture = header_of(file.metadata() or {}).get("potential", {})
            digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
            for name in sorted(file.keys()):
                array = file.get_tensor(name)
                digest.update(f"{name}{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"cannot read {path} as a potential: {text}; it is missing, cut short or not safetensors"
        ) from error
    return digest.hexdigest()[:16]


def header_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON values in the header of a potential's file, of this version or the first, which had a key for each."""
    if "fireassay" in metadata:
        return json.loads(metadata["fireassay"])
    values: dict[str, Any] = dict(metadata)
    if "potential" in values:
        values |= {"potential": json.loads(values["potential"]), "version": int(values.get("version", 0))}
    return values


def fingerprint_of_text(text: str) -> str:
    """The fingerprint of what has no weights of ours: the text that names a calculator."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
