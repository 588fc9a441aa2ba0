"""Types of the fields of results, with what docs/schema.json says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from sharpcli.settings.fields import Keywords

__all__ = ["Metadata", "Notes", "Number", "Sentences", "Sha256", "absent"]

Number = Annotated[float, Keywords(type=["number", "null"])]  # null if not finite
Sentences = Annotated[
    Sequence[str], "Sentences for the user; absent if there are none.", Keywords(minItems=1)
]
Notes = Annotated[Sequence[str], "Changes made to read it, such as a removed prefix."]
Sha256 = Annotated[str, "SHA-256 of its bytes.", Keywords(pattern="^[0-9a-f]{64}$")]
Metadata = Annotated[
    Mapping[str, str | float | bool | None],
    "How the checkpoint was made, as stored in it; null for a number that is not finite.",
]


def absent(empty: Any = None) -> Any:
    """The default of a field; the document leaves out its key if the value is empty."""
    return field(default=empty, metadata={"absent": True})
