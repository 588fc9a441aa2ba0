"""How tables show the numbers of a result, by flat key (`hessian.eigenvalues[0]`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from sharpcli.documents.labels import clean
from sharpcli.measures import Measure, known_measures
from sharpcli.measures.measure import Column

__all__ = [
    "column_titles",
    "in_tables",
    "key_named",
    "leading_names",
    "not_scale_invariant",
    "sharper_if_larger",
]

# Numbers by split that belong to no measure: metrics of the task, shown by their test value.
_METRICS = (
    Column(r"([^.\[]+)\.test", "{0} test"),
    Column(r"([^.\[]+)\.train", "{0} train", instead="{0}.test"),
    Column(r"[^.\[]+\.gap", None),
)
_PLACE_OF_METRICS = 10


def in_tables(keys: Iterable[str] = ()) -> list[Measure]:
    """The measures in the order of tables: built-in ones and those with numbers among `keys`."""
    known = known_measures(among={_first_part(key) for key in keys}, strict=False)
    return sorted(known.values(), key=lambda measure: measure.place)


def column_titles(keys: Iterable[str]) -> dict[str, str]:
    """The flat keys that a table shows, in order, with the column titles.

    A metric shows only its test value (the training value if there is no other). Numbers that no
    measure describes are all shown.
    """
    present = list(dict.fromkeys(keys))
    owners = {measure.key: measure for measure in in_tables(present)}
    places: dict[str, tuple[int, int]] = {}
    titles: dict[str, str] = {}
    for key in present:
        places[key], column, groups = _described(key, owners)
        if column is None:
            titles[key] = clean(key).replace("_", " ")
        elif column.title is not None and column.instead.format(*groups) not in present:
            titles[key] = column.title.format(*map(clean, groups)).strip()
    return dict(sorted(titles.items(), key=lambda item: places[item[0]]))


def key_named(text: str, keys: Iterable[str]) -> str | None:
    """The flat key that a user names: itself, a column's title, or a measure with its first column.

    None if nothing has that name.
    """
    present = list(dict.fromkeys(keys))
    titles = column_titles(present)
    if text in present:
        return text
    for key, title in titles.items():
        if text in (title, title.replace(" ", "")):
            return key
    wanted = {m.key for m in in_tables(present) if text in (m.name, m.key)}
    return next((key for key in titles if _first_part(key) in wanted), None)


def not_scale_invariant(keys: Iterable[str]) -> dict[str, str]:
    """The titles, by flat key, of shown numbers that change if layers are rescaled."""
    titles = column_titles(keys)
    changing = {m.key for m in in_tables(titles) if m.scale_invariant is False}
    return {key: title for key, title in titles.items() if _first_part(key) in changing}


def leading_names(keys: Collection[str]) -> dict[str, str]:
    """The names, for sentences, of those numbers that determine the sample size."""
    owners = {measure.key: measure for measure in in_tables(keys)}
    found = {key: _described(key, owners)[1:] for key in keys}
    return {
        key: column.leading.format(*groups)
        for key, (column, groups) in found.items()
        if column and column.leading
    }


def sharper_if_larger(keys: Collection[str]) -> dict[str, bool | None]:
    """What a larger value of each number means: sharper, flatter (False), or only higher (None)."""
    owners = {measure.key: measure for measure in in_tables(keys)}
    columns = {key: _described(key, owners)[1] for key in keys}
    return {key: column.larger_is_sharper if column else None for key, column in columns.items()}


def _described(
    key: str, owners: Mapping[str, Measure]
) -> tuple[tuple[int, int], Column | None, tuple[str, ...]]:
    """A number's place in tables, its column if one is declared, and the groups of its key."""
    owner = owners.get(_first_part(key))
    for index, column in enumerate((*(owner.columns if owner else ()), *_METRICS)):
        if match := re.fullmatch(column.keys, key):
            place = (owner.place, index) if owner else (_PLACE_OF_METRICS, 0)
            return place, column, match.groups("")
    return (owner.place if owner else Measure.place, 0), None, ()


def _first_part(key: str) -> str:
    return re.split(r"[.\[]", key, maxsplit=1)[0]
