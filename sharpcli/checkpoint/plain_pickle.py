"""A pickle reader that makes plain values and nothing else.

A pickle is a program for a small stack machine. Python's machine imports and calls whatever a
pickle names. This one imports nothing and calls only the functions that its caller passes in. Any
object of another class becomes a `Stub`, which has the object's data and no behaviour. Time and
memory grow in proportion to the pickle, whatever it holds.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

from sharpcli.checkpoint.stand_ins import ENTRY, STUB, Global, Stub, plain_key, stand_in
from sharpcli.checkpoint.state_dict import StateDict

__all__ = ["Call", "Global", "PickleError", "Stub", "read_pickle"]

# A function that a pickle may call: its arguments → a value, and the value's size in bytes.
Call = Callable[[tuple[Any, ...]], tuple[Any, int]]

_LONGEST_INT = 32  # bytes; arithmetic on longer ones is slow, and no setting needs it
_LONGEST_NAME = 1000  # characters in the name of a class or a function
_LIST, _MARK, _DEFAULT = 64, 72, 40  # bytes of Python objects
_WIDE = re.compile(rb"[\xc4-\xff]")  # begins a character outside Latin-1 in UTF-8
_CORRUPT = "it breaks off or is corrupt"
_TOO_MANY = "it holds more objects than any checkpoint"
# A tensor takes about twenty operations, a number in a list one. This many take four seconds.
_MOST_OPERATIONS = 4_000_000


class PickleError(ValueError):
    """Why a pickle cannot be read, as text for a message."""


@dataclass
class Unpickled:
    """A value, the offset of its pickle's end, and the bytes of memory left for more objects."""

    value: Any
    end: int
    memory: int


def read_pickle(
    data: bytes | mmap,
    begin: int,
    memory: int,
    calls: Mapping[str, Call],
    persistent: Call,
    imports: dict[str, None],
    operations: int | None = None,
) -> Unpickled:
    """Read the pickle that begins at `begin` in `data`.

    Args:
        data: the bytes that contain the pickle.
        begin: the offset of its first byte.
        memory: the number of bytes that its objects may take.
        calls: the functions that it may call, by their full names.
        persistent: makes a value from the identifier of an object that is stored elsewhere.
        imports: receives every name that the pickle asks for, even if reading fails.
        operations: how many it may have; default, more than any checkpoint has.

    `PickleError` says that the bytes are not a complete pickle, or that its objects would take more
    than `memory`.

    Cost: a microsecond for each operation of the pickle.
    """
    machine = _Machine(data, begin, memory, calls, persistent, imports)
    return machine.run(_MOST_OPERATIONS if operations is None else operations)


