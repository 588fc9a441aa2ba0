"""A tiny task and search files of it, for the tests of searches."""

from __future__ import annotations

from pathlib import Path

from tiny_sweeps import TASK, checkpoints

__all__ = ["FIVE", "checkpoints", "write"]

FIVE = """
task = "task.py"
trials = 5
options = { width = 3 }
[fixed]
epochs = 2
batch_size = 4
[search]
optimizer = ["sgd", "adam"]
schedule = "EXP({k0}, {gamma})"
k0 = { low = 1e-3, high = 1, scale = "log" }
gamma = { low = 0.9, high = 1.0 }
"""


def write(folder: Path, content: str = FIVE) -> Path:
    """Write the task and a search file; gives the file's path."""
    (folder / "task.py").write_text(TASK, "utf-8")
    file = folder / "search.toml"
    file.write_text(content, "utf-8")
    return file
