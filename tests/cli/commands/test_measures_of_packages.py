"""Measures that installed packages bring: their options, and packages that are broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from minima import write_minima

ROOT = Path(__file__).parents[3]
SOUND = """
from sharpcli.documents.scalars import Scalar
from sharpcli.measures import Column, Measure, Option

def compute(context):
    return {"scaled": {"loss": Scalar(context.settings.options["factor_of_mine"])}}

MEASURE = Measure(
    "scaled", "a made-up number", "f", "none", "all", "nobody", "nothing", compute, reads=(),
    options=(Option("factor_of_mine", 2.0, "the number"),),
    columns=(Column(r"scaled\\.loss", "SCALED"),),
)
"""


@pytest.fixture
def folder(tmp_path):
    write_minima(tmp_path)
    return tmp_path


def installed(folder, code):
    """Put a package with a measure where Python finds it."""
    site = folder / "site"
    about = site / "mine-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sharpcli.measures]\nscaled = mine:MEASURE\n")
    (site / "mine.py").write_text(code)


def sharp(folder, *words):
    paths = os.pathsep.join([str(ROOT), str(folder / "site")])
    return subprocess.run(
        [sys.executable, "-m", "sharpcli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_option_of_a_package_is_one_of_the_command(folder):
    installed(folder, SOUND)
    measure = ("measure", "sgd.safetensors", "-t", "task.py", "-m", "scaled")
    (folder / "sharp.toml").write_text("factor-of-mine = 3.0\n")
    done = sharp(folder, *measure, "--json", "--output", "r.json")
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "r.json").read_text())
    assert document["settings"]["measure"]["options"] == {"factor_of_mine": 3.0}
    assert document["results"][0]["measures"]["scaled"]["loss"]["value"] == 3.0
    done = sharp(folder, *measure, "--factor-of-mine", "4")
    assert "SCALED" in done.stdout
    assert "4.000" in done.stdout
    assert "--factor-of-mine" in sharp(folder, "measure", "--help").stdout
    assert sharp(folder, "tasks").returncode == 0  # the key is another command's


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import a_module_that_is_not_there", "cannot be imported: ModuleNotFoundError"),
        ("MEASURE = 3", "is not a sharpcli.measures.Measure"),
    ],
)
def test_a_broken_package_is_one_message_and_stops_nothing_else(folder, code, said):
    measure = ("measure", "sgd.safetensors", "-t", "task.py", "-m", "loss")
    assert sharp(folder, *measure, "--json", "--output", "r.json").returncode == 0
    document = json.loads((folder / "r.json").read_text())
    document["results"][0]["measures"]["scaled"] = {
        "value": 1.5,
        "error": None,
        "error_kind": None,
        "status": "converged",
    }
    (folder / "r.json").write_text(json.dumps(document))
    installed(folder, code)
    (folder / "sharp.toml").write_text("epsilon = [0.01]\n")
    done = sharp(folder, *measure)
    assert done.returncode == 1
    assert "Error: the entry point 'scaled' of sharpcli.measures (mine:MEASURE)" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sharp(folder, "measure", "--help").returncode == 0
    assert sharp(folder, "tasks").returncode == 0
    done = sharp(folder, "compare", "r.json")
    assert done.returncode == 0, done.stderr
    assert "1.500" in done.stdout
