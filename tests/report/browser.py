"""Headless Chromium over its debugging pipe: no driver, no port, nothing to install but the browser itself."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """The browser's path, or None when there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser; `events` collects what the page said and asked for."""

    def __init__(self, width: int = 1400, height: int = 900, dark: bool = False, touch: bool = False) -> None:
        self._profile = tempfile.mkdtemp(prefix="browser-")
        from_browser, self._in = os.pipe()
        self._out, to_us = os.pipe()
        command = f'exec "$@" 3<&{from_browser} 4>&{to_us}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "browser", str(executable()), *FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=(from_browser, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_browser)
        os.close(to_us)
        self._buffer, self._number, self.events = b"", 0, []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.size(width, height, touch)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def size(self, width: int, height: int, touch: bool = False) -> None:
        """The viewport in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the debugging protocol and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._out, 1 << 20)
            if not part:
                raise RuntimeError("the browser has gone")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, seconds: float = 60.0) -> None:
        """Opens a file and waits until the report says that every figure is drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + seconds
        while self.run("document.documentElement?.dataset.ready || ''") != "yes":
            if time.monotonic() > end:
                raise TimeoutError(f"the page was not ready after {seconds} s: {self.complaints()}")
            time.sleep(0.1)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Exceptions, console warnings and errors, and log entries of the same levels."""
        said = []
        for event in self.events:
            content = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(json.dumps(content["exceptionDetails"].get("exception", content["exceptionDetails"])))
            elif event.get("method") == "Runtime.consoleAPICalled" and content["type"] in (
                "error",
                "warning",
                "assert",
            ):
                said.append(json.dumps(content["args"]))
            elif event.get("method") == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
                said.append(content["entry"]["text"])
        return said

    def requests(self) -> list[str]:
        """Addresses that the page asked for, data and blob addresses aside."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "blob:"))]

    def screenshot(self, path: Path, full: bool = True, clip: tuple[float, float, float, float] | None = None) -> None:
        """A PNG of the whole page, of the window, or of x, y, width, height."""
        options: dict[str, Any] = {"captureBeyondViewport": full or clip is not None}
        if clip is not None:
            options["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        elif full:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))
