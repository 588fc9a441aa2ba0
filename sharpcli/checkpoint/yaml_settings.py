"""Settings in YAML files that Lightning and Hydra write beside checkpoints, as plain values only.

A tag can name any class of Python. None is made: values with tags are left out. So are aliases,
with which a small file becomes gigabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpcli.checkpoint.contents import listed, regular_size
from sharpcli.errors import SharpError

__all__ = ["INSTALL", "yaml_settings"]

INSTALL = "pip install 'sharpcli[yaml]'"
# Lightning writes its file one level above the folder of the checkpoints, Hydra in a folder .hydra.
_FILES = ("hparams.yaml", ".hydra/config.yaml")
_LARGEST = 2**17  # bytes; PyYAML reads them in about a second, and a configuration has a tenth
_MOST_BRACKETS = 2000  # open ones take PyYAML the square of their number
_LONGEST_NUMBER = 40  # characters; Python takes the square of the length to read an integer
# What PyYAML raises for a value that is not what its tag says, such as `!!bool maybe`.
_NOT_AS_TAGGED = (LookupError, AttributeError)
_TUPLE = "tag:yaml.org,2002:python/tuple"


def yaml_settings(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The mappings in the YAML files of a checkpoint's folder, or of the one above `checkpoints`.

    Args:
        folder: the checkpoint's folder.
        notes: receives a note on a file that is not read, and on what is left out of one.

    Cost: at most a second for each file.
    """
    folders = [folder]
    if folder.name.startswith(("checkpoint", "ckpt", "weights")):
        folders.append(folder.parent)
    for name in _FILES:
        path = next((each / name for each in folders if (each / name).is_file()), None)
        if path is None:
            continue
        try:
            table = _read(path, name, notes)
        except SharpError as error:
            notes.append(f"not read: {error.message}")
            continue
        if table:
            notes.append(f"settings read from '{name}'")
        yield table


def _read(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """The mapping in a YAML file; raises `SharpError` if it is not read."""
    if (size := regular_size(path)) > _LARGEST:
        raise SharpError(
            f"{path}: has {size:,} bytes; settings have at most {_LARGEST:,}", "make it shorter"
        )
    try:
        import yaml
    except ImportError:
        notes.append(f"'{name}' not read: it needs PyYAML ({INSTALL})")
        return {}
    left_out: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
        if content.count(b"[") + content.count(b"{") > _MOST_BRACKETS:
            raise ValueError("it has too many brackets")
        loader = _loader()(content)
        loader.left_out = left_out
        found = loader.get_single_data()
    except (OSError, ValueError, RecursionError, yaml.YAMLError, *_NOT_AS_TAGGED) as error:
        raise SharpError(f"{path}: is not plain YAML: {_said(error)}", "check the file") from error
    if left_out:
        notes.append(f"left out of '{name}': values with {listed(left_out, 3)}")
    return found if isinstance(found, dict) else {}


def _said(error: Exception) -> str:
    return (str(getattr(error, "problem", None) or error).splitlines() or ["?"])[0][:100]


@functools.cache
def _loader() -> Any:
    """A loader of PyYAML that makes texts, numbers, lists and mappings, and nothing else.

    Aliases and values with unknown tags are None, and are noted in its `left_out`.
    """
    import yaml

    def compose_node(loader: Any, parent: Any, index: Any) -> Any:
        if not loader.check_event(yaml.AliasEvent):
            return yaml.SafeLoader.compose_node(loader, parent, index)
        event = loader.get_event()
        loader.left_out["an alias"] = None
        return yaml.ScalarNode("tag:yaml.org,2002:null", "", event.start_mark, event.end_mark)

    def unknown(loader: Any, node: Any) -> None:
        loader.left_out[f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')}"] = None

    def sequence(loader: Any, node: Any) -> Any:
        return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else None

    def number(construct: Any, loader: Any, node: Any) -> Any:
        return construct(loader, node) if len(node.value) <= _LONGEST_NUMBER else None

    plain: Any = type("Plain", (yaml.SafeLoader,), {"compose_node": compose_node})
    plain.add_constructor(None, unknown)
    plain.add_constructor(_TUPLE, sequence)
    for kind in ("int", "float"):
        construct = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
        plain.add_constructor(f"tag:yaml.org,2002:{kind}", functools.partial(number, construct))
    return plain
