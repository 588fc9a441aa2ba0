"""Check a saved result against docs/schema.json, once, when it is read.

`python docs/write_reference.py` writes `schema.json` in this folder, which is docs/schema.json
without its descriptions. JSON Schema cannot require two lists to have the same length;
`lengths` checks that.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from sharpcli.documents.lengths import lengths
from sharpcli.documents.misfit import Misfit, shortened

__all__ = ["problem_of"]

_DEEPEST = 64  # levels of lists and objects; documents have about ten
_LARGEST = int(sys.float_info.max)
_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
Schema = Mapping[str, Any]


def problem_of(document: Any) -> str | None:
    """The first problem, as `results[0].status: expected …, found …`; None for a valid document.

    Unknown keys are allowed.

    Cost: reads every value twice, about 0.5 s for a plane of 201 × 201 points with two splits and
    two metrics.
    """
    misfit = _unreadable(document, 0) or _misfit(_contract(), document)
    misfit = misfit or next(lengths(document), None)
    return None if misfit is None else str(misfit)


@functools.cache
def _contract() -> Schema:
    found: Schema = json.loads(resources.files(__package__).joinpath("schema.json").read_bytes())
    return found


def _named(value: Any) -> str:
    """A value in a message: `null`, `the number 3`, `the text "0.1"`, `a list`."""
    if isinstance(value, Mapping | list):
        return _NAMES["object" if isinstance(value, Mapping) else "array"]
    if isinstance(value, str):
        return f'the text "{shortened(value)}"'
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value:.6g}"


def _unreadable(node: Any, depth: int) -> Misfit | None:
    """A problem if a number does not fit in float64, or lists and objects are nested too deeply."""
    kind = type(node)
    if kind is float or kind is int:
        # The reader turns larger numbers into infinity.
        finite = math.isfinite(node) if kind is float else -_LARGEST <= node <= _LARGEST
        return None if finite else Misfit("expected a number that float64 can hold")
    if kind is not list and kind is not dict:
        return None
    if depth == _DEEPEST:
        return Misfit(f"is more than {_DEEPEST} levels deep")
    for key, value in node.items() if kind is dict else enumerate(node):
        if value is not None and type(value) is not str:
            misfit = _unreadable(value, depth + 1)
            if misfit is not None:
                return misfit.at(key)
    return None


def _misfit(schema: Schema, node: Any) -> Misfit | None:
    """The first problem in `node` by `schema`; None if there is none.

    Only the keywords that docs/schema.json uses are supported. `false`, `not` and other keywords
    that forbid keys are ignored, because later releases may add keys.
    """
    for keyword, check in _KEYWORDS.items():
        if keyword in schema and (misfit := check(schema, node)):
            return misfit
    return None


def _of_reference(schema: Schema, node: Any) -> Misfit | None:
    found: Any = _contract()
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return _misfit(found, node)


def _of_type(schema: Schema, node: Any) -> Misfit | None:
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if any(_is(name, node) for name in names):
        return None
    expected = " or ".join(_NAMES[name] for name in names)
    return Misfit(f"expected {expected}, found {_named(node)}", of_type=expected)


def _is(name: str, node: Any) -> bool:
    if name == "object":
        return isinstance(node, dict)
    if name == "array":
        return isinstance(node, list)
    if name == "string":
        return isinstance(node, str)
    if name == "null":
        return node is None
    if name == "boolean":
        return isinstance(node, bool)
    number = isinstance(node, int | float) and not isinstance(node, bool)
    return number and (name == "number" or float(node).is_integer())


def _of_values(schema: Schema, node: Any) -> Misfit | None:
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    if any(type(value) is type(node) and value == node for value in allowed):
        return None
    values = ", ".join(json.dumps(value, ensure_ascii=False) for value in allowed)
    several = "one of " if len(allowed) > 1 else ""
    return Misfit(f"expected {several}{values}, found {_named(node)}")


def _of_size(keyword: str, wrong: Callable[[Any, Any], bool], said: str) -> Any:
    """The check of a keyword that bounds a number."""

    def check(schema: Schema, node: Any) -> Misfit | None:
        if not isinstance(node, int | float) or not wrong(node, schema[keyword]):
            return None
        return Misfit(f"expected a number {said} {schema[keyword]:g}, found {_named(node)}")

    return check


def _of_count(
    keyword: str,
    kind: type[list[Any]] | type[dict[str, Any]],
    wrong: Callable[[int, int], bool],
    said: str,
) -> Any:
    """The check of a keyword that bounds how many entries a list or an object has."""

    def check(schema: Schema, node: Any) -> Misfit | None:
        if type(node) is not kind or not wrong(len(node), schema[keyword]):
            return None
        return Misfit(f"expected {said} {schema[keyword]} entries, found {len(node)}")

    return check


def _of_pattern(schema: Schema, node: Any) -> Misfit | None:
    if not isinstance(node, str) or re.search(schema["pattern"], node):
        return None
    return Misfit(f"expected a text like {schema['pattern']}, found {_named(node)}")


def _of_required(schema: Schema, node: Any) -> Misfit | None:
    missing = [
        key  # "addedLater" lists keys that documents of earlier releases lack
        for key in (schema["required"] if isinstance(node, dict) else ())
        if key not in node and key not in schema.get("addedLater", ())
    ]
    return Misfit(f'lacks "{missing[0]}"') if missing else None


def _of_properties(schema: Schema, node: Any) -> Misfit | None:
    if not isinstance(node, dict):
        return None
    for key, inner in schema["properties"].items():
        if key in node and isinstance(inner, Mapping) and (misfit := _misfit(inner, node[key])):
            return misfit.at(key)
    return None


def _of_others(schema: Schema, node: Any) -> Misfit | None:
    inner = schema["additionalProperties"]
    if not isinstance(node, dict) or not isinstance(inner, Mapping):
        return None
    known = schema.get("properties", {})
    for key, value in node.items():
        if key not in known and (misfit := _misfit(inner, value)):
            return misfit.at(key)
    return None


def _of_names(schema: Schema, node: Any) -> Misfit | None:
    for key in node if isinstance(node, dict) else ():
        if misfit := _misfit(schema["propertyNames"], key):
            return misfit.at(key)
    return None


def _of_items(schema: Schema, node: Any) -> Misfit | None:
    inner = schema["items"]
    if not isinstance(node, list):
        return None
    if len(inner) == 1 and {*map(type, node)} <= _PLAIN.get(str(inner.get("type")), {None}):
        return None  # curves are most of a document
    for index, value in enumerate(node):
        if misfit := _misfit(inner, value):
            return misfit.at(index)
    return None


def _of_all(schema: Schema, node: Any) -> Misfit | None:
    return next(filter(None, (_misfit(each, node) for each in schema["allOf"])), None)


def _of_any(schema: Schema, node: Any) -> Misfit | None:
    """Treat `oneOf` like `anyOf`, because a later key may make a value match two schemas."""
    choices = schema["anyOf"] if "anyOf" in schema else schema["oneOf"]
    misfits = []
    for choice in choices:
        misfit = _misfit(choice, node)
        if misfit is None:
            return None
        misfits.append(misfit)
    if all(each.of_type and not each.inside for each in misfits):
        expected = " or ".join(str(each.of_type) for each in misfits)
        return Misfit(f"expected {expected}, found {_named(node)}", of_type=expected)
    own = [each for each in misfits if each.inside or not each.of_type]
    return max(own, key=lambda each: len(each.inside))


def _of_condition(schema: Schema, node: Any) -> Misfit | None:
    chosen = "else" if _misfit(schema["if"], node) else "then"
    return _misfit(schema.get(chosen, {}), node)


_PLAIN = {"number": {int, float}, str(["number", "null"]): {int, float, type(None)}}
_KEYWORDS: dict[str, Callable[[Schema, Any], Misfit | None]] = {
    "type": _of_type,
    "$ref": _of_reference,
    "const": _of_values,
    "enum": _of_values,
    "minimum": _of_size("minimum", lambda value, least: value < least, "of at least"),
    "maximum": _of_size("maximum", lambda value, most: value > most, "of at most"),
    "exclusiveMinimum": _of_size("exclusiveMinimum", lambda value, end: value <= end, "above"),
    "minItems": _of_count("minItems", list, lambda count, least: count < least, "at least"),
    "maxItems": _of_count("maxItems", list, lambda count, most: count > most, "at most"),
    "minProperties": _of_count("minProperties", dict, lambda n, least: n < least, "at least"),
    "maxProperties": _of_count("maxProperties", dict, lambda n, most: n > most, "at most"),
    "pattern": _of_pattern,
    "required": _of_required,
    "propertyNames": _of_names,
    "properties": _of_properties,
    "additionalProperties": _of_others,
    "items": _of_items,
    "allOf": _of_all,
    "anyOf": _of_any,
    "oneOf": _of_any,
    "if": _of_condition,
}
