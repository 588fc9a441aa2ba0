"""Substitutes for characters of charts and tables that an encoding lacks."""

from __future__ import annotations

__all__ = ["plainer"]

_PLAIN = {
    **dict.fromkeys("─", "-"),
    **dict.fromkeys("│┊┃", "|"),
    **dict.fromkeys("└┴┤", "+"),
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True)),
    **dict(zip("░▒▓", ".:+", strict=True)),
    "▀": " ",
    "▼": "v",
    "•": "o",
    "╱": "/",
    "×": "x",
    "·": "*",
    "–": "-",
    "−": "-",
    "…": "...",
    "′": "'",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "α": "a",
    "β": "b",
}
_ROWS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character's dots


def plainer(text: str, encoding: str) -> str:
    """`text` with ASCII for drawing characters that the encoding lacks, and escapes for others."""
    swaps = {}
    for character in set(text):
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            swaps[ord(character)] = _PLAIN.get(character) or _stroke(character)
    return text.translate(swaps).encode(encoding, "backslashreplace").decode(encoding)


def _stroke(character: str) -> str:
    """The ASCII character most like a braille pattern; other characters stay unchanged."""
    bits = ord(character) - 0x2800
    if not 0 < bits <= 0xFF:
        return " " if bits == 0 else character
    left, right = ([r for r, row in enumerate(_ROWS) if bits & row[side]] for side in (0, 1))
    rows = left + right
    if len(rows) == 1:
        return "'..."[rows[0]]
    if max(rows) - min(rows) < 2:
        return "'-_"[round((min(rows) + max(rows)) / 3)]
    if not left or not right or sum(left) * len(right) == sum(right) * len(left):
        return "|"
    return "\\" if sum(left) * len(right) < sum(right) * len(left) else "/"
