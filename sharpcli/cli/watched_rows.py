"""The row that `sharp measure --watch` prints on stderr for each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sharpcli.documents.scalars import flat_scalars
from sharpcli.measures.columns import column_titles
from sharpcli.render import error_console
from sharpcli.render.numbers import format_cells
from sharpcli.runtime.text import visible, visible_lines

if TYPE_CHECKING:
    from sharpcli.documents.results import CheckpointResult

__all__ = ["row_of", "rows_on_stderr"]


def rows_on_stderr(*, quiet: bool) -> Callable[[CheckpointResult], None]:
    """A function that prints a result's row; nothing if `quiet`."""

    def told(result: CheckpointResult) -> None:
        if not quiet:
            error_console().print(visible_lines(row_of(result)))

    return told


def row_of(result: CheckpointResult) -> str:
    """`step-40: train 0.4727, gap 0.02, λ1 12.31(4)`, or why there are no numbers."""
    name = visible(str(result.checkpoint["path"]).rpartition("/")[2])
    if result.error is not None:
        return f"{name}: failed: {visible(result.error.message)}"
    scalars = flat_scalars(result.measures)
    cells = {
        title: format_cells([scalars], key)[0] for key, title in column_titles(scalars).items()
    }
    return f"{name}: {', '.join(f'{title} {cell}' for title, cell in cells.items())}"
