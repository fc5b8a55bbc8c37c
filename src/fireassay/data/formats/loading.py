"""From a path to contents: which format it is, and the reader for it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fireassay.data.embedded import find as find_embedded
from fireassay.data.formats.archive import PICKLES, is_archive, unpacked
from fireassay.data.formats.ase_formats import ase_format, read_ase
from fireassay.data.formats.asedb import read_asedb, read_aselmdb
from fireassay.data.formats.compressed import MAGIC, head_of
from fireassay.data.formats.deepmd import is_deepmd, read_deepmd
from fireassay.data.formats.elements import known_elements
from fireassay.data.formats.extxyz import read_extxyz
from fireassay.data.formats.hdf5 import read_hdf5
from fireassay.data.formats.ml_ab import MARK as ML_AB_MARK
from fireassay.data.formats.ml_ab import read_ml_ab
from fireassay.data.formats.mtp import MARK as MTP_MARK
from fireassay.data.formats.mtp import read_mtp
from fireassay.data.formats.npz import read_npz
from fireassay.data.formats.structures_json import read_json
from fireassay.data.frame import Content
from fireassay.errors import InputError

Source = str | Path | Sequence[str | Path]
Reader = Callable[[Path, Sequence[str] | None], Content]

_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_LMDB_MAGIC: Final = b"\xde\xc0\xef\xbe"
_FOLDER_SUFFIXES: Final = (".aselmdb", ".db", ".xyz", ".extxyz", ".h5", ".hdf5", ".npz", ".traj")
READERS: Final[dict[str, Reader]] = {
    "extended XYZ": lambda path, elements: read_extxyz(path),
    "ASE database": lambda path, elements: read_asedb(path),
    "ASE LMDB": lambda path, elements: read_aselmdb(path),
    "npz": lambda path, elements: read_npz(path),
    "DeePMD": read_deepmd,
    "HDF5": read_hdf5,
    "JSON": lambda path, elements: read_json(path),
    "VASP ML_AB": lambda path, elements: read_ml_ab(path),
    "MTP cfg": read_mtp,
}
KNOWN: Final = (
    "extended XYZ, ASE databases (.db, .json, .aselmdb), npz, HDF5 (SPICE, ANI, QM7-X, DeePMD), DeePMD folders, JSON "
    "of pymatgen structures, ML_AB, MTP .cfg, outputs and trajectories that ASE reads, archives of these"
)


def load(source: Source, elements: Sequence[str] | None = None) -> list[Content]:
    """The uninterpreted contents of a file or folder, of all that a pattern names, of an archive, or of several.

    Raises InputError when there is no such file, the format is unknown or unsafe, or the content is damaged.
    """
    known_elements(elements)
    if isinstance(source, (str, Path)):
        return _loaded(source, elements)
    if not source:
        raise InputError("no data file is named; needs at least one")
    return [content for part in source for content in _loaded(part, elements)]


def _loaded(source: str | Path, elements: Sequence[str] | None) -> list[Content]:
    return [content for path, shown in _places(source) for content in _contents(path, elements, shown)]


def files_of(source: Source) -> list[Path]:
    """All files that a source is made of, those inside folders included. Raises InputError when there are none."""
    if not isinstance(source, (str, Path)):
        return [path for part in source for path in files_of(part)]
    found = []
    for path, _ in _places(source):
        if not path.is_dir():
            found.append(path)
        elif _is_system(path):
            found += sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            found += _members(path)
    return found


def _is_system(folder: Path) -> bool:
    """Whether a folder is read as a whole, and not file by file."""
    return is_deepmd(folder) or _is_lmdb_folder(folder)


def _places(source: str | Path) -> list[tuple[Path, str]]:
    """The files and folders that a name or a pattern stands for, and what they are called in messages."""
    if not str(source).strip():
        raise InputError("a data file's name is empty")
    path = Path(source)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: is no path ({error})") from error
    if exists:
        return [(path, str(source))]
    embedded = find_embedded(str(source))
    if embedded is not None:
        return [(embedded, str(source))]
    if any(sign in str(source) for sign in "*?["):
        found = sorted(glob.glob(str(source), recursive=True))
        if not found:
            raise InputError(f"{source}: no file matches the pattern")
        return [(Path(name), name) for name in found]
    raise InputError(f"{source}: no such file, folder or embedded data set")


def _contents(path: Path, elements: Sequence[str] | None, shown: str) -> list[Content]:
    if path.is_dir() and not _is_system(path):
        return [content for member in _members(path) for content in _contents(member, elements, str(member))]
    if path.is_file() and _size(path) and is_archive(path):
        return _archived(path, elements, shown)
    name = format_of(path)
    reader = READERS.get(name) or (lambda place, types: read_ase(place, name, types))
    try:
        return [reader(path, elements)]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{shown}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(f"{shown}: needs more memory than there is to be read as {name}; it may be damaged") from error
    except Exception as error:  # whatever the decoder of a damaged file comes upon
        text = " ".join(f"{type(error).__name__} {error}".split())[:300]
        raise InputError(f"{shown}: cannot be read as {name} ({text}); it may be damaged") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _members(folder: Path) -> list[Path]:
    """The data files of a folder that are of one kind, in the order of their names."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _FOLDER_SUFFIXES)
    if not files:
        raise InputError(
            f"{folder}: a folder without DeePMD systems (type.raw, set.*); name a file in it, or a pattern"
        )
    kinds = sorted({path.suffix for path in files})
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: has files of the kinds {kinds}; name those that are meant, as '{folder}/*{kinds[0]}'"
        )
    return files


