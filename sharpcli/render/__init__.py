"""Render results: `emit` prints or writes a document; `say` prints a message on stderr."""

from sharpcli.render.console import console, error_console, say, say_written
from sharpcli.render.emit import emit, report_problems

__all__ = ["console", "emit", "error_console", "report_problems", "say", "say_written"]
