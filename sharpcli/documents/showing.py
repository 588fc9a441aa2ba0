"""Results that show themselves in Python: as a table, a figure, a data frame, flat numbers.

Documents know nothing of drawing. The package's face names the module that draws (`shown_by`), and
it is loaded when something is shown for the first time. This module is loaded with the package:
it imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from sharpcli.settings.output import FigureSettings

__all__ = ["Shown", "shown_by"]

_modules: list[str] = []


def shown_by(module: str) -> None:
    """Name the module that shows results."""
    _modules[:] = [module]


class Shown:
    """What a person sees of a result with a document, in a notebook or a terminal."""

    def _document(self) -> dict[str, Any]:
        """The result as JSON document."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The table that a terminal shows, with its failures, warnings and notes."""
        text: str = _shows().text(self._document())
        return text

    def __repr__(self) -> str:
        """One line; `print` shows the table."""
        document = self._document()
        results = f"{len(document['results'])} result{'s'[: len(document['results']) != 1]}"
        return f"<{document['kind']}: {results}; print() shows the table>"

    def _repr_html_(self) -> str:
        """The same as `str`, and the figure of a line, a plane or a spectrum, for a notebook."""
        text: str = _shows().html(self._document())
        return text

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The table in IPython's terminal."""
        printer.text(repr(self) if cycle else str(self))

    def scalars(self, *, errors: bool = False) -> dict[str, float]:
        """The numbers by flat key, such as `hessian.eigenvalues[0]`, for a logger.

        Args:
            errors: also give each number's error, under `KEY.error` and `KEY.sampling_error`.

        Returns:
            The keys of a CSV's columns; with several checkpoints or groups `LABEL/KEY`. NaN for a
            number that is not finite. What failed has no numbers.
        """
        found: dict[str, float] = _shows().scalars(self._document(), errors=errors)
        return found

    def to_dataframe(self) -> DataFrame:
        """The rows of a CSV as a pandas data frame: one for each checkpoint, group or point.

        A `SharpError` says that pandas is not installed.
        """
        frame: DataFrame = _shows().frame(self._document())
        return frame

    def figure(
        self, *, metric: str | None = None, settings: FigureSettings | None = None
    ) -> Figure:
        """The figure that `sharp plot` writes, of matplotlib.

        A `SharpError` says that matplotlib is not installed, or that this result has no figure.

        Args:
            metric: what a line or plane shows in place of all metrics.
            settings: the loss axis and the width in inches.
        """
        drawn: Figure = _shows().figure(self._document(), metric, settings)
        return drawn


def _shows() -> Any:
    from importlib import import_module

    (module,) = _modules
    return import_module(module)
