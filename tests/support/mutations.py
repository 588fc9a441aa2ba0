"""Result documents changed at random, and `sharp compare` and `sharp plot` run on them.

More than half of the changes keep to the contract (hostile texts where there is text, extreme
numbers where there are numbers, keys more), so that they reach what draws and writes; the others
break it.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from click.testing import CliRunner, Result

from sharpcli.cli.main import sharp

TEXTS = (
    "</script><script>document.documentElement.dataset.ran=1</script>",
    '"><img src=x onerror=document.documentElement.dataset.ran=1>',
    "<a href='javascript:document.documentElement.dataset.ran=1'>click</a>",
    "' onmouseover='document.documentElement.dataset.ran=1",
    "]]><svg/onload=document.documentElement.dataset.ran=1>",
    "<!--<script>",
    "$\\frac{$ x^2$",
    "$$",
    "_hidden",
    "[link=file:///etc/passwd]z[/link] [red] [/foo] :bomb:",
    "%{x} %{customdata} {0} {name} %s",
    "a\x1b]0;title\x07\x1b[2J\x9b31m\x7f",
    "\u202egnp.exe \u2066\u2028\u2029\u200b\ufeff",
    "half a \udcff character \ud800",
    "line\nbreak\r\n\ttab\0",
    '=HYPERLINK("http://x","y")',
    "@SUM(1+1)",
    "+1;-2",
    "| a | b |\n|---|---|",
    "![x](http://x) `code` **b** http://x www.x.y",
    "💣 \U0010ffff 日本語 ﷽ e\u0301\u0301\u0301",
    "",
    " ",
    "x" * 3000,
    "../../etc/passwd",
    "-",
)
NUMBERS = (
    *(0, 1, -1, 2, 7, -0.0, 0.5, 1e-8, 1e6, 5e-324, -5e-324, 1e-320, 1e-200, 1e154, 1e200),
    *(1e300, -1e300, 1.7976931348623157e308, -1.7976931348623157e308, 2**53 + 1, 10**18, 10**300),
)
_TOKENS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e400", "9" * 400, "9" * 5000, "1E", "0x1")
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"value": 1}, "0.1", [1, "a"])
_KINDS = (
    *("measure", "compare", "inspect", "train", "schedule", "policies"),
    *("interpolate", "landscape", "spectrum", "tasks"),
)
PLOTS = (".png", ".svg", ".pdf", ".html", ".npz", ".vts")
FORMATS = ("table", "json", "csv", "markdown")

# What the contract leaves no choice about, or another part of the document repeats.
_FIXED = {
    *("schema", "kind", "sha256", "status", "error_kind", "sampling_status", "role", "dimensions"),
    *("shape", "points", "ranges", "dtype", "split", "mode", "normalize", "directions", "device"),
}

Place = tuple[Any, Any]  # a list or an object of a document, and an index or a key in it


def mutated(document: Mapping[str, Any], chance: random.Random) -> bytes:
    """The text of the document after one to four random changes."""
    changed: Any = copy.deepcopy(dict(document))
    gentle = chance.random() < 0.6
    for _ in range(chance.randint(1, 3)):
        (_gently if gentle else _roughly)(changed, chance)
    text = json.dumps(changed)
    if not gentle and chance.random() < 0.2:
        return _torn(text, chance)
    return text.encode("utf-8", "surrogatepass")


def runs(
    path: Path, folder: Path, *, plots: Sequence[str] = PLOTS, formats: Sequence[str] = FORMATS
) -> Iterator[tuple[str, str | None]]:
    """What was run on a saved document, and what is wrong with what it did (None: nothing)."""
    done = run(["compare", str(path)])
    yield "compare", problem(done)
    if done.exit_code == 0:
        for form in formats[1:]:
            done = run(["compare", str(path), "--format", form])
            yield f"compare {form}", problem(done, form)
        done = run(["compare", str(path), "--by", "lr", "--baseline", "lr=0.1"])
        yield "compare --by", problem(done)
    done = run(["plot", str(path)])
    yield "plot", problem(done)
    if done.exit_code != 0:
        return
    for form in formats[1:]:
        done = run(["plot", str(path), "--format", form])
        yield f"plot {form}", problem(done, form)
    for suffix in plots:
        drawn = folder / f"drawn{suffix}"
        drawn.unlink(missing_ok=True)
        done = run(["plot", str(path), "--plot", str(drawn), "--width", "2"])
        yield (
            f"plot {suffix}",
            problem(done) or (_problem_of_file(drawn) if done.exit_code == 0 else None),
        )


def run(arguments: Sequence[str], seconds: float = 10) -> Result:
    """Run `sharp` in this process; warnings are errors, and what takes too long is one."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"{arguments} took more than {seconds} s")

    # In seconds of this process, so that a busy machine is no hang.
    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return CliRunner(env={"COLUMNS": "80"}).invoke(sharp, list(arguments))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def problem(done: Result, form: str = "table") -> str | None:
    """What is wrong with how a run ended: a traceback, no message, or output that is not text."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"{type(done.exception).__name__}: {done.exception}"
    if done.exit_code not in (0, 1, 2):
        return f"exit code {done.exit_code}"
    if done.exit_code and "Error: " not in done.stderr:
        return f"exit code {done.exit_code} without a message"
    for text in (done.stdout, done.stderr):
        if not all(line.isprintable() for line in text.split("\n")):
            return f"characters that are not printable: {ascii(text)[:200]}"
    if done.exit_code == 0 and form == "json":
        json.loads(done.stdout)
    if done.exit_code == 0 and form == "csv":
        return _problem_of_csv(done.stdout)
    return None


def places(node: Any) -> Iterator[Place]:
    """Every place in a document; of a list of numbers only a few."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield node, key
            yield from places(value)
    elif isinstance(node, list):
        plain = len(node) > 3 and not isinstance(node[0], list | dict)
        for index in (0, len(node) // 2, len(node) - 1) if plain else range(len(node)):
            yield node, index
            yield from places(node[index])


def _gently(document: Any, chance: random.Random) -> None:
    """A change that mostly keeps to the contract."""
    found = [place for place in places(document) if place[1] not in _FIXED]
    texts = [(node, key) for node, key in found if isinstance(node[key], str)]
    numbers = [
        (node, key)
        for node, key in found
        if isinstance(node[key], int | float) and not isinstance(node[key], bool)
    ]
    choice = chance.random()
    if choice < 0.45 and texts:
        node, key = chance.choice(texts)
        node[key] = chance.choice(TEXTS)
    elif choice < 0.9 and numbers:
        node, key = chance.choice(numbers)
        if isinstance(node, list) and chance.random() < 0.3:  # a curve that is flat, or steep
            scale = chance.choice((0.0, 1e-300, 1e-9, 1e9, 1e300))
            finite = [x * scale if isinstance(x, int | float) else x for x in node]
            node[:] = [min(x, 1.7e308) if isinstance(x, float) else x for x in finite]
        else:
            node[key] = chance.choice(NUMBERS)
    else:
        named = [node for node, key in found if isinstance(node, dict)]
        chance.choice(named)[chance.choice(TEXTS)] = chance.choice((*NUMBERS, *TEXTS))


def _roughly(document: Any, chance: random.Random) -> None:
    """A change that mostly breaks it."""
    node, key = chance.choice([*places(document)])
    choice = chance.randrange(9)
    if choice == 0:
        del node[key]
    elif choice == 1:
        node[key] = chance.choice((*_OTHERS, *TEXTS, *NUMBERS))
    elif choice == 2:
        node[key] = [node[key]]
    elif choice == 3 and isinstance(node[key], list) and node[key]:
        node[key] = node[key][: chance.randrange(len(node[key]))]
    elif choice == 4 and isinstance(node[key], list):
        node[key] = node[key] * chance.choice((2, 50))
    elif choice == 5 and isinstance(node, dict):
        node[chance.choice(TEXTS)] = node.pop(key)
    elif choice == 6:
        deep: Any = node[key]
        for _ in range(chance.choice((3, 60, 200))):
            deep = [deep]
        node[key] = deep
    elif choice == 7:
        document["kind"] = chance.choice(_KINDS)
    else:
        other, place = chance.choice([*places(document)])
        node[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(node[key])


def _torn(text: str, chance: random.Random) -> bytes:
    """The text with a token that is no number, a key twice, bytes that are none, or cut short."""
    choice = chance.randrange(6)
    if choice == 0:
        numbers = [i for i, c in enumerate(text) if c.isdigit() and text[i - 1] in " [:"]
        at = chance.choice(numbers) if numbers else 0
        return (text[:at] + chance.choice(_TOKENS) + text[at:]).encode()
    if choice == 1:
        return text.replace("{", '{"a": 1, "a": 2, ', 1).encode()
    if choice == 2:
        return text[: chance.randrange(len(text))].encode()
    if choice == 3:
        return text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")), "surrogatepass")
    data = bytearray(text.encode())
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data) if choice == 4 else bytes(chance.randrange(256) for _ in range(500))


def _problem_of_csv(text: str) -> str | None:
    rows = list(csv.reader(io.StringIO(text)))
    if len({len(row) for row in rows}) > 1:
        return "rows of several lengths"
    for cell in (cell for row in rows for cell in row):
        if cell.lstrip()[:1] in ("=", "@") or (cell[:1] in ("+", "-") and not _is_number(cell)):
            return f"a formula: {cell!r}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _problem_of_file(path: Path) -> str | None:
    if not path.exists() or not path.stat().st_size:
        return "nothing was written"
    if path.suffix in (".svg", ".vts"):
        ElementTree.parse(path)
    return None
