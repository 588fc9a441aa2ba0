"""What the settings share: JSON Schema keywords, seeds, ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharpcli.errors import UsageError, setting

__all__ = ["OPTIONAL", "SEEDS", "SEEDS_HINT", "SOME", "Keywords", "check_range"]

SEEDS = range(2**32)  # those that NumPy accepts, for tasks that seed it
SEEDS_HINT = f"a seed is 0 to {SEEDS.stop - 1}"


class Keywords(dict[str, Any]):
    """JSON Schema keywords in an annotation; docs/schema.json is generated from them."""

    __hash__ = object.__hash__  # type: ignore[assignment]


SOME = Keywords(minimum=1)
OPTIONAL = Keywords(optional=True)  # documents of earlier releases lack it


def check_range(settings: object, name: str, holds: Callable[[Any], bool], hint: str) -> None:
    """Raise `UsageError` where a setting is out of range."""
    value = getattr(settings, name)
    if not holds(value):
        raise UsageError(f"{setting(name, value)}: is out of range", hint)
