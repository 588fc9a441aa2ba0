"""The built-in task `text`: next-byte prediction on the documentation that comes with Python.

The text is what Python's `help()` shows of the language reference: the topics of
`pydoc_data.topics`, in UTF-8. A paragraph that several topics share is kept in the first of them,
by name. About a quarter of the text is the test split: which topics those are follows from their
names, so that it is the same in every version of Python. Each topic is cut into windows of
`context` bytes, whose targets are the bytes one place further; what is left at its end is dropped.

The text differs between versions of Python. The option `text` is its fingerprint, so a checkpoint
says which one it was trained on, and data of another one are refused.
"""

from __future__ import annotations

import hashlib
import platform
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "TRAINING", "data", "model"]

SUMMARY = "the language reference that comes with Python, byte by byte, with a small GPT"
PACKAGE = None  # the data are part of Python
TRAINING: Mapping[str, Any] = {"optimizer": "adam", "lr": 0.003, "batch_size": 16}

VOCABULARY = 256
ABSENT = "absent"
# CRC-32 of a topic's name modulo 5: this rest holds 24 % of the text (Python 3.11) to 26 % (3.13).
PARTS, TEST_PART = 5, 2


def topics() -> Mapping[str, bytes]:
    """The text by topic, each paragraph once; empty where this Python comes without it."""
    try:
        from pydoc_data.topics import topics as found
    except ImportError:
        return {}
    seen: set[str] = set()
    kept = {}
    for name in sorted(found):
        paragraphs = []
        for paragraph in found[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        kept[name] = "\n\n".join(paragraphs).encode()
    return kept


def fingerprint(found: Mapping[str, bytes]) -> str:
    """Eight hexadecimal digits of a SHA-256 over the topics."""
    if not found:
        return ABSENT
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:8]


TEXT = fingerprint(topics())


def model(
    layers: int = 2, heads: int = 4, width: int = 64, context: int = 32, dropout: float = 0.0
) -> nn.Module:
    """A GPT of `layers` blocks with `heads` heads: bytes (N, T), T ≤ context → (N, T, 256)."""
    from sharpcli.tasks.networks import check_room, check_sizes, gpt

    sizes = {"layers": layers, "heads": heads, "width": width, "context": context}
    check_sizes("text", sizes)
    if width % heads:
        raise SharpError(
            f"text: width {width} is not a multiple of heads {heads}",
            f"the heads share the width: {setting('options.width', heads * -(-width // heads))}",
        )
    if not 0 <= dropout < 1:
        raise SharpError(
            f"text: dropout {dropout:g} must be 0 or more, below 1", setting("options.dropout", 0.1)
        )
    weights = 12 * layers * width**2 + (VOCABULARY + context) * width
    del sizes["heads"]
    check_room("text", sizes, weights, 8 * layers)
    return gpt(VOCABULARY, context, layers, heads, width, dropout)


def data(
    split: str, context: int = 32, examples: int = 1024, text: str = TEXT
) -> tuple[Tensor, Tensor]:
    """Windows (N, context) of bytes and the bytes that follow each, N at most `examples`.

    If there are more windows, those are taken that lie evenly in the text.

    Raises:
        SharpError: for sizes out of range, and for another Python's text.
    """
    import torch

    from sharpcli.tasks.networks import check_sizes

    check_sizes("text", {"context": context, "examples": examples})
    _check_text(text)
    windows = [
        torch.frombuffer(bytearray(content[start : start + context + 1]), dtype=torch.uint8)
        for name, content in topics().items()
        if (zlib.crc32(name.encode()) % PARTS == TEST_PART) == (split == "test")
        for start in range(0, len(content) - context, context)
    ]
    if not windows:
        raise SharpError(
            f"text: no topic of the {split} split has more than {context} bytes",
            f"take a smaller {setting('options.context')}",
        )
    count = min(examples, len(windows))
    chosen = torch.stack([windows[i * len(windows) // count] for i in range(count)]).long()
    return chosen[:, :-1].contiguous(), chosen[:, 1:].contiguous()


def _check_text(asked: str) -> None:
    """Raise `SharpError` where this Python has not the text with the fingerprint `asked`."""
    version = platform.python_version()
    if TEXT == ABSENT:
        raise SharpError(
            f"text: this Python ({version}) comes without the documentation that it reads, the "
            "module pydoc_data.topics",
            "install Python's standard library as a whole",
        )
    if asked != TEXT:
        raise SharpError(
            f"text: the text with the fingerprint {asked[:16]!r} is not the one of this Python "
            f"({version}), {TEXT}: the documentation differs between versions of Python",
            "use the Python that the checkpoint was trained with, or take the text of this one: "
            f"{setting('options.text', TEXT)}",
        )
