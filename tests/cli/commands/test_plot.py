"""`sharp plot`: saved results drawn again, in the terminal and as files, without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scenes
from click.testing import CliRunner

from sharpcli.cli.main import sharp

ROOT = Path(__file__).parents[3]


def plot(*arguments, **options):
    return CliRunner(env={"COLUMNS": "100"}).invoke(
        sharp, ["plot", *map(str, arguments)], **options
    )


@pytest.fixture
def saved(tmp_path):
    def save(document, name="result.json"):
        path = tmp_path / name
        path.write_text(json.dumps(document), "utf-8")
        return path

    return save


def test_a_line_in_the_terminal(saved):
    done = plot(saved(scenes.line()))
    assert done.exit_code == 0, done.output
    assert "≥2.08" in done.stdout
    assert "accuracy" in done.stdout


@pytest.mark.parametrize(
    "document", [scenes.plane(5, 4), scenes.random_line(5), scenes.path_plane(5, 4)]
)
@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_every_kind_in_every_form(saved, document, form):
    done = plot(saved(document), "--format", form)
    assert done.exit_code == 0, done.output
    assert done.stdout


def test_files_in_place_of_the_terminal(saved, tmp_path):
    figure, table = tmp_path / "line.svg", tmp_path / "line.npz"
    done = plot(saved(scenes.line()), "--plot", figure, "--plot", table)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"wrote {figure}\nwrote {table}\n")
    assert figure.stat().st_size > 1000
    assert table.stat().st_size > 1000


def test_files_beside_what_is_asked_for_by_name(saved, tmp_path):
    done = plot(saved(scenes.line(4)), "--json", "--plot", tmp_path / "a.vts")
    assert json.loads(done.stdout)["kind"] == "interpolate"
    assert (tmp_path / "a.vts").exists()


def test_one_split_and_another_metric(saved, tmp_path):
    path = saved(scenes.plane(5, 4))
    done = plot(path, "--split", "test", "--metric", "accuracy", "--json")
    assert list(json.loads(done.stdout)["results"][0]["curves"]) == ["test"]
    done = plot(path, "--split", "test", "--metric", "accuracy")
    assert done.exit_code == 0, done.output
    assert "accuracy test" in done.stdout
    assert "accuracy train" not in done.stdout
    assert "loss test" not in done.stdout.split("checkpoint")[0]
    chosen = ("--split", "test", "--metric", "accuracy", "--width", "3", "--scale", "linear")
    assert plot(path, *chosen, "--plot", tmp_path / "a.png").exit_code == 0


def test_a_pipe():
    done = plot("-", input=json.dumps(scenes.line(4)))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--metric", "acuracy"], 2, "did you mean 'accuracy'?"),
        (["--split", "val"], 2, "'train', 'test'"),
        (["--scale", "lin"], 2, "'auto', 'linear', 'log'"),
        (["--width", "0"], 2, "Invalid value for '--width'"),
        (["--plot", "a.jpg"], 2, "'.jpg' is no kind of figure"),
        (["--plot", "nowhere/a.png"], 1, "there is no folder"),
    ],
)
def test_bad_options(saved, arguments, code, said):
    done = plot(saved(scenes.line(4)), *arguments)
    assert done.exit_code == code
    assert said in done.stderr


def test_a_document_without_a_figure(saved, document, result):
    inspected = {
        **document([]),
        "kind": "inspect",
        "settings": {},
    }
    done = plot(saved(inspected))
    assert done.exit_code == 1
    assert 'result.json: a result of kind "inspect" has no figure' in done.stderr
    assert "interpolate, landscape" in done.stderr


def test_measures_of_one_checkpoint_have_no_figure(saved, document, result):
    done = plot(saved(document([result("a.safetensors")])))
    assert done.exit_code == 1
    assert "result.json: a figure of measures is one over steps" in done.stderr
    assert "two or more checkpoints of one training" in done.stderr


def test_a_damaged_document(saved):
    broken = scenes.line(4)
    broken["results"][0]["curves"]["train"]["loss"].append("much")
    done = plot(saved(broken))
    assert done.exit_code == 1
    where = "result.json: results[0].curves.train.loss[4]"
    assert f'{where}: expected a number or null, found the text "much"' in done.stderr
    assert "Traceback" not in done.output


def test_a_file_that_is_none(tmp_path):
    done = plot(tmp_path / "nothing.json")
    assert done.exit_code == 1
    assert "nothing.json: cannot be read" in done.stderr


@pytest.mark.parametrize("suffix", [None, ".svg", ".html", ".vts"])
def test_no_torch_is_loaded(saved, tmp_path, suffix):
    argv = ["sharp", "plot", str(saved(scenes.plane(4, 4)))]
    argv += ["--plot", str(tmp_path / f"a{suffix}")] if suffix else []
    code = (
        f"import sys; sys.argv = {argv!r}\n"
        "from sharpcli.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    print('LOADED', 'torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "LOADED False False" in done.stdout, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["interpolate", "landscape"])
def test_a_figure_is_checked_before_anything_is_computed(command):
    checkpoints = ["no-a.pt", "no-b.pt"][: 2 if command == "interpolate" else 1]
    done = CliRunner().invoke(sharp, [command, *checkpoints, "--plot", "a.jpg"])
    assert done.exit_code == 2
    assert "'.jpg' is no kind of figure" in done.stderr
    done = CliRunner().invoke(sharp, [command, *checkpoints, "--plot", "nowhere/a.pdf"])
    assert "there is no folder" in done.stderr
