"""The command line's standard streams: closed or full ones, and a startup line on a terminal."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
from typing import Any

from sharpcli.runtime import interruption

__all__ = ["clear_sign", "drop_stdout", "prepare"]

_ERASE = "\r\x1b[K"

_prepared = False
_sign_shown = False


def prepare(sign: str | None = None) -> None:
    """Handle signals and closed streams, and show `sign` on a terminal until there is output."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    interruption.install()
    _open_closed_streams()
    sys.stdout, sys.stderr = _Stdout.around(sys.stdout), _Stderr.around(sys.stderr)
    interruption.before_leaving(clear_sign)
    atexit.register(clear_sign)
    if sign and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        _show_sign(sign)


def clear_sign() -> None:
    """Erase the startup line from the terminal, if it is shown."""
    global _sign_shown
    if _sign_shown:
        _sign_shown = False
        with contextlib.suppress(OSError):
            os.write(2, _ERASE.encode())


def drop_stdout() -> None:
    """Point a failed standard output to the null device, because Python flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_sign(text: str) -> None:
    global _sign_shown
    with contextlib.suppress(OSError, UnicodeError):
        os.write(2, text.encode(sys.stderr.encoding or "ascii"))
        _sign_shown = True


def _open_closed_streams() -> None:
    """Replace streams that the parent process has closed.

    Otherwise the next opened file would get the number of one of them. Standard output is opened
    for reading, so that printing a result there is an error instead of losing it.
    """
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, flags)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


class _Stdout(io.TextIOWrapper):
    """A standard stream that erases the startup line before it writes."""

    _around: io.TextIOWrapper
    failed = False  # whether a write failed

    @classmethod
    def around(cls, stream: Any) -> Any:
        """A wrapper of `stream` with its encoding, or `stream` itself if it is no ordinary one."""
        if type(stream) is not io.TextIOWrapper:
            return stream
        made = cls(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        made._around = stream  # a collected stream would close the buffer
        return made

    def write(self, text: str) -> int:
        """Erase the startup line and write text."""
        clear_sign()
        try:
            return super().write(text)
        except OSError:
            self.failed = True
            raise

    def flush(self) -> None:
        """Flush and remember a failure, because output larger than the buffer is not retried."""
        try:
            super().flush()
        except OSError:
            self.failed = True
            raise


class _Stderr(_Stdout):
    """Standard error; a failed write of a note does not end the run."""

    def write(self, text: str) -> int:
        """Write text if possible."""
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with contextlib.suppress(OSError):
            super().flush()
