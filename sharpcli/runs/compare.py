"""Compare results, for `sharp compare` and in Python. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpcli.documents import comparison
from sharpcli.documents.reading import SavedResult, load_document
from sharpcli.documents.results import Document, Report, to_document
from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import UsageError
from sharpcli.measures.columns import in_tables, not_scale_invariant, sharper_if_larger

__all__ = ["compare_documents", "compare_results", "keys_of"]


def compare_results(
    results: Sequence[Report | SavedResult | str | Path],
    by: str | Sequence[str] = (),
    baseline: str | None = None,
    *,
    within: str | Sequence[str] = (),
) -> Report:
    """Compare measurements in one report: groups, differences to a baseline, correlations.

    Args:
        results: reports of `measure_checkpoints` or `measure_model`, saved results, or their files.
        by: metadata keys that define the groups.
        baseline: a row's label, a path or `key=value,…`.
        within: metadata keys in which members of two groups match, such as the seed.

    Raises:
        UsageError: a result is no measurement that was made here or saved.

    Other errors are those of `sharpcli.documents.comparison.compare`.
    """
    if isinstance(results, Report | SavedResult | str | Path):
        results = [results]
    documents = []
    for number, each in enumerate(results, 1):
        if isinstance(each, Report):
            documents.append((f"result {number}", to_document(each)))
        elif isinstance(each, SavedResult):
            documents.append((f"result {number}", each.document))
        elif isinstance(each, str | Path):
            documents.append((str(each), load_document(each)))
        else:
            raise UsageError(
                f"result {number} is a {type(each).__name__}",
                "give reports, results of load_result, or paths of saved results",
            )
    keys = (by,) if isinstance(by, str) else by
    matched = (within,) if isinstance(within, str) else within
    return compare_documents(documents, keys, baseline, within=matched)


def compare_documents(
    documents: Sequence[tuple[str, Document]],
    by: Sequence[str] = (),
    baseline: str | None = None,
    *,
    within: Sequence[str] = (),
    drawn: Mapping[str, str] | None = None,
) -> Report:
    """`comparison.compare` with what the registry of measures says of their numbers."""
    keys = keys_of(documents)
    exact = {measure.key: measure.of_data for measure in in_tables(keys) if measure.exact}
    return comparison.compare(
        documents,
        by,
        baseline,
        exact,
        sharper_if_larger(set(keys)),
        within=within,
        rescaled=not_scale_invariant(keys),
        drawn=drawn,
    )


def keys_of(documents: Sequence[tuple[str, Document]]) -> list[str]:
    """The flat keys of all measured numbers."""
    found: dict[str, Any] = {
        key: None
        for _, each in documents
        for result in each["results"]
        for key in flat_scalars(result.get("measures", {}))
    }
    return list(found)
