"""Check a saved result against docs/schema.json, once, when it is read.

`python docs/write_reference.py` writes `schema.json` in this folder, which is docs/schema.json
without its descriptions. JSON Schema cannot require two lists to have the same length; `_lengths`
checks that.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from sharpcli.documents.statuses import Outcome
from sharpcli.runtime.text import visible

__all__ = ["problem_of"]

_DEEPEST = 64  # levels of lists and objects; documents have about ten
_LARGEST = int(sys.float_info.max)
_LONGEST = 40  # characters of a text that a message quotes
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


@dataclass
class _Misfit:
    """A problem and its place, as keys and indices from the innermost outwards."""

    message: str
    inside: list[str | int] = field(default_factory=list)
    of_type: str | None = None

    def at(self, key: str | int) -> _Misfit:
        self.inside.append(key)
        return self


def problem_of(document: Any) -> str | None:
    """The first problem, as `results[0].status: expected …, found …`; None for a valid document.

    Unknown keys are allowed.

    Cost: reads every value twice, about 0.5 s for a plane of 201 × 201 points with two splits and
    two metrics.
    """
    misfit = _unreadable(document, 0) or _misfit(_contract(), document)
    misfit = misfit or next(_lengths(document), None)
    if misfit is None:
        return None
    where = "".join(map(_step, reversed(misfit.inside))).removeprefix(".")
    return f"{where or 'the document'}: {misfit.message}"


@functools.cache
def _contract() -> Schema:
    found: Schema = json.loads(resources.files(__package__).joinpath("schema.json").read_bytes())
    return found


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if re.fullmatch(r"\w+", key):
        return f".{_short(key)}"
    return f'["{_short(key)}"]'


def _short(text: str) -> str:
    return visible(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _named(value: Any) -> str:
    """A value in a message: `null`, `the number 3`, `the text "0.1"`, `a list`."""
    if isinstance(value, Mapping | list):
        return _NAMES["object" if isinstance(value, Mapping) else "array"]
    if isinstance(value, str):
        return f'the text "{_short(value)}"'
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value:.6g}"


def _unreadable(node: Any, depth: int) -> _Misfit | None:
    """A problem if a number does not fit in float64, or lists and objects are nested too deeply."""
    kind = type(node)
    if kind is float or kind is int:
        # The reader turns larger numbers into infinity.
        finite = math.isfinite(node) if kind is float else -_LARGEST <= node <= _LARGEST
        return None if finite else _Misfit("expected a number that float64 can hold")
    if kind is not list and kind is not dict:
        return None
    if depth == _DEEPEST:
        return _Misfit(f"is more than {_DEEPEST} levels deep")
    for key, value in node.items() if kind is dict else enumerate(node):
        if value is not None and type(value) is not str:
            misfit = _unreadable(value, depth + 1)
            if misfit is not None:
                return misfit.at(key)
    return None


def _misfit(schema: Schema, node: Any) -> _Misfit | None:
    """The first problem in `node` by `schema`; None if there is none.

    Only the keywords that docs/schema.json uses are supported. `false`, `not` and other keywords
    that forbid keys are ignored, because later releases may add keys.
    """
    for keyword, check in _KEYWORDS.items():
        if keyword in schema and (misfit := check(schema, node)):
            return misfit
    return None


def _of_reference(schema: Schema, node: Any) -> _Misfit | None:
    found: Any = _contract()
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return _misfit(found, node)


def _of_type(schema: Schema, node: Any) -> _Misfit | None:
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if any(_is(name, node) for name in names):
        return None
    expected = " or ".join(_NAMES[name] for name in names)
    return _Misfit(f"expected {expected}, found {_named(node)}", of_type=expected)


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


def _of_values(schema: Schema, node: Any) -> _Misfit | None:
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    if any(type(value) is type(node) and value == node for value in allowed):
        return None
    values = ", ".join(json.dumps(value, ensure_ascii=False) for value in allowed)
    several = "one of " if len(allowed) > 1 else ""
    return _Misfit(f"expected {several}{values}, found {_named(node)}")


def _of_size(keyword: str, wrong: Callable[[Any, Any], bool], said: str) -> Any:
    """The check of a keyword that bounds a number."""

    def check(schema: Schema, node: Any) -> _Misfit | None:
        if not isinstance(node, int | float) or not wrong(node, schema[keyword]):
            return None
        return _Misfit(f"expected a number {said} {schema[keyword]:g}, found {_named(node)}")

    return check


def _of_count(
    keyword: str,
    kind: type[list[Any]] | type[dict[str, Any]],
    wrong: Callable[[int, int], bool],
    said: str,
) -> Any:
    """The check of a keyword that bounds how many entries a list or an object has."""

    def check(schema: Schema, node: Any) -> _Misfit | None:
        if type(node) is not kind or not wrong(len(node), schema[keyword]):
            return None
        return _Misfit(f"expected {said} {schema[keyword]} entries, found {len(node)}")

    return check


def _of_pattern(schema: Schema, node: Any) -> _Misfit | None:
    if not isinstance(node, str) or re.search(schema["pattern"], node):
        return None
    return _Misfit(f"expected a text like {schema['pattern']}, found {_named(node)}")


def _of_required(schema: Schema, node: Any) -> _Misfit | None:
    missing = [
        key  # "addedLater" lists keys that documents of earlier releases lack
        for key in (schema["required"] if isinstance(node, dict) else ())
        if key not in node and key not in schema.get("addedLater", ())
    ]
    return _Misfit(f'lacks "{missing[0]}"') if missing else None


def _of_properties(schema: Schema, node: Any) -> _Misfit | None:
    if not isinstance(node, dict):
        return None
    for key, inner in schema["properties"].items():
        if key in node and isinstance(inner, Mapping) and (misfit := _misfit(inner, node[key])):
            return misfit.at(key)
    return None


def _of_others(schema: Schema, node: Any) -> _Misfit | None:
    inner = schema["additionalProperties"]
    if not isinstance(node, dict) or not isinstance(inner, Mapping):
        return None
    known = schema.get("properties", {})
    for key, value in node.items():
        if key not in known and (misfit := _misfit(inner, value)):
            return misfit.at(key)
    return None


def _of_names(schema: Schema, node: Any) -> _Misfit | None:
    for key in node if isinstance(node, dict) else ():
        if misfit := _misfit(schema["propertyNames"], key):
            return misfit.at(key)
    return None


def _of_items(schema: Schema, node: Any) -> _Misfit | None:
    inner = schema["items"]
    if not isinstance(node, list):
        return None
    if len(inner) == 1 and {*map(type, node)} <= _PLAIN.get(str(inner.get("type")), {None}):
        return None  # curves are most of a document
    for index, value in enumerate(node):
        if misfit := _misfit(inner, value):
            return misfit.at(index)
    return None


def _of_all(schema: Schema, node: Any) -> _Misfit | None:
    return next(filter(None, (_misfit(each, node) for each in schema["allOf"])), None)


def _of_any(schema: Schema, node: Any) -> _Misfit | None:
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
        return _Misfit(f"expected {expected}, found {_named(node)}", of_type=expected)
    own = [each for each in misfits if each.inside or not each.of_type]
    return max(own, key=lambda each: len(each.inside))


def _of_condition(schema: Schema, node: Any) -> _Misfit | None:
    chosen = "else" if _misfit(schema["if"], node) else "then"
    return _misfit(schema.get(chosen, {}), node)


_PLAIN = {"number": {int, float}, str(["number", "null"]): {int, float, type(None)}}
_KEYWORDS: dict[str, Callable[[Schema, Any], _Misfit | None]] = {
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


def _lengths(document: Mapping[str, Any]) -> Iterator[_Misfit]:
    """Problems of lists with different lengths, and of unknown names, in one document."""
    check = {
        "interpolate": _lengths_of_grid,
        "landscape": _lengths_of_grid,
        "schedule": _lengths_of_schedule,
        "spectrum": _lengths_of_spectrum,
        "train": _lengths_of_training,
        "compare": _lengths_of_scores,
    }.get(document["kind"])
    for index, result in enumerate(document["results"] if check else ()):
        for misfit in check(result) if check else ():
            yield misfit.at(index).at("results")


def _lengths_of_grid(result: Mapping[str, Any]) -> Iterator[_Misfit]:
    axes, shape, points = result["axes"], result["shape"], result["coordinates"]
    names = ["alpha", "beta"][: result["dimensions"]]
    if len(names) != result["dimensions"] or [axis["name"] for axis in axes] != names:
        yield _Misfit(f"expected {' and '.join(names)}, as many axes as dimensions").at("axes")
        return
    if len(shape) != len(axes):
        yield _counted(len(axes), "axes", shape).at("shape")
        return
    for index, (axis, count) in enumerate(zip(axes, shape, strict=True)):
        if len(axis["values"]) != count:
            yield _counted(count, "shape", axis["values"]).at("values").at(index).at("axes")
        elif not _increase(axis["values"]):
            yield _Misfit("expected increasing numbers").at("values").at(index).at("axes")
    if len(points) != math.prod(shape):
        yield _counted(math.prod(shape), "shape", points).at("coordinates")
    yield from _places(points, names, "coordinates")
    yield from _curves(result, len(points))
    yield from _barriers(result, "alpha")
    yield from _placed(result["checkpoints"], names, "checkpoints")
    for index, run in enumerate(result.get("trajectories", ())):
        for misfit in _placed(run["points"], names, "points"):
            yield misfit.at(index).at("trajectories")
    if "aligned" in result:
        for misfit in (
            *_curves(result["aligned"], len(points)),
            *_barriers(result["aligned"], "alpha"),
        ):
            yield misfit.at("aligned")
    if "path" in result:
        path = result["path"]
        for misfit in (*_curves(path, len(path["coordinates"])), *_barriers(path, "t")):
            yield misfit.at("path")


def _curves(found: Mapping[str, Any], points: int) -> Iterator[_Misfit]:
    """Problems of curves or errors without one value per point, and of errors without a curve."""
    metrics: dict[str, None] = {}
    for split, curves in found["curves"].items():
        metrics = metrics or dict.fromkeys(curves)
        for name in metrics:
            if name not in curves:
                yield _Misfit(f'lacks "{_short(name)}"').at(split).at("curves")
    for key in ("curves", "sampling_errors"):
        for split, curves in found.get(key, {}).items():
            for name, values in curves.items():
                if len(values) != points:
                    yield _counted(points, "coordinates", values).at(name).at(split).at(key)


def _barriers(found: Mapping[str, Any], place: str) -> Iterator[_Misfit]:
    """Problems of barriers without a curve of their split, or without a place."""
    for split, barrier in found.get("barrier", {}).items():
        if split not in found["curves"]:
            yield _Misfit("expected a curve of this split").at(split).at("barrier")
        if place not in barrier:
            yield _Misfit(f'lacks "{place}"').at(split).at("barrier")
        if place not in barrier["above_mean"]:
            yield _Misfit(f'lacks "{place}"').at("above_mean").at(split).at("barrier")


def _placed(found: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> Any:
    for misfit in _places([each["coordinates"] for each in found], names, ""):
        index = misfit.inside.pop()
        yield misfit.at("coordinates").at(index).at(key)


def _places(found: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> Any:
    """Problems of coordinates that lack one of the axes."""
    for index, place in enumerate(found):
        for name in names:
            if name not in place:
                misfit = _Misfit(f'lacks "{name}"').at(index)
                yield misfit.at(key) if key else misfit


def _lengths_of_spectrum(result: Mapping[str, Any]) -> Iterator[_Misfit]:
    if result["status"] != Outcome.OK:
        return
    for places, values in (("nodes", "weights"), ("grid", "density")):
        if len(result[places]) != len(result[values]):
            yield _counted(len(result[places]), places, result[values]).at(values)
        elif not _increase(result[places], to_a_width=False):
            yield _Misfit("expected increasing numbers").at(places)
    if len(result["grid"]) < 2:
        yield _Misfit(f"expected at least 2 entries, found {len(result['grid'])}").at("grid")


def _lengths_of_schedule(result: Mapping[str, Any]) -> Iterator[_Misfit]:
    steps = len(result["steps"])
    if not steps:
        yield _Misfit("expected at least 1 entries, found 0").at("steps")
    for key in ("lr", "batch_size", "noise_scale"):
        if result[key] is not None and len(result[key]) != steps:
            yield _counted(steps, "steps", result[key]).at(key)


def _lengths_of_training(result: Mapping[str, Any]) -> Iterator[_Misfit]:
    for part in ("curves", "evaluations"):
        for misfit in _like_first(result.get(part, {}), "step"):
            yield misfit.at(part)


def _lengths_of_scores(result: Mapping[str, Any]) -> Iterator[_Misfit]:
    for misfit in _like_first(result.get("scores", {}).get("curve", {}), "steps"):
        yield misfit.at("curve").at("scores")


def _like_first(found: Mapping[str, Any], first: str) -> Iterator[_Misfit]:
    """Problems of lists that do not have the length of one of them; also one level below."""
    for key, value in found.items():
        lists = value.items() if isinstance(value, Mapping) else [(None, value)]
        for name, values in lists:
            if isinstance(values, list) and len(values) != len(found[first]):
                misfit = _counted(len(found[first]), first, values)
                yield (misfit if name is None else misfit.at(name)).at(key)


def _increase(values: Sequence[float], *, to_a_width: bool = True) -> bool:
    """Whether numbers increase; places that a drawing spans also have to have a width."""
    in_order = all(a <= b for a, b in itertools.pairwise(values))
    return in_order and (not to_a_width or len(values) < 2 or values[0] < values[-1])


def _counted(count: int, like: str, found: Sequence[Any]) -> _Misfit:
    return _Misfit(f"expected {count} entries, as {like} says, found {len(found)}")
