"""Chromium without a window, driven over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE = 60.0  # seconds; a cold start on a busy machine takes ten
_SCRIPT = "document.documentElement.scrollWidth"


@dataclass
class Seen:
    """What a page did: the errors on its console, the addresses it asked for, and its width."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    width: int = 0  # that the page's content needs, in CSS pixels
    value: Any = None
    picture: bytes = b""


class Browser:
    """One running chromium; `look` opens a file in a new tab."""

    def __init__(self, process: Any, to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._count, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []

    def look(
        self,
        file: Path,
        width: int,
        height: int = 800,
        *,
        dark: bool = False,
        script: str = _SCRIPT,
        wait: float = 0.0,
        picture: bool = False,
        whole: bool = False,
    ) -> Seen:
        """Open a file at this width; `script` is evaluated in it `wait` seconds after loading."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        tab = self._call("Target.attachToTarget", attach)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, tab)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", screen, tab)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]}, tab)
        self._events.clear()
        self._call("Page.navigate", {"url": file.resolve().as_uri()}, tab)
        self._until(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))
        self._pass(wait)
        seen = Seen()
        seen.width = self._evaluate(_SCRIPT, tab)
        seen.value = self._evaluate(script, tab)
        if picture:
            size = self._call("Page.getLayoutMetrics", {}, tab)["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
            asked = {"captureBeyondViewport": True, "clip": clip} if whole else {}
            found = self._call("Page.captureScreenshot", asked, tab)
            seen.picture = base64.b64decode(found["data"])
        for event in self._events:
            _note(seen, event, file.resolve().as_uri())
        self._call("Target.closeTarget", {"targetId": target})
        return seen

    def _evaluate(self, script: str, tab: str) -> Any:
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self._call("Runtime.evaluate", asked, tab)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _call(self, method: str, asked: dict[str, Any], tab: str | None = None) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": asked}
        message |= {"sessionId": tab} if tab else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}

        def answered() -> bool:
            for event in self._events:
                if event.get("id") == self._count:
                    answer.update(event)
            return bool(answer)

        self._until(answered)
        self._events = [event for event in self._events if "id" not in event]
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _until(self, holds: Any) -> None:
        end = time.monotonic() + _PATIENCE
        while not holds():
            assert time.monotonic() < end, "chromium does not answer"
            assert self._process.poll() is None, "chromium has ended"
            self._read(1.0)

    def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._read(left)

    def _read(self, seconds: float) -> None:
        if not select.select([self._back], [], [], seconds)[0]:
            return
        *whole, self._rest = (self._rest + os.read(self._back, 1 << 20)).split(b"\0")
        self._events += [json.loads(each) for each in whole]


def _note(seen: Seen, event: dict[str, Any], own: str) -> None:
    about = event.get("params", {})
    if event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
        seen.errors.append(about["entry"]["text"])
    if event["method"] == "Runtime.exceptionThrown":
        seen.errors.append(json.dumps(about["exceptionDetails"])[:300])
    if event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
        seen.errors.append(json.dumps(about["args"])[:300])
    if event["method"] == "Network.requestWillBeSent":
        address = about["request"]["url"]
        if address != own and not address.startswith(("data:", "blob:")):
            seen.requests.append(address)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A running chromium with a profile of its own, ended afterwards."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        (theirs, to), (back, ours) = os.pipe(), os.pipe()
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-unsafe-swiftshader", "--no-first-run", f"--user-data-dir={profile}"),
            "--remote-debugging-pipe",
        )
        # The protocol is at descriptors 3 and 4.
        command = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'
        process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *options],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        try:
            yield Browser(process, to, back)
        finally:
            process.terminate()
            process.wait(timeout=_PATIENCE)
            os.close(to)
            os.close(back)
