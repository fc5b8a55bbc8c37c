"""Large files to a store on disk, piece by piece, so that memory does not grow with the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fireassay.data.checks import Finding, key_findings, label_findings, physics
from fireassay.data.conversion import structure_of
from fireassay.data.embedded import find as find_embedded
from fireassay.data.formats.asedb import stream_asedb
from fireassay.data.formats.compressed import MAGIC
from fireassay.data.formats.extxyz import stream_extxyz
from fireassay.data.formats.loading import Source, format_of, load
from fireassay.data.frame import Content, key_shapes
from fireassay.data.interpretation import Interpretation, interpret
from fireassay.data.keys import Keys, Mapped, resolve
from fireassay.data.store import META, Store, StoredFrames, StoreWriter, cache_folder, sample
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.progress import Progress, Silent

LARGE: Final = 256 << 20  # bytes of a file from which on its frames are kept on disk
SAMPLE: Final = 5000  # frames that physics is asked of
_PACKED: Final = 5  # times that a compressed file grows, about
_VERSION: Final = 2  # of what a store holds
_STREAMS: Final = {"extended XYZ": stream_extxyz, "ASE database": stream_asedb}


def is_large(source: Source) -> bool:
    """Whether a source is one file of a format that is read in pieces, and large."""
    if not isinstance(source, (str, Path)):
        return False
    path = Path(source)
    try:
        if not path.is_file() or path.stat().st_size * _PACKED < LARGE:
            return False
        with path.open("rb") as file:
            packed = file.read(6).startswith(tuple(MAGIC))
        return path.stat().st_size * (_PACKED if packed else 1) > LARGE and format_of(path) in _STREAMS
    except (OSError, InputError):
        return False


def stored(
    source: Source,
    keys: Keys | None,
    units: Mapping[str, str] | None,
    elements: Sequence[str] | None,
    check: Any,
    progress: Progress | None = None,
) -> tuple[StoredFrames, list[Finding], Mapping[str, Any]]:
    """The frames of a source from a store, which is made when there is none of this file, its date and these settings.

    `check` is called with every structure before it is stored. Returned are the frames, what the checks of their labels
    found, and what is known of them: format, notes, keys, names of units.

    Raises InputError as `fireassay.data.readers.read` does.
    """
    folder = cache_folder() / "frames" / _key(source, keys, units, elements)
    if (folder / META).exists():
        store = Store(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        store = _made(source, folder, keys, units, elements, check, progress or Silent())
    frames = StoredFrames(store)
    one = replace(_first(store), names=store.meta["units"])
    found = [Finding(**finding) for finding in store.meta["findings"]]
    found += physics([one], sample(frames, SAMPLE), _name(source))
    return frames, sorted(found, key=lambda finding: not finding.stops), store.meta


def _first(store: Store) -> Interpretation:
    """How the frames were read, without frames."""
    meta = store.meta
    content = Content(meta["source"], meta["format"], [])
    mapped: Mapped = {label: tuple(keys) for label, keys in meta["mapped"].items()}
    one = interpret(content, None, meta["units"])
    return replace(one, mapped=mapped)


def _name(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else ", ".join(map(str, source))


def _key(source: Source, *settings: Any) -> str:
    parts = [source] if isinstance(source, (str, Path)) else list(source)
    files = []
    for part in parts:
        path = Path(part) if Path(part).exists() else find_embedded(str(part)) or Path(part)
        state = path.stat() if path.exists() else None
        files.append([str(path.resolve()), state and state.st_size, state and state.st_mtime_ns])
    text = json.dumps([_VERSION, files, settings], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _contents(source: Source, elements: Sequence[str] | None) -> Iterator[Content]:
    """The source in pieces."""
    if isinstance(source, (str, Path)) and Path(source).is_file():
        stream = _STREAMS.get(format_of(Path(source)))
        if stream is not None:
            yield from stream(Path(source))
            return
    yield from load(source, elements)


def _made(
    source: Source,
    folder: Path,
    keys: Keys | None,
    units: Mapping[str, str] | None,
    elements: Sequence[str] | None,
    check: Any,
    progress: Progress,
) -> Store:
    writer = StoreWriter(folder)
    reading = _Reading(keys, units)
    size = Path(source).stat().st_size if isinstance(source, (str, Path)) and Path(source).is_file() else 0
    try:
        progress.start(f"reading {_name(source)} into {folder}", max(size, 1))
        for content in _contents(source, elements):
            one = reading.interpreted(content)
            structures = [structure_of(frame, one.mapped, one.units) for frame in content.frames]
            for structure in structures:
                check(structure)
            reading.note(one, structures)
            writer.add(structures)
            progress.advance(content.size, f"{writer.frames} frames")
        meta = reading.meta(_name(source))
    except BaseException:
        writer.discard()
        raise
    finally:
        progress.stop()
    return writer.close(meta)


class _Reading:
    """What is learnt of a source while its pieces go by."""

    def __init__(self, keys: Keys | None, units: Mapping[str, str] | None) -> None:
        self._keys, self._units = keys, units
        self._one: Interpretation | None = None
        self._mapped: Mapped = {}
        self._findings: dict[str, Finding] = {}
        self._shapes: dict[str, tuple[str, int]] = {}
        self._notes: dict[str, None] = {}

    def interpreted(self, content: Content) -> Interpretation:
        """The piece, read as the pieces before it."""
        if self._one is None:
            self._one = interpret(content, self._keys, self._units, strict=False)
            self._mapped = dict(self._one.mapped)
            return self._one
        mapped = resolve(content, self._keys, strict=False)
        for label, found in mapped.items():
            before = self._mapped.get(label, ())
            if label in ("energy", "forces") and before and found and before != found:
                raise InputError(
                    f"{content.file}: {label} is under {before[0]!r} in earlier frames and {found[0]!r} in later ones; "
                    f"read both with data.keys={{{label}: [{before[0]}, {found[0]}]}}"
                )
            self._mapped[label] = tuple(dict.fromkeys((*before, *found)))
        return replace(self._one, content=content, mapped=mapped)

    def note(self, one: Interpretation, structures: Sequence[Structure]) -> None:
        """Takes in what the piece's labels show; of one kind of finding the first is kept."""
        for finding in (*key_findings(one), *label_findings([one], structures, one.content.file, coverage=False)):
            self._findings.setdefault(finding.kind + re.sub(r"\d+", "", finding.sentence), finding)
        for key, (kind, count) in key_shapes(one.frames).items():
            self._shapes[key] = (self._shapes.get(key, (kind, 0))[0], self._shapes.get(key, (kind, 0))[1] + count)
        self._notes |= dict.fromkeys(one.content.notes)

    def meta(self, source: str) -> dict[str, Any]:
        """What the store is to know. Raises InputError for keys that no frame has and files without labels."""
        assert self._one is not None
        for label, key in (self._keys or {}).items():
            wanted = (key,) if isinstance(key, str) else tuple(key or ())
            if wanted and label not in ("temperature", "group") and not any(k in self._shapes for k in wanted):
                raise InputError(f"{source}: has no key {wanted[0]!r} for {label}; found {sorted(self._shapes)}")
        return {
            "source": source,
            "format": self._one.content.format,
            "units": dict(self._one.names),
            "mapped": self._mapped,
            "keys": self._shapes,
            "notes": list(self._notes),
            "findings": [vars(finding) for finding in self._findings.values()],
        }
