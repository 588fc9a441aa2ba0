"""Ctrl-C, SIGTERM and a terminal that is closed: what is finished is kept, the rest ends at once.

The command line calls `install` first of all, and `begin` once it handles `KeyboardInterrupt`.
Until then each of these signals ends the process at once. From then on it raises
`KeyboardInterrupt` wherever the program is, with two exceptions. In the middle of an import it ends
the process at once, since packages turn the exception into an error of their own. Where something
finished has yet to be printed or written (`deferred`, `hold`) it waits for the next piece of work
(`interruptible`) or for the end; a second signal does not wait. Without `install`, as in a
notebook, nothing here changes what Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

__all__ = [
    "before_leaving",
    "begin",
    "caused",
    "deferred",
    "exit_code",
    "finish",
    "hold",
    "install",
    "interruptible",
    "leave",
    "received",
]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_IMPORTS = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")

_SOON = 0.01  # seconds

_installed = False
_process = 0  # the one that installed: its forks share the handlers, and have nothing to keep
_begun = False
_deferring = False
_finished = False
_waiting = False  # a signal came while deferring, and nothing has ended for it yet
_received: int | None = None
_last_steps: list[Callable[[], None]] = []


def install() -> None:
    """Handle the signals in this process; one that its parent had it ignore stays ignored."""
    global _installed, _process
    if _installed:
        return
    _installed, _process = True, os.getpid()
    for name in _SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.unraisablehook = _send_again_or(sys.unraisablehook)


def begin() -> None:
    """From here on the caller handles `KeyboardInterrupt`."""
    global _begun
    _begun = True


def before_leaving(step: Callable[[], None]) -> None:
    """Have `step` called where the process ends without unwinding."""
    _last_steps.append(step)


def received() -> bool:
    """Whether one of the signals has come."""
    return _received is not None


def exit_code() -> int:
    """What shells give a program that such a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received or int(signal.SIGINT))


def caused(error: BaseException) -> bool:
    """Whether an interrupt was turned into this error by code in between."""
    seen: BaseException | None = error
    for _ in range(100):  # exceptions may refer to each other in a circle
        if seen is None or isinstance(seen, KeyboardInterrupt):
            break
        seen = seen.__cause__ or seen.__context__
    return isinstance(seen, KeyboardInterrupt)


def hold() -> None:
    """From here on there is something to lose: signals wait for `interruptible` or the end."""
    global _deferring
    _deferring = _installed


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait while something finished is written."""
    global _deferring
    before, _deferring = _deferring, _installed
    try:
        yield
    finally:
        _deferring = before
    if not before:
        _end_for_waiting()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end what is in here with `KeyboardInterrupt`, also one that has waited."""
    global _deferring
    before, _deferring = _deferring, False
    try:
        _end_for_waiting()
        yield
    finally:
        _deferring = before


def finish() -> int | None:
    """All is written: signals end the process at once. The exit code of one that waited, or None.

    Whatever ends after this, such as the threads of libraries, is not worth a traceback.
    """
    global _finished
    _finished = True
    return exit_code() if _waiting else None


def leave() -> NoReturn:
    """End the process as interrupted, without unwinding."""
    for step in _last_steps:
        step()
    with contextlib.suppress(OSError):  # stderr is closed: nobody reads it
        os.write(2, b"Interrupted.\n")
    os._exit(exit_code())


def _end_for_waiting() -> None:
    global _waiting
    if _waiting:
        _waiting = False
        raise KeyboardInterrupt


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received, _waiting
    if os.getpid() != _process:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        return
    _received = number
    if _finished:
        os._exit(exit_code())
    if _deferring and not _waiting:
        _waiting = True
        return
    if not _begun or _is_importing(frame):
        leave()
    raise KeyboardInterrupt


def _send_again_or(
    otherwise: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """Python drops what is raised in `__del__` or a weak reference's callback: signal again."""

    def handle(dropped: sys.UnraisableHookArgs) -> None:
        if _received is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
            otherwise(dropped)
            return
        import threading

        # A little later, since what is raised in here is dropped as well.
        again = threading.Timer(_SOON, os.kill, (os.getpid(), _received))
        again.daemon = True
        again.start()

    return handle


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _IMPORTS:
            return True
        frame = frame.f_back
    return False
