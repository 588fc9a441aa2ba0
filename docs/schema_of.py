"""docs/schema.json from the dataclasses of results and settings.

A field's annotation says what a document holds: the type, and in `Annotated` the description and a
mapping with further keywords of JSON Schema. Two keys of that mapping are for this module: a key
that is `optional` may be missing, and documents of earlier releases lack one that is `later`.
What only makes sense across fields is in `_ACROSS`.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import schema_shapes
from schema_lists import LISTS
from schema_shapes import (
    Agreement,
    CompareSettings,
    Correlation,
    Environment,
    Group,
    Measures,
    SweepSettings,
    Task,
)
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.curvature import SpectrumSettings
from sharpcli.settings.exploring import InterpolateSettings, LandscapeSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.schedule import ScheduleSettings
from sharpcli.settings.search import SearchSettings

from sharpcli.documents import grids, results
from sharpcli.documents.checkpoints import Inspected, TrainedResult
from sharpcli.documents.decision import Decision
from sharpcli.documents.grids import Explored, Interpolated
from sharpcli.documents.pairing import Pair
from sharpcli.documents.reproductions import ClaimResult, Figure, ListedExperiment, Reproduced
from sharpcli.documents.results import (
    SCHEMA,
    CheckpointResult,
    FailedResult,
    MeasuredCheckpoint,
    Report,
)
from sharpcli.documents.schedules import ListedPolicy, Scheduled
from sharpcli.documents.searches import Trial
from sharpcli.documents.spectra import Spectrum
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.documents.sweeps import SweptRun
from sharpcli.runs.direction_kinds import DIRECTION_KINDS

__all__ = ["Maker", "contract"]

Schema = dict[str, Any]


def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What documents of one kind hold.

    `results` are the classes of a result: that of success, and that of failure where it differs.
    `settings` are annotations by name. There is one result where it is `alone`; where results are
    `complete`, one that is "ok" has all its keys.
    """

    results: tuple[type, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_a_task: bool = False
    alone: bool = False
    complete: bool = False


_ONE_SPLIT = Annotated[
    RunSettings,
    "On which data, in which arithmetic and where.",
    {
        "properties": {
            "split": {"description": "The data that is measured on.", "enum": ["train", "test"]}
        }
    },
]
_SPECTRUM = Annotated[SpectrumSettings, "How finely and how surely."]
_KINDS = {
    "measure": _Kind((CheckpointResult,), {"run": _ONE_SPLIT}, on_a_task=True),
    "compare": _Kind((Group,), _hints(CompareSettings)),
    "inspect": _Kind((Inspected, FailedResult)),
    "train": _Kind((TrainedResult, FailedResult)),
    "schedule": _Kind((Scheduled,), _hints(ScheduleSettings)),
    "policies": _Kind((ListedPolicy,)),
    "sweep": _Kind((SweptRun,), _hints(SweepSettings)),
    "reproduce": _Kind((ClaimResult,), {"experiment": Reproduced}),
    "experiments": _Kind((ListedExperiment,)),
    "search": _Kind((Trial,), _hints(SearchSettings)),
    "interpolate": _Kind(
        (Interpolated,),
        {"run": RunSettings, **_hints(InterpolateSettings)},
        on_a_task=True,
        alone=True,
    ),
    "landscape": _Kind(
        (Explored,), {"run": RunSettings, **_hints(LandscapeSettings)}, on_a_task=True, alone=True
    ),
    "spectrum": _Kind(
        (Spectrum, FailedResult),
        {"run": _ONE_SPLIT, "spectrum": _SPECTRUM},
        on_a_task=True,
        complete=True,
    ),
}

_PLACED = {"oneOf": [{"required": ["alpha"]}, {"required": ["t"]}]}
_VALUED = {"type": "object", "required": ["value"]}
_ACROSS: dict[str, Schema] = {
    "scalar_fields": {
        "if": {"properties": {"value": {"type": "null"}}},
        "then": {"properties": {"status": {"enum": [*NOT_CONVERGED]}}},
    },
    "rise": _PLACED,
    "barrier": _PLACED,
    "interpolated": {
        "if": {"properties": {"dimensions": {"const": 1}}},
        "then": {"required": ["barrier"], "properties": {"cosine": False}},
        "else": {
            "required": ["cosine"],
            "properties": {"barrier": False, "aligned": False, "path": False},
        },
    },
    "measures": {"additionalProperties": {"$ref": "#/$defs/other_measure"}},
    "environment": {"additionalProperties": True},
}
# Measures of plug-ins, of which only the scalars are known.
_OTHERS: dict[str, Schema] = {
    "other_measure": {
        "description": "A metric or a plug-in's measure: a scalar, or scalars by name or in a "
        "list.",
        "type": ["object", "array"],
        "if": _VALUED,
        "then": {"$ref": "#/$defs/scalar_fields"},
        "additionalProperties": {"$ref": "#/$defs/other_value"},
        "items": {"$ref": "#/$defs/other_value"},
    },
    "other_value": {
        "description": "Anything inside another measure; what has a value is a scalar.",
        "if": _VALUED,
        "then": {"$ref": "#/$defs/scalar_fields"},
    },
    "direction_kind": {
        "description": "; ".join(f"{k.name}: {k.meaning}" for k in DIRECTION_KINDS.values()) + ".",
        "enum": [*DIRECTION_KINDS],
    },
}
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    Path: {"type": "string"},
    float: {"type": "number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def contract() -> Schema:
    """The whole schema."""
    maker = Maker()
    fields = maker.object_of(Report)["properties"]
    task: Any = [maker.of(Task), {"type": "object", "maxProperties": 0}]
    for cls in (Measures, MeasuredCheckpoint, Scalar):
        maker.of(cls)
    conditions = [maker.of_kind(name, kind) for name, kind in _KINDS.items()]
    properties = {
        "schema": {"description": "The version of this format.", "const": SCHEMA},
        **fields,
        "kind": {"description": fields["kind"]["description"], "enum": [*_KINDS]},
        "environment": maker.of(Environment),
        "task": {
            "description": "The model and the data, empty where the command needs none.",
            "anyOf": task,
        },
        "correlations": {**fields["correlations"], "items": maker.of(Correlation)},
        "agreement": maker.of(Agreement),
        "decision": {**fields["decision"], **maker.of(Decision)},
        "pairs": {**fields["pairs"], "items": maker.of(Pair)},
        "figures": {**fields["figures"], "items": maker.of(Figure)},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:sharpcli:1",
        "title": SCHEMA,
        "description": "What `sharp … --json` writes. Strict JSON: what is not finite is null, and "
        "a status says so. `addedLater` names required keys that documents of earlier releases "
        "lack.",
        "type": "object",
        "required": ["schema", "kind", "settings", "environment", "task", "results"],
        "additionalProperties": False,
        "properties": properties,
        "allOf": conditions,
        "$defs": {**dict(sorted(maker.defs.items())), **_OTHERS, **LISTS},
    }


class Maker:
    """Schemas of annotations; those of classes and of aliases with a description go to `defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}
        self._aliases = {
            _snake(name): alias
            for module in (results, grids, schema_shapes)
            for name, alias in vars(module).items()
            if get_origin(alias) is Annotated
            and any(isinstance(e, str) for e in get_args(alias)[1:])
        }

    def of(self, annotation: Any) -> Schema:
        """The schema of an annotation, by reference where it is a class or an alias."""
        if dataclasses.is_dataclass(annotation):
            return self._reference(_snake(annotation.__name__), annotation, self.object_of)
        for name, alias in self._aliases.items():
            if alias == annotation:
                return self._reference(name, alias, self._of_annotated)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._of_annotated(annotation)
        if origin in (Union, types.UnionType):
            return self._of_union(arguments)
        if origin is Literal:
            return {
                "enum": [each.value if isinstance(each, enum.Enum) else each for each in arguments]
            }
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return {"enum": [each.value for each in annotation]}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            values = self.of(arguments[1])
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if isinstance(origin, type) and issubclass(origin, Sequence):
            items = self.of(arguments[0])
            exact = origin is tuple and ... not in arguments
            count = {"minItems": len(arguments), "maxItems": len(arguments)} if exact else {}
            return {"type": "array"} | ({"items": items} if items else {}) | count
        return dict(_PLAIN[annotation])

    def object_of(self, cls: type) -> Schema:
        """The schema of a dataclass with its properties; one built on `Scalar` refers to it."""
        hints, scalar = _hints(cls), issubclass(cls, Scalar) and cls is not Scalar
        inherited = {field.name for field in dataclasses.fields(Scalar)} if scalar else {}
        properties: Schema = {}
        required, later = [], []
        for field in dataclasses.fields(cls):
            if field.name in inherited:
                continue
            absent, name = "absent" in field.metadata, field.name.rstrip("_")
            found = self.of(_without_none(hints[field.name]) if absent else hints[field.name])
            if not found.pop("optional", absent):
                required.append(name)
            if found.pop("later", False):
                later.append(name)
            properties[name] = found
        return {
            "description": " ".join((cls.__doc__ or "").partition("\n\n")[0].split()),
            **({"$ref": "#/$defs/scalar_fields"} if scalar else {"type": "object"}),
            "properties": properties,
            **({"required": required} if required else {}),
            **({"addedLater": later} if later else {}),
            "unevaluatedProperties" if scalar else "additionalProperties": False,
            **_ACROSS.get(_snake(cls.__name__), {}),
        }

    def of_kind(self, name: str, kind: _Kind) -> Schema:
        """What has to hold where a document is of this kind."""
        result = _snake(kind.results[0].__name__)
        self.defs[result] = self._result_of(kind)
        found: Schema = {}
        if kind.settings:
            properties = {key: self.of(each) for key, each in kind.settings.items()}
            self.defs[f"settings_of_{name}"] = {
                "description": f"Settings of `sharp {name}`.",
                "type": "object",
                "properties": properties,
                "required": [k for k, v in properties.items() if not v.pop("optional", False)],
                **({} if name == "measure" else {"additionalProperties": False}),
            }
            found["settings"] = {"$ref": f"#/$defs/settings_of_{name}"}
        if kind.on_a_task:
            found["task"] = {"$ref": "#/$defs/task"}
        found["results"] = {"items": {"$ref": f"#/$defs/{result}"}}
        if kind.alone:
            found["results"] |= {"minItems": 1, "maxItems": 1}
        if name != "compare":
            found |= {"correlations": False, "agreement": False}
        if name != "measure":
            found["decision"] = False
        if name not in ("measure", "compare"):
            found["pairs"] = False
        if name != "reproduce":
            found["figures"] = False
        if name != "search":
            found["importance"] = False
        return {"if": {"properties": {"kind": {"const": name}}}, "then": {"properties": found}}

    def _result_of(self, kind: _Kind) -> Schema:
        """The schema of a result; of two classes, that of success and failure in one."""
        found = self.object_of(kind.results[0])
        needed = found["required"]
        if len(kind.results) == 2:
            failed = self.object_of(kind.results[1])
            status = Annotated[
                Literal[Outcome.OK, Outcome.FAILED], "failed: only `error` says more."
            ]
            found["properties"] |= {"status": self.of(status)}
            found["properties"] |= {"error": failed["properties"]["error"]}
            found["required"] = ["checkpoint", "status"]
        if "error" in found["properties"]:
            found["if"] = {"properties": {"status": {"const": Outcome.FAILED}}}
            found["then"] = {"required": ["error"]}
            found["else"] = {"not": {"required": ["error"]}}
        if kind.complete:
            found["else"] |= {"required": needed}
        return found

    def _reference(self, name: str, of: Any, make: Any) -> Schema:
        if of is Scalar:  # which others build on: its fields, and alone
            if "scalar" not in self.defs:
                self.defs["scalar"] = {
                    "$ref": "#/$defs/scalar_fields",
                    "unevaluatedProperties": False,
                }
                fields = self.object_of(Scalar) | _ACROSS["scalar_fields"]
                del fields["additionalProperties"]
                self.defs["scalar_fields"] = fields
        elif name not in self.defs:
            self.defs[name] = {}
            self.defs[name] = make(of)
        return {"$ref": f"#/$defs/{name}"}

    def _of_annotated(self, annotation: Any) -> Schema:
        base, *extras = get_args(annotation)
        texts = [extra for extra in extras if isinstance(extra, str)]
        keywords: Schema = {}
        for extra in extras:
            keywords |= extra if isinstance(extra, dict) else {}
        own = {"$ref", "type", "enum"} & {*keywords}
        found = {} if own else self.of(base)
        return ({"description": texts[-1]} if texts else {}) | found | keywords

    def _of_union(self, arguments: Sequence[Any]) -> Schema:
        others = [each for each in arguments if each is not type(None)]
        found = [self.of(each) for each in others]
        names = list(dict.fromkeys(each.get("type") for each in found))
        if len(found) > 1 and all(len(each) == 1 for each in found) and None not in names:
            found = [{"type": names if len(names) > 1 else names[0]}]
        if len(others) == len(arguments):
            return found[0] if len(found) == 1 else {"anyOf": found}
        if len(found) > 1 or "$ref" in found[0]:
            return {"anyOf": [*found, {"type": "null"}]}
        (one,) = found
        if "enum" in one:
            return one | {"enum": [*one["enum"], None]}
        types_ = one["type"] if isinstance(one["type"], list) else [one["type"]]
        return one | {"type": [*types_, "null"]}


def _without_none(annotation: Any) -> Any:
    """An annotation that may be None, without that: the key is absent then."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_without_none(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(each for each in arguments if each is not type(None))]  # noqa: UP007
    return annotation


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
