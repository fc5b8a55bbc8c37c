"""SIGTERM and Ctrl-C as a request that the loop answers when it has finished its step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Request:
    """Which signal has asked to stop; None while none has."""

    signal: int | None = None


@contextlib.contextmanager
def requests() -> Iterator[Request]:
    """Notes SIGTERM and SIGINT instead of dying by them; a second signal acts as usual.

    Outside the main thread, where Python cannot set handlers, signals act as usual.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    for number in watched:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
