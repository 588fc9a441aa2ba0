"""What a file's objects hold: mappings of settings as plain dicts, and what is left aside.

Every function here visits each object once and without recursion: objects of a hostile file may be
nested deeply, and may hold themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from sharpcli.checkpoint.contents import NotPlain
from sharpcli.checkpoint.numpy_values import is_array
from sharpcli.checkpoint.pickled_modules import ModuleState
from sharpcli.checkpoint.pickled_tensors import CLASS
from sharpcli.checkpoint.stand_ins import Global, Stub
from sharpcli.checkpoint.state_dict import StateDict
from sharpcli.runtime.text import visible

__all__ = ["has_tensors", "holds_settings", "is_plain", "left_aside", "numpy_arrays", "settle"]

_MOST_LISTED = 5
_LONGEST_PLACE = 60  # characters of a place that a note shows
_LONGEST_CLASS = 100

# Objects that hold settings and nothing else: their entries are read as those of a dict.
_TABLES = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "addict.addict.Dict",
    "box.box.Box",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "mmengine.config.config.ConfigDict",
    "munch.Munch",
    "yacs.config.CfgNode",
}
# … and those whose entries are under one of their attributes
_CONTENT = {
    "omegaconf.dictconfig.DictConfig": "_content",
    "ml_collections.config_dict.config_dict.ConfigDict": "_fields",
    "collections.UserDict": "data",
}
_LIST_CONFIG = "omegaconf.listconfig.ListConfig"
_LIGHTNING = ("lightning.", "lightning_fabric.", "pytorch_lightning.")
# Names of classes and functions that hold plain values, and need no note.
_PLAIN = (
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "_codecs.encode",
    "torch.serialization._get_layout",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long"),
    *("object", "range", "set", "slice", "str", "tuple", "unicode", "xrange"),
)


def holds_settings(value: object) -> bool:
    """Whether a mapping holds settings and nothing else; an object of an unknown class may not."""
    return not isinstance(value, Stub) or value.name in _TABLES or value.name in _CONTENT


def settle(root: object) -> None:
    """Make the entries of OmegaConf's and similar objects below `root` those of a plain mapping.

    Cost: one visit of each object.
    """
    taken: set[int] = set()
    for each in _visits(root, everything=True):
        value = each.value
        if not isinstance(value, Stub):
            continue
        content = value.get(_CONTENT.get(value.name, ""))
        if isinstance(content, dict) and content is not value and id(content) not in taken:
            taken.add(id(content))  # a hostile file may name it in many objects
            value.clear()
            value.update((key, _of_node(entry, taken)) for key, entry in content.items())
        elif value.name == _LIST_CONFIG and not value.members:
            value.members = _of_list(value, taken)


def _of_node(value: Any, taken: set[int]) -> Any:
    """The value or the list that OmegaConf keeps in one of its objects; any other value as is."""
    value = _of_leaf(value)
    if isinstance(value, Stub) and value.name == _LIST_CONFIG:
        value.members = value.members or _of_list(value, taken)
        return value.members
    return value


def _of_leaf(value: Any) -> Any:
    node = isinstance(value, Stub) and value.name.startswith("omegaconf.")
    return value["_val"] if node and "_val" in value else value


def _of_list(value: Stub, taken: set[int]) -> list[Any]:
    content = value.get("_content")
    if not isinstance(content, list) or id(content) in taken:
        return []
    taken.add(id(content))
    return [_of_leaf(each) for each in content]


def has_tensors(root: object) -> bool:
    """Whether there is a tensor anywhere below `root`; NumPy's arrays do not count."""
    if isinstance(root, Tensor | NotPlain):
        return True
    return any(
        isinstance(each, Tensor | NotPlain)
        for visit in _visits(root, everything=True)
        for _, each in _parts(visit.value, everything=True)
    )


