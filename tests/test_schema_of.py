"""How docs/schema.json is made from annotations."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from sharpcli.documents.fields import Number, absent
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.fields import Keywords

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
from schema_of import Maker  # noqa: E402 (a module beside the pages)

sys.path.remove(str(DOCS))


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (float | None, {"type": ["number", "null"]}),
        (Colour, {"enum": ["red", "blue"]}),
        (Colour | None, {"enum": ["red", "blue", None]}),
        (Literal[1, 2], {"enum": [1, 2]}),
        (Path | str, {"type": "string"}),
        (str | float | None, {"type": ["string", "number", "null"]}),
        (Mapping[str, Any], {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Sequence[bool], {"type": "array", "items": {"type": "boolean"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (
            tuple[float, float],
            {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        ),
        (
            Annotated[int, "How many.", Keywords(minimum=1)],
            {"description": "How many.", "type": "integer", "minimum": 1},
        ),
        (Scalar, {"$ref": "#/$defs/scalar"}),
        (Scalar | None, {"anyOf": [{"$ref": "#/$defs/scalar"}, {"type": "null"}]}),
    ],
)
def test_types(annotation, expected):
    assert Maker().of(annotation) == expected


@dataclass(frozen=True)
class Part:
    """A part.

    More about it.
    """

    colour: Annotated[Colour, "Its colour."] = Colour.RED
    share: Annotated[Number | None, "Its share.", Keywords(minimum=0)] = absent()
    named: Annotated[str | None, "Its name.", Keywords(later=True)] = None


def test_a_field_is_required_unless_its_key_may_be_absent():
    assert Maker().object_of(Part) == {
        "description": "A part.",
        "type": "object",
        "properties": {
            "colour": {"description": "Its colour.", "enum": ["red", "blue"]},
            "share": {"description": "Its share.", "type": ["number", "null"], "minimum": 0},
            "named": {"description": "Its name.", "type": ["string", "null"]},
        },
        "required": ["colour", "named"],
        "addedLater": ["named"],
        "additionalProperties": False,
    }


@dataclass(frozen=True, kw_only=True)
class Placed(Scalar):
    """A number and its place."""

    place: Annotated[float, "Where."]


def test_what_is_built_on_a_scalar_refers_to_its_fields():
    assert Maker().object_of(Placed) == {
        "description": "A number and its place.",
        "$ref": "#/$defs/scalar_fields",
        "properties": {"place": {"description": "Where.", "type": "number"}},
        "required": ["place"],
        "unevaluatedProperties": False,
    }
