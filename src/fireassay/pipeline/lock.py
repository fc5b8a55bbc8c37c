"""One owner for a run folder.

The lock is a file that is made by linking, which is atomic on network file systems too, and that says who holds it. It
outlives its owner: after a kill, the next process takes it over when it can see that the owner is gone, at once on the
same machine, on another one when the owner has not touched the file for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fireassay.errors import InputError
from fireassay.records.provenance import command_line

LOCK: Final = ".lock"
TAKEOVER: Final = ".lock.takeover"  # held while a lock is removed whose owner is gone
BEAT: Final = 10.0  # s between two signs of life
SILENCE: Final = 90.0  # s without one, after which an owner on another machine counts as gone


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder belongs to this process inside the block.

    Raises InputError, which names the owner, when another process that is alive holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot use {folder} as a folder: {error.strerror or error}; choose another") from error
    path, identity = folder / LOCK, _identity()
    _acquire(path, identity)
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, identity["nonce"], over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        if _read(path).get("nonce") == identity["nonce"]:
            with contextlib.suppress(OSError):
                path.unlink()


def _identity() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "space": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command_line(sys.argv),
        "nonce": os.urandom(8).hex(),
    }


def _acquire(path: Path, identity: dict[str, Any]) -> None:
    own = path.with_name(f".{path.name}.{identity['nonce']}")
    try:
        own.write_text(json.dumps(identity), encoding="utf-8")
        for _ in range(100):
            try:
                os.link(own, path)
                return
            except FileExistsError:
                _clear(path, identity)
            except OSError:  # a file system without hard links
                _create(path, identity)
                return
    except OSError as error:
        raise InputError(f"cannot lock {path.parent}: {error.strerror or error}; choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
    raise InputError(f"cannot lock {path.parent}: {path} comes and goes; is another process starting there?")


def _create(path: Path, identity: dict[str, Any]) -> None:
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _clear(path, identity)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(identity))
        return


def _clear(path: Path, identity: dict[str, Any]) -> None:
    """Removes the lock of an owner that is gone. Raises InputError when the owner is alive."""
    owner = _read(path)
    if not owner and not path.exists():
        return
    if _alive(path, owner, identity):
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')} since {owner.get('since', '?')}"
        raise InputError(
            f"{path.parent} is in use by {who} ({owner.get('command', 'unknown command')}); "
            "wait for it or stop it, or choose another folder"
        )
    guard = path.with_name(TAKEOVER)
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:  # another process is at it; one that was killed there leaves the guard
        with contextlib.suppress(OSError):
            if _now(path.parent) - guard.stat().st_mtime > SILENCE:
                guard.unlink()
        time.sleep(0.05)
        return
    try:
        # Only who holds the guard removes a lock, so that what is looked at here is what is removed.
        if _read(path).get("nonce") == owner.get("nonce"):
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _alive(path: Path, owner: dict[str, Any], identity: dict[str, Any]) -> bool:
    same = all(owner.get(key) == identity[key] for key in ("host", "boot", "space"))
    if same and isinstance(owner.get("pid"), int):
        began = _began(owner["pid"])
        return began is not None and began == owner.get("began")
    if owner.get("host") == identity["host"] and owner.get("boot") not in (None, "", identity["boot"]):
        return False  # this machine has been restarted since
    with contextlib.suppress(OSError):
        return _now(path.parent) - path.stat().st_mtime < SILENCE
    return False


def _now(folder: Path) -> float:
    """The time by the clock that stamps files in the folder, which may be another machine's."""
    probe = folder / f".clock.{os.urandom(4).hex()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _beat(path: Path, nonce: str, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            if _read(path).get("nonce") == nonce:
                os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None when there is no such process, empty where nobody can tell."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return ""
    stat = _text(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