def numpy_arrays(root: object) -> Iterator[tuple[dict[Any, Any], Any, Stub]]:
    """The mappings below `root` that hold NumPy arrays, each with a key and the array."""
    for visit in _visits(root, everything=True):
        if isinstance(visit.value, dict):
            found = [(key, each) for key, each in visit.value.items() if is_array(each)]
            for key, each in found:
                yield visit.value, key, each


def left_aside(root: object) -> str:
    """What is below `root` and is not read: the place and the class of each, as text for a note.

    A class inside of another one is not listed. The text is empty if all is read.
    """
    visits: list[_Visit] = []
    listed: list[str] = []
    count = 0
    for visit in _visits(root, everything=False):
        visits.append(visit)
        if (name := _foreign(visit.value)) is not None:
            count += 1
            if len(listed) < _MOST_LISTED:
                listed.append(f"{_place(visits, visit)} ({visible(_shortened(name))})")
    more = f" and {count - len(listed)} more" if count > len(listed) else ""
    return ", ".join(listed) + more


class _Visit(NamedTuple):
    """An object, its key in the object that holds it, and that one's number."""

    value: Any
    key: Any
    parent: int


def _visits(root: object, *, everything: bool) -> Iterator[_Visit]:
    """Each container and inert object below `root` once, those near the root first.

    With `everything`, also what is inside of objects whose class is left aside.
    """
    first = _Visit(root, None, -1)
    queue, seen = deque([(0, first)]), {id(root)}
    yield first
    number = 0
    while queue:
        parent, visit = queue.popleft()
        for key, value in _parts(visit.value, everything=everything):
            if _is_visited(value) and id(value) not in seen:
                seen.add(id(value))
                number += 1
                found = _Visit(value, key, parent)
                yield found
                queue.append((number, found))


def _is_visited(value: object) -> bool:
    if isinstance(value, Tensor):
        return hasattr(value, CLASS)
    return type(value) in (dict, list, tuple, Stub, Global, ModuleState, StateDict)


def _parts(value: object, *, everything: bool) -> Iterator[tuple[Any, Any]]:
    """What a container or an inert object holds, with keys."""
    if isinstance(value, Stub):
        if not everything and _foreign(value) is not None:
            return
        yield from value.items()
        yield from enumerate(value.members)
        yield from enumerate(value.arguments)
        if value.state is not None:
            yield "state", value.state
    elif isinstance(value, dict):
        yield from value.items()
    elif type(value) in (list, tuple):
        yield from enumerate(value)  # type: ignore[arg-type]


def _foreign(value: object) -> str | None:
    """The class of an object, or the name of a class or function, that a note should show."""
    if not isinstance(value, Stub | Global):
        return getattr(value, CLASS, None) if isinstance(value, Tensor) else None
    name = value.owner if isinstance(value, Global) else value.name
    if " " in name or name in _CONTENT or name.startswith("omegaconf."):
        return None
    if name.startswith(_LIGHTNING) and name.endswith(".AttributeDict"):
        return None
    if is_plain(name):
        return None
    return "numpy.ndarray" if is_array(value) else name


def is_plain(name: str) -> bool:
    """Whether this is a name that files of plain tensors and plain values have."""
    return (
        name in _PLAIN
        or name in _TABLES
        or name.removeprefix("builtins.") in _BUILTINS
        or (name.startswith("torch.") and name.count(".") == 1)
        or name.startswith(
            ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
        )
        or (name.startswith("torch.cuda.") and name.endswith("Storage"))
    )


def _place(visits: list[_Visit], visit: _Visit) -> str:
    """The keys that lead to an object, as in `hyper_parameters.loss`."""
    keys: list[str] = []
    while visit.parent >= 0 and sum(map(len, keys)) < _LONGEST_PLACE:
        keys.append(_shortened(str(visit.key)))
        visit = visits[visit.parent]
    start = "…" if visit.parent >= 0 else ""
    return visible(start + ".".join(reversed(keys))) if keys else "the file"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_CLASS else text[:_LONGEST_CLASS] + "…"