def _archived(path: Path, elements: Sequence[str] | None, shown: str) -> list[Content]:
    with unpacked(path) as folder:
        contents: list[Content] = []
        left: list[str] = []
        systems = [raw.parent for raw in sorted(folder.rglob("type.raw"))]
        if systems:
            root = folder if len(systems) > 1 else systems[0]
            contents += _contents(root, elements, shown)
        for member in sorted(folder.rglob("*")):
            name = str(member.relative_to(folder))
            hidden = any(part.startswith((".", "__MACOSX")) for part in member.relative_to(folder).parts)
            if not member.is_file() or hidden or any(system in member.parents for system in systems):
                continue
            try:
                contents += _contents(member, elements, f"{shown}/{name}")
            except InputError as error:
                if member.stat().st_size and _recognised(member):
                    raise InputError(str(error).replace(str(folder), shown)) from error
                left.append(name)
        if not contents:
            raise InputError(f"{shown}: the archive has no file of a known format; found {left[:8]}; read are {KNOWN}")
    return [_renamed(content, str(folder), shown, left if k == 0 else []) for k, content in enumerate(contents)]


def _recognised(path: Path) -> bool:
    try:
        format_of(path)
    except InputError:
        return False
    return True


def _renamed(content: Content, folder: str, shown: str, left: list[str]) -> Content:
    """The content under the archive's name instead of that of the temporary folder."""
    frames = [replace(frame, file=frame.file.replace(folder, shown)) for frame in content.frames]
    notes = (f"left in the archive, as no data: {', '.join(left[:8])}",) if left else ()
    return replace(content, file=content.file.replace(folder, shown), frames=frames, notes=(*content.notes, *notes))


def _is_lmdb_folder(path: Path) -> bool:
    return (path / "data.mdb").is_file()


def format_of(path: Path) -> str:
    """The name of a format in `READERS`, or ASE's own name of one that it reads, by content first and suffix second.

    Raises InputError for a folder without data, an empty file, and formats that are not read, pickles among them.
    """
    if path.is_dir():
        if is_deepmd(path):
            return "DeePMD"
        if _is_lmdb_folder(path):
            return "ASE LMDB"
        raise InputError(f"{path}: a folder without DeePMD systems (type.raw, set.*); name a file in it")
    try:
        with path.open("rb") as file:
            raw = file.read(64)
        head = head_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not raw:
        raise InputError(f"{path}: the file is empty")
    name = _by_content(path, raw, head)
    if name is not None:
        return name
    compressed = raw.startswith(tuple(MAGIC))
    is_xyz = any("xyz" in suffix for suffix in path.suffixes)
    ours = None if is_xyz or (compressed and head.lstrip()[:1].isdigit()) else ase_format(path)
    if ours is not None:
        return ours
    if is_xyz or head.lstrip()[:1].isdigit() or (compressed and not head):
        return "extended XYZ"
    raise InputError(
        f"{path}: the format is not known; read are {KNOWN}; where another program reads it, write extended XYZ with it"
    )


def _by_content(path: Path, raw: bytes, head: bytes) -> str | None:
    if raw.startswith(b"SQLite format 3\x00"):
        return "ASE database"
    if raw.startswith(_HDF5_MAGIC):
        return "HDF5"
    if raw[16:20] == _LMDB_MAGIC or path.suffix in (".aselmdb", ".lmdb", ".mdb"):
        return "ASE LMDB"
    pickled = raw.startswith(b"\x80") and raw[1:2] in b"\x02\x03\x04\x05"
    if path.suffix in PICKLES or pickled or (raw.startswith(b"PK\x03\x04") and b"/data.pkl" in head):
        raise _pickled(path)
    if raw.startswith(b"PK\x03\x04"):
        return "npz"
    if raw.startswith(b"\x93NUMPY") or path.suffix in (".npz", ".npy"):
        return "npz"
    if path.suffix == ".db":
        return "ASE database"
    start = head.lstrip()
    if start[:1] in (b"{", b"[") and start[1:].lstrip()[:1] in (b'"', b"{", b"[", b"}", b"]", b""):
        return "JSON"
    if MTP_MARK.encode() in head:
        return "MTP cfg"
    if ML_AB_MARK.search(head.decode("utf-8", "replace")) or b"The number of configurations" in head:
        return "VASP ML_AB"
    return None


def _pickled(path: Path) -> InputError:
    return InputError(
        f"{path}: looks like pickled objects, which can run code and are never loaded; in the environment that wrote "
        "it, load it, build ase.Atoms of each frame, and save them with "
        "ase.io.write('frames.xyz', frames, format='extxyz')"
    )


def described(contents: Sequence[Content]) -> str:
    """The formats of contents, in words."""
    return ", ".join(dict.fromkeys(content.format for content in contents))


def said(contents: Sequence[Content]) -> list[str]:
    """What the readers say of how they read, each sentence once."""
    return list(dict.fromkeys(note for content in contents for note in content.notes))
