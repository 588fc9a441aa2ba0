"""Entry point of the `sharp` script; a signal during its imports ends it quietly."""

from __future__ import annotations

import os
import signal


def _end(number: int, frame: object) -> None:  # noqa: ARG001 (a signal handler's signature)
    try:
        os.write(2, b"Interrupted.\n")
    finally:
        os._exit(128 + number)


# Importing this module starts the program, so it may set handlers. `interruption` replaces them
# later; its own imports take longer than a fast Ctrl-C.
for _name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _end)


def main() -> None:
    """Run `sharp` on the process's arguments."""
    import sys

    from sharpcli.cli.sign_of_life import sign_of_life
    from sharpcli.runtime.streams import prepare

    prepare(sign_of_life(sys.argv[1:]))
    from sharpcli.cli.main import main as run

    run()
