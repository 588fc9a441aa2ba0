"""What a pickle's classes and objects become where the classes are not read: names and data."""

from __future__ import annotations

from typing import Any

__all__ = ["Global", "Stub", "plain_key", "stand_in"]

_LARGEST_KEY = 2**63
_LONGEST_NAME = 200  # characters of a name with an attribute: `STUB` counts its memory
STUB, ENTRY = 300, 100  # bytes of a stub, and of an entry of a mapping, measured
# functions of pickle and NumPy that make an empty object of the class in their first argument
_MAKERS = (
    *(f"{module}._reconstructor" for module in ("copyreg", "copy_reg")),
    *("copyreg.__newobj__", "copyreg.__newobj_ex__"),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
)


class Global:
    """A class or function that a pickle names, `module.name`; nothing is imported.

    `member` is the last part of the name if it is an attribute of a class, such as the member of an
    enum in files of Python 3.11.
    """

    __slots__ = ("member", "name")

    def __init__(self, name: str, member: str | None = None) -> None:
        self.name, self.member = name, member

    @property
    def owner(self) -> str:
        """The name of the class that has the member, or the name itself."""
        return self.name if self.member is None else self.name.removesuffix(f".{self.member}")


class Stub(dict[Any, Any]):
    """An inert object in the place of one whose class is not read.

    As a mapping it has the object's attributes, or its entries if it is a mapping itself.

    Attributes:
        name: the full name of the class, or of the function that would make the object.
        arguments: what the class or function would be called with.
        members: what would be appended to the object.
        state: what the object would be restored from, if that is not a mapping.
    """

    __slots__ = ("arguments", "members", "name", "state")
    # By identity: objects of a file may hold themselves, and to compare those never ends.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = None

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments
        self.members: list[Any] = []
        self.state: Any = None

    def restore(self, state: Any) -> int:
        """Keep the state of the object, and return the memory for it in bytes.

        Attributes and slots come as two mappings. Entries that are there already stay.
        """
        parts = state if type(state) is tuple and len(state) == 2 else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            self.state = state
            return 0
        count = 0
        for part in parts:
            if part is not None and part is not self:
                count += len(part)
                for key, value in part.items():
                    self.setdefault(key, value)
        return ENTRY * count


def stand_in(name: str, arguments: tuple[Any, ...]) -> Global | Stub:
    """What calling `name` gives: an inert object of that name, or of the class that it would make.

    An attribute of a class, such as a member of an enum, becomes a name too.
    """
    first = arguments[0] if arguments else None
    if isinstance(first, Global):
        if name in _MAKERS:
            return Stub(first.name, arguments[1:])
        attribute = arguments[1] if name == "builtins.getattr" and len(arguments) == 2 else None
        if type(attribute) is str and len(first.name) + len(attribute) < _LONGEST_NAME:
            return Global(f"{first.name}.{attribute}", attribute)
    return Stub(name, arguments)


class _OddKey:
    """Placeholder for a key that is not a plain scalar; its hash could take very long."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def plain_key(key: object) -> object:
    """`key` itself if it is cheap to hash and compare, else a placeholder."""
    if key is None or type(key) in (str, bytes, bool, float):
        return key
    if type(key) is int and abs(key) < _LARGEST_KEY:
        return key
    return _OddKey(key.name if isinstance(key, Stub | Global) else f"a {type(key).__name__}")
