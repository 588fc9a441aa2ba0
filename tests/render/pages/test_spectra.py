"""Spectra in a terminal and as files."""

import copy
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sharpcli.settings.output import FigureSettings
from spectra import document, failed, made_up

from sharpcli.errors import SharpError, UsageError
from sharpcli.render.files.figure import COLORS
from sharpcli.render.files.plotting import draw
from sharpcli.render.files.spectral_figure import spectral_file
from sharpcli.render.pages.spectra import (
    Spectrum,
    binned,
    read_spectra,
    smoothed,
    spectrum_lines,
    spectrum_page,
)

DEFAULT = FigureSettings()
ONE = document(made_up("runs/a.pt"))
TWO = document(made_up("runs/a.pt"), made_up("runs/b.pt", 1.5))


def lines(of, width=80):
    return [line.plain for line in spectrum_lines(of, width)]


def drawn(document, suffix, settings):
    return spectral_file(read_spectra(document), suffix, settings)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_chart_and_table_fit(width):
    found = lines(TWO, width)
    assert max(map(len, found)) <= width
    text = "\n".join(found)
    assert "spectral density" in text
    assert "⠒⠒⠒ a" in text
    assert "⠒ ⠒ b" in text
    assert "the Hessian, 100 × 100" in text


def test_one_alone_shows_where_its_bulk_ends():
    text = "\n".join(lines(ONE))
    assert "bulk edge" in text
    assert "┊" in text
    assert "⠒⠒⠒" not in text


def test_the_table():
    sheet = spectrum_page(TWO).sheets[0]
    cells = {column.header: column.cells for column in sheet.columns}
    assert cells["outliers"] == ["2", "2"]
    assert cells["λ1"] == ["8.0000(1)", "12.0000(1)"] or cells["λ1"][0].startswith("8.000")
    assert set(cells) == {"λ1", "λmin", "bulk edge", "outliers", "⟨λ⟩", "⟨λ²⟩", "⟨λ³⟩", "⟨λ⁴⟩"}


def test_what_did_not_converge_is_marked_and_said():
    coarse = {"status": "max_products", "advice": "raise --steps"}
    result = made_up("a.pt")
    result["smallest"] |= coarse
    result["outliers"] |= coarse
    page = spectrum_page(document(result))
    cells = {column.header: column.cells[0] for column in page.sheets[0].columns}
    assert cells["outliers"] == "2!"
    assert cells["λmin"].endswith("!")
    assert page.footnotes == ["! λmin, outliers of a.pt: raise --steps"]


def test_all_eigenvalues_are_said_to_be():
    context = spectrum_page(document(made_up("a.pt", probes=0, steps=0))).context
    assert "all eigenvalues" in context[1]


def test_only_the_notation_that_is_used_is_explained():
    assert "≤" not in "".join(spectrum_page(ONE).legend)
    bounded = made_up("a.pt")
    bounded["smallest"] |= dict.fromkeys(("status", "error_kind"), "upper_bound")
    legend = spectrum_page(document(bounded)).legend
    assert any(line.startswith("≤0.1: ") for line in legend)
    assert any(line.startswith("12.31(4): ") for line in legend)


def test_the_data_that_were_used_are_said():
    asked = copy.deepcopy(ONE)
    for samples, said in ((48, "a sample of 48 train examples"), (500, "48 train examples")):
        asked["settings"]["run"]["samples"] = samples
        assert f"t.py · {said} · " in spectrum_page(asked).context[0]


def test_a_failed_checkpoint_keeps_its_row_and_the_chart_is_of_the_rest():
    text = "\n".join(lines(document(failed("x.pt"), made_up("a.pt"))))
    assert "failed: is empty" in text
    assert "spectral density" in text
    assert "spectral density" not in "\n".join(lines(document(failed("x.pt"))))


def test_more_than_there_are_colours():
    results = [made_up(f"{name}.pt") for name in "abcdef"]
    text = "\n".join(lines(document(*results)))
    assert "spectral density of the first 4" in text
    for key in ("⠒⠒⠒ a", "⠒ ⠒ b", "⠂⠂⠂ c", "⠒⠒ ⠂ d"):
        assert key in text


