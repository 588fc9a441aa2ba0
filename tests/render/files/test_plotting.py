"""What is checked before a result is computed, and files that are written whole or not at all."""

import sys
from pathlib import Path

import pytest
import scenes
from sharpcli.settings.output import OutputSettings

from sharpcli.errors import SharpError, UsageError
from sharpcli.render import emit
from sharpcli.render.files.plotting import check_plot, draw, narrowed
from sharpcli.render.kinds import FIGURES

STARTS = {
    ".png": b"\x89PNG",
    ".svg": b"<?xml",
    ".pdf": b"%PDF",
    ".gif": b"GIF8",
    ".html": b"<!doctype html>",
    ".npz": b"PK",
    ".vts": b"<?xml",
}


@pytest.mark.parametrize("suffix", STARTS)
def test_the_suffix_says_the_kind(tmp_path, suffix):
    path = tmp_path / f"line{suffix.upper()}"
    draw(scenes.line(4), path)
    assert path.read_bytes().startswith(STARTS[suffix])


@pytest.mark.parametrize(("name", "said"), [("a.jpg", "'.jpg' is no kind"), ("a", "has no suffix")])
def test_an_unknown_suffix_lists_those_there_are(tmp_path, name, said):
    with pytest.raises(UsageError, match=said) as error:
        check_plot(tmp_path / name)
    for suffix in FIGURES:
        assert suffix in str(error.value.hint)


def test_the_legacy_format_says_what_replaced_it(tmp_path):
    with pytest.raises(UsageError, match=r"'\.vtk' is no kind of figure") as error:
        check_plot(tmp_path / "a.vtk")
    assert error.value.hint == "use .vts"


def test_a_folder_that_is_missing_or_closed_is_named(tmp_path, monkeypatch):
    with pytest.raises(SharpError, match=r"there is no folder .*nowhere"):
        check_plot(tmp_path / "nowhere" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SharpError, match=r'folder\.png": it is a folder'):
        check_plot(tmp_path / "folder.png")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SharpError, match="is not writable"):
        check_plot(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("suffix", "library", "extra"), [(".pdf", "matplotlib", "plot"), (".html", "plotly", "html")]
)
def test_a_missing_library_says_how_to_get_it(tmp_path, monkeypatch, suffix, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SharpError, match=f"{library} is not installed") as error:
        check_plot(tmp_path / f"a{suffix}")
    assert error.value.hint == f"pip install 'sharpcli[{extra}]'"
    check_plot(tmp_path / "a.npz")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SharpError, match=r"a\.npz: cannot be written: No space left"):
        draw(scenes.line(4), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_is_printed_and_then_drawn(tmp_path, capsys):
    paths = (tmp_path / "a.npz", tmp_path / "a.vts")
    emit(scenes.line(4), OutputSettings("json", plot=paths))
    assert '"kind": "interpolate"' in capsys.readouterr().out
    assert all(path.exists() for path in paths)


def test_an_interrupted_result_is_not_drawn_by_itself(tmp_path, capsys):
    document = scenes.line(4)
    document["results"][0]["status"] = "interrupted"
    emit(document, OutputSettings("json", plot=(tmp_path / "a.npz",)))
    assert not (tmp_path / "a.npz").exists()
    draw(document, tmp_path / "a.npz")


def test_narrowing_keeps_one_split_and_the_loss_beside_one_metric():
    document = scenes.line(4, aligned=scenes.aligned(4), path=scenes.bezier(4))
    for curves in document["results"][0]["curves"].values():
        curves["top5"] = [1.0] * 4
    (kept,) = narrowed(document, "test", "top5")["results"]
    assert list(kept["curves"]) == list(kept["barrier"]) == ["test"]
    assert list(kept["curves"]["test"]) == ["loss", "top5"]
    assert list(kept["aligned"]["curves"]) == list(kept["path"]["barrier"]) == ["test"]
    assert narrowed(document, None, None) == document
    assert len(document["results"][0]["curves"]) == 2, "the document itself stays"


@pytest.mark.parametrize(
    ("split", "metric", "said", "hint"),
    [
        (None, "acuracy", 'metric="acuracy": was not measured', "did you mean 'accuracy'?"),
        ("test", None, 'split="test": was not measured', "there are: train"),
    ],
)
def test_what_was_not_measured_is_refused(split, metric, said, hint):
    document = scenes.random_line(4) if split else scenes.line(4)
    with pytest.raises(UsageError, match=said) as error:
        narrowed(document, split, metric)
    assert error.value.hint == hint
