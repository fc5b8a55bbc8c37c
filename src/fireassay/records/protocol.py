"""What a protocol leaves beside its run folders: protocol.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fireassay.errors import InputError
from fireassay.records.files import read_json, write_json
from fireassay.records.provenance import Provenance
from fireassay.records.typed import Unit, decode, encode, record

VERSION = 1
FILE = "protocol.json"


@record
class Trial:
    """One potential at one task, in a run folder of its own."""

    potential: str
    task: str
    folder: str
    formula: str = ""
    temperature: Annotated[float | None, Unit("K")] = None
    timestep: Annotated[float | None, Unit("fs")] = None
    density: Annotated[float | None, Unit("g/cm^3")] = None


@record
class ProtocolRecord:
    """A protocol's trials, what was left out, and training times (s per epoch) by potential."""

    protocol: str
    trials: list[Trial]
    notes: list[str]
    epoch_seconds: Annotated[dict[str, float], Unit("s")]
    provenance: Provenance

    def save(self, folder: Path) -> Path:
        """Writes `folder/protocol.json`."""
        write_json(folder / FILE, {"version": VERSION, **encode(self)[0]})
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> ProtocolRecord:
        """Reads `folder/protocol.json`. Raises InputError when it is damaged or of another version."""
        content = read_json(folder / FILE)
        version = content.pop("version", None) if isinstance(content, dict) else None
        if version != VERSION:
            raise InputError(f"{folder / FILE} is of version {version}, this fireassay reads {VERSION}; run it again")
        return decode(cls, content, {}, f"{folder / FILE} is damaged")
