"""Handle Ctrl-C, SIGTERM and a closed terminal: keep finished results, stop everything else.

The command line calls `install` first, and `begin` once it handles `KeyboardInterrupt`. Before
`begin`, each of these signals ends the process at once. After it, a signal raises
`KeyboardInterrupt` wherever the program is, with two exceptions. During an import it ends the
process at once, because packages turn the exception into an error of their own. While a finished
result has yet to be printed or written (`deferred`, `hold`), it waits for the next piece of work
(`interruptible`) or for the end; a second signal does not wait. Without `install`, as in a
notebook, Ctrl-C behaves as usual.
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
_process = 0  # the process that installed; its forks share the handlers but keep no results
_begun = False
_deferring = False
_holding = False  # `hold` was called
_finished = False
_waiting = False  # a signal came while deferring and has not been acted on yet
_received: int | None = None
_last_steps: list[Callable[[], None]] = []


def install() -> None:
    """Handle the signals in this process; signals that its parent ignores stay ignored."""
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
    """Raise `KeyboardInterrupt` from now on; the caller handles it."""
    global _begun
    _begun = True


def before_leaving(step: Callable[[], None]) -> None:
    """Call `step` before the process ends without unwinding."""
    _last_steps.append(step)


def received() -> bool:
    """Whether one of the signals has arrived."""
    return _received is not None


def exit_code() -> int:
    """The exit code that shells use for such a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received or int(signal.SIGINT))


def caused(error: BaseException) -> bool:
    """Whether code in between turned an interrupt into this error."""
    seen: BaseException | None = error
    for _ in range(100):  # exceptions may refer to each other in a circle
        if seen is None or isinstance(seen, KeyboardInterrupt):
            break
        seen = seen.__cause__ or seen.__context__
    return isinstance(seen, KeyboardInterrupt)


def hold() -> None:
    """From now on there is a result to lose: signals wait for `interruptible` or the end.

    Within `interruptible` this also ends the part that signals may end.
    """
    global _deferring, _holding
    _deferring = _holding = _installed


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Make signals wait while a finished result is written."""
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
    """Let signals, also a waiting one, end this block with `KeyboardInterrupt`."""
    global _deferring
    before, _deferring = _deferring, False
    try:
        _end_for_waiting()
        yield
    finally:
        _deferring = before or _holding


def finish() -> int | None:
    """Let signals end the process at once; return the exit code of one that waited, else None.

    Everything is written by now, so library threads that are interrupted need no traceback.
    """
    global _finished
    _finished = True
    return exit_code() if _waiting else None


def leave() -> NoReturn:
    """End the process as interrupted, without unwinding."""
    for step in _last_steps:
        step()
    with contextlib.suppress(OSError):  # stderr is closed
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
    """Signal again if Python dropped the exception in `__del__` or a weak reference's callback."""

    def handle(dropped: sys.UnraisableHookArgs) -> None:
        if _received is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
            otherwise(dropped)
            return
        import threading

        # A little later, because an exception raised here would be dropped as well.
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
