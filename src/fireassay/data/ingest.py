"""Large files to a store on disk, piece by piece, so that memory does not grow with the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fireassay.data.advice import keys_option
from fireassay.data.checks import Finding, key_findings, label_findings, physics
from fireassay.data.conversion import structures_of
from fireassay.data.formats.archive import is_archive
from fireassay.data.formats.asedb import stream_asedb, stream_aselmdb
from fireassay.data.formats.compressed import MAGIC
from fireassay.data.formats.extxyz import stream_extxyz
from fireassay.data.formats.loading import Source, files_of, format_of, load
from fireassay.data.frame import Content, key_shapes
from fireassay.data.interpretation import Interpretation, interpret
from fireassay.data.keys import Keys, Mapped, resolve
from fireassay.data.store import META, Store, StoredFrames, StoreWriter, cache_folder, remove_leftovers
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.progress import Progress, Silent

LARGE: Final = 256 << 20  # bytes of the files from which on their frames are kept on disk
SAMPLE: Final = 5000  # frames of a store that statistics are taken from
_PACKED: Final = 5  # times that a compressed file grows, about
_VERSION: Final = 3  # of what a store holds, and of how it is read
_STREAMS: Final[dict[str, Callable[[Path], Iterator[Content]]]] = {
    "extended XYZ": stream_extxyz,
    "ASE database": stream_asedb,
    "ASE LMDB": stream_aselmdb,
}


def is_large(source: Source) -> bool:
    """Whether a source is large, and made of files that are all read in pieces."""
    try:
        files = files_of(source)
        sizes = [path.stat().st_size for path in files]
        if _PACKED * sum(sizes) < LARGE:
            return False
        grown = [size * (_PACKED if _packed(path) else 1) for path, size in zip(files, sizes, strict=True)]
        return sum(grown) > LARGE and all(format_of(path) in _STREAMS for path in files)
    except (OSError, InputError):
        return False


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith(tuple(MAGIC))


def stored(
    source: Source,
    keys: Keys | None,
    units: Mapping[str, str] | None,
    elements: Sequence[str] | None,
    check: Any,
    progress: Progress | None = None,
) -> tuple[StoredFrames, list[Finding], Mapping[str, Any]]:
    """The frames of a source from a store, which is made when there is none of this file, its date and these settings.

    `check` is called with structures before they are stored. Returned are the frames, what the checks of their labels
    found, and what is known of them: format, notes, keys, names of units.

    Raises InputError as `fireassay.data.readers.read` does.
    """
    folder = cache_folder() / "frames" / _key(source, keys, units, elements)
    if (folder / META).exists():
        store = Store(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        store = _made(source, folder, keys, units, elements, check, progress or Silent())
    frames = StoredFrames(store)
    one = replace(_first(store), names=store.meta["units"])
    found = [Finding(**finding) for finding in store.meta["findings"]]
    found += physics([one], frames, _name(source))
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
    """A name that changes with the files, their sizes and dates, and how they are read."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(source)]
    text = json.dumps([_VERSION, states, settings], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _contents(source: Source, elements: Sequence[str] | None) -> Iterator[Content]:
    """The source in pieces: those of one file follow one another."""
    for part in [source] if isinstance(source, (str, Path)) else source:
        files = files_of(part)
        streams = [_STREAMS.get(format_of(path)) for path in files if path.is_file() and not is_archive(path)]
        if len(streams) < len(files) or None in streams:
            yield from load(part, elements)
            continue
        for path, stream in zip(files, streams, strict=True):
            if stream is not None:
                yield from stream(path)


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
    size = sum(path.stat().st_size for path in files_of(source))
    try:
        progress.start(f"reading {_name(source)} into {folder}", max(size, 1))
        for content in _contents(source, elements):
            one = reading.interpreted(content)
            structures = structures_of(content.frames, one.mapped, one.units)
            check(structures)
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
        self._mapped_in_file: Mapped = {}
        self._units_of_files: list[dict[str, str]] = []
        self._findings: dict[str, Finding] = {}
        self._shapes: dict[str, tuple[str, int]] = {}
        self._notes: dict[str, None] = {}

    def interpreted(self, content: Content) -> Interpretation:
        """The piece, read as the pieces of its file before it; every file has units of its own."""
        before = self._one
        if before is None or before.content.file != content.file:
            one = interpret(content, self._keys, self._units, strict=False)
            self._units_of_files.append(dict(one.names))
        else:
            one = replace(before, content=content, mapped=resolve(content, self._keys, strict=False))
            for label in ("energy", "forces"):
                found, earlier = one.mapped[label], self._mapped_in_file[label]
                if found and earlier and found != earlier:
                    way = keys_option({label: [*earlier, *found]})
                    raise InputError(
                        f"{content.file}: {label} is under {earlier[0]!r} in earlier frames and {found[0]!r} in later "
                        f"ones; read both with {way}"
                    )
        same = before is not None and before.content.file == content.file
        self._mapped_in_file = _joined(self._mapped_in_file if same else {}, one.mapped)
        self._mapped = _joined(self._mapped, one.mapped)
        self._one = one
        return one

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
            "units": dict(set.intersection(*(set(units.items()) for units in self._units_of_files))),
            "mapped": self._mapped,
            "keys": self._shapes,
            "notes": list(self._notes),
            "findings": [vars(finding) for finding in self._findings.values()],
        }


def _joined(one: Mapped, other: Mapped) -> Mapped:
    """The keys of both for each label."""
    return {label: tuple(dict.fromkeys((*one.get(label, ()), *keys))) for label, keys in other.items()}
