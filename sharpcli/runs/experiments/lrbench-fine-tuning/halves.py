"""Next-byte prediction on one half of the topics of the language reference, with a small GPT.

The text is that of the task `text`. Its topics are in the `first` half or the `second` one, which
follows from their names. With the option `text` it is that file, cut in the middle; the last
quarter of each half is the test split.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.tasks.builtin import text as reference


def model(layers: int = 1, heads: int = 4, width: int = 32, context: int = 16) -> nn.Module:
    """A GPT: bytes (N, T) to logits (N, T, 256)."""
    return reference.model(layers, heads, width, context)


def data(
    split: str, context: int = 16, examples: int = 4096, half: str = "first", text: str = ""
) -> tuple[Tensor, Tensor]:
    """Windows (N, context) of bytes and the bytes that follow each, evenly spaced in the text."""
    most = examples if split == "train" else examples // 4
    windows = torch.cat(
        [
            torch.frombuffer(bytearray(each), dtype=torch.uint8).unfold(0, context + 1, context)
            for each in _parts(split, half, text)
            if len(each) > context
        ]
    )
    count = min(most, len(windows))
    some = windows[len(windows) * torch.arange(count) // count].long()
    return some[:, :-1].contiguous(), some[:, 1:].contiguous()


def _parts(split: str, half: str, text: str) -> list[bytes]:
    if text:
        if not Path(text).is_file():
            raise SharpError(f"text: there is no file {text}", "put a text there, such as WikiText")
        content = Path(text).read_bytes()
        middle = len(content) // 2
        content = content[:middle] if half == "first" else content[middle:]
        cut = len(content) * 3 // 4
        return [content[:cut] if split == "train" else content[cut:]]
    kept = []
    for name, content in reference.topics().items():
        code = zlib.crc32(name.encode())
        is_test = code % reference.PARTS == reference.TEST_PART
        is_first = code // reference.PARTS % 2 == 0
        if is_test == (split == "test") and is_first == (half == "first"):
            kept.append(content)
    return kept
