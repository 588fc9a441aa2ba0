"""Reading TOML files that people write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sharpcli.errors import UsageError

__all__ = ["read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises `UsageError` for what is none, or cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}", "correct the line") from error
    except RecursionError as error:
        raise UsageError(
            f"{path}: its lists or tables are nested too deeply to be read",
            "its values are names, numbers, and lists of them",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{path}: cannot be read: {reason}", "name a TOML file in UTF-8 that you may read"
        ) from error