def test_bins_hold_the_mass():
    (spectrum,) = read_spectra(ONE)
    assert sum(binned(spectrum, -1, 9, 40)) * 0.25 == pytest.approx(1, rel=0.12)
    fine = binned(spectrum, -1, 9, 1000)
    assert fine[0] == pytest.approx(0.3 / 100 / 0.01)  # below what one eigenvalue makes
    narrow = binned(spectrum, 3.9, 4.1, 1)
    assert narrow[0] * 0.2 == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".npz"])
def test_files_are_the_same_bytes_again(suffix, tmp_path):
    paths = [tmp_path / f"{n}{suffix}" for n in "ab"]
    for path in paths:
        draw(TWO, path)
    first, second = (path.read_bytes() for path in paths)
    assert len(first) > 800
    assert first == second


def test_a_figure_shows_no_comb_of_single_eigenvalues_and_keeps_the_bulk_s_mass():
    size = 1000
    places = [0.0] * 900 + [0.01 * i for i in range(1, 101)]  # sparse beyond the spike at zero
    grid, density = [], []
    for place in sorted({*places}):
        height = places.count(place) / size / 2e-4
        grid += [place - 1e-4, place - 1e-4 + 1e-12, place + 1e-4, place + 1e-4 + 1e-12]
        density += [0.0, height, height, 0.0]
    known = Spectrum("a", size, grid, density, None, [], {})
    ends, heights = smoothed(known, -0.01, 1.01, 500)
    masses = [h * (b - a) for h, (a, b) in zip(heights, pairwise(ends), strict=True)]
    assert sum(masses) == pytest.approx(1, abs=1e-6)
    assert min(masses) * size >= 2.9, "no step is of a single eigenvalue"
    beyond = [h for h, start in zip(heights, ends, strict=False) if start > 0.05]
    assert max(beyond) < 1.5 * min(beyond), "an even density is drawn even"
    assert max(binned(known, -0.01, 1.01, 500)[40:]) > 4 * min(beyond), "plain bins show a comb"


def test_the_figure_names_checkpoints_and_outliers():
    text = drawn(TWO, ".svg", DEFAULT).decode()
    for said in ("a: 2 outliers", "b: 2 outliers", "an outlier, beyond the bulk"):
        assert f"<!-- {said} -->" in text


def test_the_figure_explains_no_triangle_where_there_is_none():
    none = [made_up(f"{name}.pt") for name in "ab"]
    for result in none:
        result["outliers"]["eigenvalues"] = []
    assert "outlier" not in drawn(document(*none), ".svg", DEFAULT).decode()


def test_seven_checkpoints_have_seven_colours():
    results = [made_up(f"{name}.pt") for name in "abcdefg"]
    text = drawn(document(*results), ".svg", DEFAULT).decode().lower()
    assert len(set(COLORS)) == 7
    assert all(f"stroke: {color.lower()}; " in text for color in COLORS[:-1])


def test_the_figure_on_a_linear_scale_and_in_another_width():
    log, linear = (drawn(ONE, ".svg", FigureSettings(scale=s)) for s in ("log", "linear"))
    assert log != linear
    wide = Image.open(io.BytesIO(drawn(ONE, ".png", FigureSettings(width=6))))
    assert wide.size[0] > 1500


def test_the_arrays():
    arrays = np.load(io.BytesIO(drawn(TWO, ".npz", DEFAULT)))
    assert arrays["names"].tolist() == ["a", "b"]
    assert arrays["paths"].tolist() == ["runs/a.pt", "runs/b.pt"]
    assert arrays["1_outliers"].tolist() == [12, 6]
    assert arrays["0_weights"].sum() == pytest.approx(1)
    assert arrays["0_moments"].shape == (4, 2)
    assert len(arrays["0_grid"]) == len(arrays["0_density"])


def test_other_kinds_of_file_are_refused(tmp_path):
    for suffix in (".html", ".vts"):
        with pytest.raises(UsageError, match="a spectrum is not drawn as") as raised:
            draw(ONE, tmp_path / f"a{suffix}")
        assert ".npz" in raised.value.hint


def test_where_every_checkpoint_failed_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(SharpError, match="nothing to draw"):
        draw(document(failed("x.pt")), tmp_path / "a.png")


def test_an_outlier_alone_is_one():
    result = made_up("a.pt")
    result["outliers"]["eigenvalues"].pop()
    text = drawn(document(result), ".svg", DEFAULT).decode()
    assert "<!-- a.pt: 1 outlier -->" in text
    assert math.isfinite(result["outliers"]["value"])
