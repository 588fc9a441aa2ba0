"""Results that show themselves: text, HTML, flat numbers and figures."""

import builtins
import csv
import importlib.util
import io
import json
import math
import re
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.output import FigureSettings

from sharpcli.documents.reading import SavedResult
from sharpcli.documents.results import CheckpointResult, Failure, Report, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError
from sharpcli.render.files.spreadsheet import result_rows, rows_as_csv


def measured(path, value, **others):
    scalar = Scalar(value, 0.25, "residual", sampling_error=0.5)
    return CheckpointResult(
        {"path": path, "metadata": {}},
        measures={"hessian": {"eigenvalues": [scalar], "products": 7}},
        **others,
    )


def report(*results, **others):
    task = {"name": "task", "options": {}, "fingerprint": None, "examples": {"train": 9}}
    settings = {"run": {"dtype": "float32", "device": "cpu"}, "measure": {}}
    return Report("measure", settings, {"device": "cpu"}, task, results, **others)


def test_printing_shows_the_table_with_its_problems_and_notes():
    failed = CheckpointResult(
        {"path": "b.pt"}, Outcome.FAILED, error=Failure("the tensor 'w' is missing", "see a.pt")
    )
    own = report(measured("a.pt", 2.5, warnings=["a is odd"]), failed, notes=["of nine rows"])
    shown = str(own)
    assert re.search(r"^a +2\.5\(3\)±0\.5$", shown, re.MULTILINE)
    for line in ("warning: a: a is odd", "note: of nine rows", "failed: b.pt: the tensor 'w'"):
        assert line in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert repr(own) == "<measure: 2 results; print() shows the table>"


def test_a_notebook_s_kernel_changes_nothing(monkeypatch):
    """Rich displays by itself where it finds one, in place of the text that it is asked for."""

    class ZMQInteractiveShell:
        pass

    outside = str(report(measured("a.pt", 2.5)))
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert str(report(measured("a.pt", 2.5))) == outside


class Cells(HTMLParser):
    """The text of each cell; fails on what is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_html_has_the_same_cells_and_no_markup_of_others():
    own = report(measured("<script>alert(1)</script>\x1b[31m", 2.5), notes=["<b>bold</b>"])
    page = own._repr_html_()
    assert "<script" not in page
    assert "<b>" not in page
    assert "\x1b" not in page
    read = Cells()
    read.feed(page)
    assert read.open == []
    assert "λ1" in " ".join(read.cells)
    assert any(cell == "2.5(3)±0.5" for cell in read.cells)


def test_ipython_s_terminal_shows_the_table():
    class Printer:
        def text(self, text):
            self.shown = text

    own, printer = report(measured("a.pt", 2.5)), Printer()
    own._repr_pretty_(printer, False)
    assert printer.shown == str(own)


def test_flat_numbers_have_the_keys_of_the_csv():
    own = report(measured("runs/a.pt", 2.5))
    found = own.scalars(errors=True)
    assert found == {
        "hessian.eigenvalues[0]": 2.5,
        "hessian.eigenvalues[0].error": 0.25,
        "hessian.eigenvalues[0].sampling_error": 0.5,
    }
    text = rows_as_csv(result_rows(to_document(own)))
    assert {*found} <= {*next(csv.reader(io.StringIO(text)))}


def test_numbers_of_several_checkpoints_have_their_labels():
    failed = CheckpointResult({"path": "runs/c.pt"}, Outcome.FAILED, error=Failure("no", None))
    own = report(measured("runs/a.pt", 2.5), measured("runs/b.pt", math.nan), failed)
    found = own.scalars()
    assert found["a/hessian.eigenvalues[0]"] == 2.5
    assert math.isnan(found["b/hessian.eigenvalues[0]"])
    assert len(found) == 2


def test_a_saved_result_shows_what_the_fresh_one_did():
    own = report(measured("a.pt", 2.5))
    saved = SavedResult(json.loads(json.dumps(to_document(own))))
    assert str(saved) == str(own)
    assert saved._repr_html_() == own._repr_html_()
    assert saved.scalars() == own.scalars()


def course():
    return report(
        *(
            CheckpointResult(
                {"path": f"step-{step}.pt", "metadata": {"steps": step, "optimizer": "sgd"}},
                measures={"hessian": {"eigenvalues": [Scalar(1.0 + step)]}},
            )
            for step in (1, 2, 3)
        )
    )


def test_a_figure_is_matplotlib_s_and_leaves_its_settings():
    with mpl.rc_context({"font.size": 17}):
        drawn = course().figure(settings=FigureSettings(width=3.3))
        assert mpl.rcParams["font.size"] == 17
    assert isinstance(drawn, Figure)
    assert drawn.get_size_inches()[0] == 3.3
    assert drawn._repr_png_().startswith(b"\x89PNG")
    assert drawn.axes[-1].get_xlabel() == "step"


def test_what_has_no_figure_says_what_has():
    with pytest.raises(SharpError, match="these checkpoints do not say theirs"):
        report(measured("a.pt", 1.0)).figure()


@pytest.mark.parametrize(
    ("library", "work", "extra"),
    [
        ("matplotlib", lambda own: own.figure(), "plot"),
        ("pandas", lambda own: own.to_dataframe(), "notebook"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, library, work, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else find(name)
    )
    with pytest.raises(SharpError, match=f"{library} is not installed") as caught:
        work(course())
    assert caught.value.hint == f"pip install 'sharpcli[{extra}]'"
    assert "<table>" in course()._repr_html_()  # needs neither


def test_a_kind_without_a_table_is_shown_as_json():
    own = Report("claims", {}, {}, {}, [{"claim": 1}])
    assert json.loads(str(own))["kind"] == "claims"
    assert "claims" in own._repr_html_()
