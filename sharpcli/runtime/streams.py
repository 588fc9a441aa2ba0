"""The command line's standard streams: closed and full ones, and a sign of life on a terminal."""

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
    """Take the sign of life off the terminal, if it is there."""
    global _sign_shown
    if _sign_shown:
        _sign_shown = False
        with contextlib.suppress(OSError):
            os.write(2, _ERASE.encode())


def drop_stdout() -> None:
    """Give standard output somewhere to go once it has failed: Python flushes it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_sign(text: str) -> None:
    global _sign_shown
    with contextlib.suppress(OSError, UnicodeError):
        os.write(2, text.encode(sys.stderr.encoding or "ascii"))
        _sign_shown = True


def _open_closed_streams() -> None:
    """Stand in for streams that whoever started this has closed.

    Else the next file that is opened would be taken for one of them. Standard output is opened
    for reading, so that a result printed there is an error and not lost.
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
    """A standard stream before which the sign of life is taken off the terminal."""

    _around: io.TextIOWrapper
    failed = False  # whether something could not be written

    @classmethod
    def around(cls, stream: Any) -> Any:
        """`stream` with its encoding, or itself where it is not an ordinary one."""
        if type(stream) is not io.TextIOWrapper:
            return stream
        made = cls(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        made._around = stream  # which would close the buffer when nothing else holds it
        return made

    def write(self, text: str) -> int:
        """Write text, on a line of its own."""
        clear_sign()
        try:
            return super().write(text)
        except OSError:
            self.failed = True
            raise

    def flush(self) -> None:
        """Flush, and remember a failure: what is larger than the buffer is not tried again."""
        try:
            super().flush()
        except OSError:
            self.failed = True
            raise


class _Stderr(_Stdout):
    """Standard error, where a note that nobody can read ends no run."""

    def write(self, text: str) -> int:
        """Write text where that is possible."""
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush where that is possible."""
        with contextlib.suppress(OSError):
            super().flush()
