"""The lists that are no results: of `sharp tasks --json` and of `sharp measure --list --json`."""

from __future__ import annotations

from typing import Any

from sharpcli.documents.results import SCHEMA

__all__ = ["LISTS"]

Schema = dict[str, Any]


def _object(description: str, properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _text(description: str, *others: str) -> Schema:
    return {"description": description, "type": ["string", *others] if others else "string"}


def _list(kind: str, description: str, item: Schema) -> Schema:
    return _object(
        description,
        {
            "schema": {"description": "The version of this format.", "const": SCHEMA},
            "kind": {"description": "What the document lists.", "const": kind},
            kind: {"description": "The entries.", "type": "array", "items": item},
        },
    )


_TASK = _object(
    "A built-in task.",
    {
        "name": _text("As in --task."),
        "summary": _text("What it is."),
        "package": _text("The package that it needs; null: none.", "null"),
        "training": {"description": "Settings that train it well.", "type": "object"},
        "options": {
            "description": "What -O takes.",
            "type": "array",
            "items": _object(
                "An option of the task.",
                {
                    "name": _text("As in -O."),
                    "type": _text("The type, or the choices."),
                    "default": {"description": "Its value where none is given."},
                    "required": {"description": "Whether it has no default.", "type": "boolean"},
                },
                ("required",),
            ),
        },
    },
)
_MEASURE = _object(
    "A measure.",
    {
        "name": _text("As in --measure."),
        "key": _text("Its key in `measures` of a result."),
        "default": {
            "description": "Whether it is measured where none is named.",
            "type": "boolean",
        },
        "meaning": _text("What it says."),
        **{
            name: {"description": description, "type": ["string", "null"]}
            for name, description in {
                "formula": "Its definition.",
                "cost": "In gradients or products.",
                "invariances": "What does not move it.",
                "source": "Where it was published.",
                "warns": "What it warns of.",
            }.items()
        },
        "options": {
            "description": "Options of its own.",
            "type": "array",
            "items": _object(
                "An option of the measure.",
                {
                    "name": _text("The long option, with _ for -."),
                    "default": {"description": "Its value where none is given."},
                    "help": _text("What it sets."),
                },
            ),
        },
    },
)
LISTS: dict[str, Schema] = {
    "list_of_tasks": _list("tasks", "What `sharp tasks --json` prints.", _TASK),
    "list_of_measures": _list("measures", "What `sharp measure --list --json` prints.", _MEASURE),
}