@dataclass(eq=False, slots=True)
class _Machine:
    """The stack machine; `_OPERATIONS` maps each opcode to a method."""

    data: bytes | mmap
    position: int
    memory: int
    calls: Mapping[str, Call]
    persistent: Call
    imports: dict[str, None]
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, operations: int) -> Unpickled:
        data = self.data
        try:
            for _ in range(operations):
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    return Unpickled(self.stack.pop(), self.position, self.memory)
                operation, cost = _OPERATIONS[opcode]
                self.memory -= cost
                if self.memory < 0:
                    raise PickleError(_TOO_MANY)
                operation(self)
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            # end of data, empty stack, unknown opcode or memo, or invalid text
            raise PickleError(_CORRUPT) from error
        raise PickleError(_TOO_MANY)

    # --- bytes -----------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise PickleError(_CORRUPT)
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self, encoding: str = "utf-8") -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise PickleError(_CORRUPT)
        taken = self.data[self.position : end]
        self.position = end + 1
        return self.decoded(taken, encoding)

    def decoded(self, raw: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
        """`raw` as text; one character outside Latin-1 can make it four times as large."""
        if 4 * len(raw) > self.memory:
            # old protocols write the bytes of NumPy's arrays as text in Latin-1
            plain = encoding == "utf-8" and (raw.isascii() or not _WIDE.search(raw))
            if not plain or len(raw) > self.memory:
                raise PickleError(_TOO_MANY)
        return raw.decode(encoding, errors)

    def line_number(self) -> int:
        return int(_parsed(int, self.line()[:20]))

    # --- values ----------------------------------------------------------------------------------

    def push_text(self, value: str) -> None:
        self.memory -= sys.getsizeof(value)
        self.stack.append(value)

    def text(self, size: int) -> None:
        self.push_text(self.decoded(self.take(self.number(size)), errors="surrogatepass"))

    def old_text(self, size: int) -> None:
        """Push a string of Python 2, which torch reads as UTF-8."""
        raw = self.take(self.number(size))
        try:
            self.push_text(self.decoded(raw))
        except UnicodeDecodeError:
            self.stack.append(raw)

    def raw_bytes(self, size: int) -> None:
        self.stack.append(self.take(self.number(size)))

    def long(self, size: int) -> None:
        raw = self.take(self.number(size))
        large = len(raw) > _LONGEST_INT
        value = Stub("an integer") if large else int.from_bytes(raw, "little", signed=True)
        self.stack.append(value)

    def decimal(self) -> None:
        line = self.line().removesuffix("L")
        if line in ("00", "01"):
            self.stack.append(line == "01")
        elif len(line) > 2 * _LONGEST_INT:
            self.stack.append(Stub("an integer"))
        else:
            self.stack.append(_parsed(int, line))

    def float_line(self) -> None:
        line = self.line()
        self.stack.append(_parsed(float, line if len(line) <= 2 * _LONGEST_INT else ""))

    # --- containers ------------------------------------------------------------------------------

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        self.memory += _MARK
        return items

    def tuple_of_marked(self) -> None:
        items = self.marked()
        self.memory -= 8 * len(items)
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise PickleError(_CORRUPT)
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def list_of_marked(self) -> None:
        items = self.marked()
        self.memory -= 8 * len(items)
        self.stack.append(items)

    def stub_of_marked(self, name: str) -> None:
        stub = Stub(name)
        stub.members = self.marked()
        self.memory -= 8 * len(stub.members)
        self.stack.append(stub)

    def dict_of_marked(self) -> None:
        items = self.marked()
        self.stack.append({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Stub:
            target = target.members
        if type(target) is not list:
            raise PickleError("it appends to an object that is not a list")
        self.memory -= 9 * len(items)
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if type(table) not in (dict, StateDict, Stub) or len(items) % 2:
            raise PickleError("it sets an entry of an object that is not a mapping")
        self.memory -= ENTRY * (len(items) // 2 + 1)
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[plain_key(key)] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # --- classes and functions -------------------------------------------------------------------

    def name(self, module: str, name: str) -> None:
        if len(name) + len(module) > _LONGEST_NAME:
            raise PickleError("it asks for something without a name")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        self.imports[full] = None
        self.memory -= sys.getsizeof(full)
        self.stack.append(Global(full))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PickleError("it asks for something without a name")
        self.name(module, name)

    def instance(self) -> None:
        module, name = self.line(), self.line()
        items = self.marked()
        self.name(module, name)
        self.stack.append(tuple(items))
        self.call()

    def object_of_marked(self) -> None:
        items = self.marked()
        if not items:
            raise PickleError("it makes an object of no class")
        self.stack += [items[0], tuple(items[1:])]
        self.call()

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) not in (Global, Stub) or type(arguments) is not tuple:
            raise PickleError("it calls an object that is not a function")
        call = self.calls.get(called.name) if type(called) is Global else None
        value, cost = (stand_in(called.name, arguments), STUB) if call is None else call(arguments)
        self.memory -= cost
        self.stack.append(value)

    def call_with_names(self) -> None:
        named = self.stack.pop()
        self.call()
        if type(self.stack[-1]) is Stub:  # no function here takes any
            self.memory -= self.stack[-1].restore(named)

    def build(self) -> None:
        """Set an object's state; stubs keep it, and a state dict the versions of its modules."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Stub:
            self.memory -= target.restore(state)
        elif type(target) is StateDict:
            target.restore(state)

    def extension(self, size: int) -> None:
        """Push the class of a number that the writing program registered."""
        self.stack.append(Global(f"copyreg extension {self.number(size)}"))

    def load_persistent(self, identifier: object) -> None:
        value, cost = self.persistent((identifier,))
        self.memory -= cost
        self.stack.append(value)


def _parsed(kind: type[int] | type[float], text: str) -> int | float:
    try:
        return kind(text)
    except ValueError as error:
        raise PickleError(_CORRUPT) from error


def _push(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make())


_STOP = ord(".")
_Operation = Callable[[_Machine], Any]
# opcode → its method, and the bytes of the objects it makes; opcodes as in pickletools
_OPERATIONS: dict[int, tuple[_Operation, int]] = {
    ord(code): entry
    for code, entry in {
        "\x80": (lambda m: m.take(1), 0),  # PROTO
        "\x95": (lambda m: m.take(8), 0),  # FRAME
        "N": (_push(lambda: None), 8),
        "\x88": (_push(lambda: True), 8),
        "\x89": (_push(lambda: False), 8),
        "I": (_Machine.decimal, _DEFAULT),
        "L": (_Machine.decimal, _DEFAULT),
        "J": (lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)), _DEFAULT),
        "K": (lambda m: m.stack.append(m.number(1)), 8),
        "M": (lambda m: m.stack.append(m.number(2)), _DEFAULT),
        "\x8a": (lambda m: m.long(1), 2 * _DEFAULT),
        "\x8b": (lambda m: m.long(4), 2 * _DEFAULT),
        "F": (_Machine.float_line, _DEFAULT),
        "G": (lambda m: m.stack.extend(struct.unpack(">d", m.take(8))), _DEFAULT),
        "V": (lambda m: m.push_text(m.line("raw-unicode-escape")), 8),
        "S": (lambda m: m.push_text(m.line().strip("'\"")), 8),
        "X": (lambda m: m.text(4), 8),
        "\x8c": (lambda m: m.text(1), 8),
        "\x8d": (lambda m: m.text(8), 8),
        "U": (lambda m: m.old_text(1), 3 * _DEFAULT),
        "T": (lambda m: m.old_text(4), 3 * _DEFAULT),
        "B": (lambda m: m.raw_bytes(4), 2 * _DEFAULT),
        "C": (lambda m: m.raw_bytes(1), 2 * _DEFAULT),
        "\x8e": (lambda m: m.raw_bytes(8), 2 * _DEFAULT),
        "\x96": (lambda m: m.raw_bytes(8), 2 * _DEFAULT),
        "]": (_push(list), _LIST),
        "}": (_push(dict), _LIST),
        ")": (_push(tuple), 8),
        "\x8f": (_push(lambda: Stub("builtins.set")), STUB),
        "(": (_Machine.mark, _MARK),
        "t": (_Machine.tuple_of_marked, 48),
        "\x85": (lambda m: m.tuple_of(1), 56),
        "\x86": (lambda m: m.tuple_of(2), 64),
        "\x87": (lambda m: m.tuple_of(3), 72),
        "l": (_Machine.list_of_marked, _LIST),
        "d": (_Machine.dict_of_marked, _LIST + ENTRY),
        "\x91": (lambda m: m.stub_of_marked("builtins.frozenset"), STUB),
        "a": (lambda m: m.append([m.stack.pop()]), 0),
        "e": (lambda m: m.append(m.marked()), 0),
        "\x90": (lambda m: m.append(m.marked()), 0),
        "s": (lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]), ENTRY),
        "u": (lambda m: m.set_items(m.marked()), ENTRY),
        "p": (lambda m: m.put(m.line_number()), 3 * _DEFAULT),
        "q": (lambda m: m.put(m.number(1)), 2 * _DEFAULT),
        "r": (lambda m: m.put(m.number(4)), 3 * _DEFAULT),
        "\x94": (lambda m: m.put(len(m.memo)), 3 * _DEFAULT),
        "g": (lambda m: m.stack.append(m.memo[m.line_number()]), 8),
        "h": (lambda m: m.stack.append(m.memo[m.number(1)]), 8),
        "j": (lambda m: m.stack.append(m.memo[m.number(4)]), 8),
        "0": (lambda m: m.stack.pop() if m.stack else m.marked(), 0),
        "1": (_Machine.marked, 0),
        "2": (lambda m: m.stack.append(m.stack[-1]), 8),
        "c": (lambda m: m.name(m.line(), m.line()), 2 * _DEFAULT),
        "\x93": (_Machine.stack_global, 2 * _DEFAULT),
        "i": (_Machine.instance, 4 * _DEFAULT),
        "o": (_Machine.object_of_marked, 4 * _DEFAULT),
        "R": (_Machine.call, 0),
        "\x81": (_Machine.call, 0),
        "\x92": (_Machine.call_with_names, 0),
        "b": (_Machine.build, 0),
        "\x82": (lambda m: m.extension(1), 3 * _DEFAULT),
        "\x83": (lambda m: m.extension(2), 3 * _DEFAULT),
        "\x84": (lambda m: m.extension(4), 3 * _DEFAULT),
        "\x97": (_push(lambda: Stub("a buffer that is stored elsewhere")), STUB),
        "\x98": (lambda m: m.take(0), 0),  # READONLY_BUFFER
        "P": (lambda m: m.load_persistent(m.line()), 3 * _DEFAULT),
        "Q": (lambda m: m.load_persistent(m.stack.pop()), 0),
    }.items()
}
