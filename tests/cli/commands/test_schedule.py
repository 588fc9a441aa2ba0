"""`sharp schedule`: the list of policies, drawn schedules, and those of the same noise scale."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from sharpcli.cli.main import sharp
from sharpcli.training.plateaus import PLATEAUS
from sharpcli.training.policies import POLICIES
from sharpcli.training.schedules import parse_schedule

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "schema.json").read_text("utf-8"))
STEPS = "STEP(0.1, gamma=0.2, l=300)"
GROWING = ("--steps", 900, "--as", "batch-size", "--batch-size", 128, "--examples", 50_000)


def schedule(*arguments, width=80):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(sharp, ["schedule", *map(str, arguments)])


def document(*arguments):
    done = schedule(*arguments, "--json")
    assert done.exit_code == 0, done.output
    parsed = json.loads(done.stdout)
    jsonschema.validate(parsed, SCHEMA)
    return parsed


def refused(*arguments):
    done = schedule(*arguments)
    assert done.exit_code == 2, done.output
    return done.stderr


def test_without_a_schedule_all_policies_are_listed_with_their_formulas():
    done = schedule()
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for policy in POLICIES.values():
        assert policy.usage in lines
    assert "    k0 + (k1−k0)·(2/π)·|asin sin(πt/2l)|" in lines
    listed = document()["results"]
    assert [each["name"] for each in listed] == [*POLICIES, *PLATEAUS]
    assert listed[0] == {
        "name": "FIX",
        "usage": "FIX(k0)",
        "formula": "k0",
        "parameters": ["k0"],
    }
    assert "| NSTEP(k0, gamma, l) |" in schedule("--format", "markdown").stdout
    rows = [*csv.DictReader(schedule("--format", "csv").stdout.splitlines())]
    assert rows[1]["parameters"] == "k0 gamma l"


def test_a_rate_alone_is_drawn_by_step():
    done = schedule("TRI(k0=0.001, k1=0.1, l=200)")
    assert done.exit_code == 0
    assert "learning rate" in done.stdout
    assert "batch size" not in done.stdout
    assert "1,000" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_lists_of_the_document_are_the_schedules():
    spec = "cosine(0.1, steps=80, warmup=10)"
    (result,) = document(spec, "--steps", 100, "--batch-size", 50, "--examples", 1000)["results"]
    rates = [parse_schedule(spec).at(step) for step in range(100)]
    assert result["steps"] == [*range(100)]
    assert result["lr"] == rates
    assert result["batch_size"] == [50] * 100
    assert result["noise_scale"] == pytest.approx([rate * 19 for rate in rates])
    assert (result["updates"], result["examples_seen"]) == (100, 5000)


def test_what_is_not_known_is_null():
    (result,) = document("FIX(0.1)", "--steps", 3)["results"]
    assert [result[key] for key in ("batch_size", "noise_scale", "examples_seen")] == [None] * 3
    (result,) = document("FIX(0.1)", "--steps", 3, "--batch-size", 8)["results"]
    assert (result["batch_size"], result["noise_scale"]) == ([8, 8, 8], None)


def test_momentum_is_in_the_noise_scale():
    asked = ("FIX(0.1)", "--steps", 1, "--batch-size", 100, "--examples", 1000)
    (result,) = document(*asked, "--momentum", 0.9)["results"]
    assert result["noise_scale"] == [pytest.approx(0.1 * 1000 / (100 * 0.1))]


def test_a_batch_schedule_in_place_of_a_batch_size():
    asked = ("FIX(0.1)", "--steps", 4, "--batch-schedule", "EXP(8, gamma=1.5)")
    (result,) = document(*asked, "--examples", 100)["results"]
    assert result["batch_size"] == [8, 12, 18, 27]
    assert result["noise_scale"][1] == pytest.approx(0.1 * (100 / 12 - 1))


def test_a_decaying_rate_becomes_a_growing_batch():
    asked, growing = document(STEPS, *GROWING)["results"]
    assert (asked["updates"], growing["updates"]) == (900, 374)  # 300 + 61 + 13, by hand
    assert growing["schedule"] == "0.1"
    assert growing["batch_schedule"] == "128:300, 634:61, 3015"
    done = schedule(STEPS, *GROWING)
    assert "374 updates in place of 900 for the same examples" in done.stdout
    assert "batch size: 128:300, 634:61, 3015" in done.stdout
    assert "epoch" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_texts_of_a_rewritten_schedule_give_it_again():
    asked = ("cosine(0.1, steps=500, warmup=20)", "--steps", 500, *GROWING[2:])
    _, growing = document(*asked)["results"]
    again = document(
        *(growing["schedule"], "--steps", growing["updates"]),
        *("--batch-schedule", growing["batch_schedule"], "--examples", 50_000),
    )
    for key in ("lr", "batch_size", "noise_scale", "examples_seen"):
        assert again["results"][0][key] == growing[key]


def test_a_batch_that_may_grow_no_more_is_said():
    done = schedule(STEPS, *GROWING, "--max-batch", 1000)
    assert "note: the batch is at most 1,000: from update 361 on the rate makes up" in done.stderr
    assert "--max-batch sets the largest batch" in done.stderr
    assert schedule(STEPS, *GROWING).stderr == ""
    warm = schedule("cosine(0.1, steps=900, warmup=90)", *GROWING, "--max-batch", 128)
    # ½(1 + cos(π(t − 90)/810)) = 0.99 at t = 141.6: until then a batch of 128 is within 1 %
    assert "from update 142 on the rate" in warm.stderr


def test_linear_scaling_and_momentum():
    asked = (STEPS, "--steps", 900, "--batch-size", 128, "--examples", 50_000)
    _, scaled = document(*asked, "--as", "linear-scaling", "--to-batch-size", 512)["results"]
    assert (scaled["updates"], {*scaled["batch_size"]}) == (225, {512})
    with_momentum = (*asked, "--momentum", 0.9, "--as", "momentum", "--to-momentum", 0.98)
    _, faster = document(*with_momentum)["results"]
    assert (faster["updates"], {*faster["batch_size"]}) == (180, {640})
    assert "momentum" in schedule(*with_momentum).stdout


def test_figures_and_arrays(tmp_path):
    figure, arrays = tmp_path / "a.svg", tmp_path / "a.npz"
    done = schedule(STEPS, *GROWING, "--plot", figure, "--plot", arrays)
    assert done.exit_code == 0, done.output
    assert all(word in figure.read_text("utf-8") for word in ("<svg", "</svg>"))
    with np.load(arrays) as found:
        assert [*found["names"]] == ["schedule", "batch-size"]
        assert found["0_lr"].shape == (900,)
        assert found["1_batch_size"].max() == 3015
        assert found["1_epoch"][300] == pytest.approx(300 * 128 / 50_000)


def test_a_saved_schedule_is_drawn_again(tmp_path):
    saved, figure = tmp_path / "a.json", tmp_path / "a.png"
    assert schedule(STEPS, *GROWING, "--output", saved).exit_code == 0
    runner = CliRunner(env={"COLUMNS": "80"})
    assert runner.invoke(sharp, ["plot", str(saved)]).stdout == schedule(STEPS, *GROWING).stdout
    done = runner.invoke(sharp, ["plot", str(saved), "--plot", str(figure), "--scale", "log"])
    assert done.exit_code == 0, done.output
    assert figure.stat().st_size > 1000


def test_a_row_of_csv_is_a_step():
    done = schedule("EXP(0.5, 0.5)", "--steps", 3, "--format", "csv")
    assert done.stdout.splitlines() == [
        "schedule,step,lr",
        "schedule,0,0.5",
        "schedule,1,0.25",
        "schedule,2,0.125",
    ]


def test_a_long_schedule_is_drawn_in_time():
    done = schedule("TRI(0, 0.1, l=7)", "--steps", 200_000)
    assert done.exit_code == 0
    assert "0 to 0.1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["COSS(0.1)"], "there is no policy 'COSS'"),
        (["TRI(k0=0.1)"], "TRI lacks k1 and l"),
        (["FIX(-0.1)"], "k0=-0.1: k0 is at least 0"),
        (["EXP(0.1, 2)", "--steps", 5000], "is inf at step 1024"),
        (["--steps", 5], "--steps: has no effect without a schedule"),
        (["FIX(0.1)", "--max-batch", 5], "--max-batch: has no effect without --as batch-size"),
        (["FIX(0.1)", "--to-momentum", 0.5], "--to-momentum: has no effect without --as momentum"),
        (
            ["FIX(0.1)", "--batch-size", 200, "--examples", 100],
            "--batch-size 200: a batch of 200 at step 0 is more than the 100 examples",
        ),
        (
            ["FIX(0.1)", "--batch-schedule", "EXP(8, 2)", "--examples", 100],
            "--batch-schedule EXP(8, 2): a batch of",
        ),
        (
            ["FIX(0.1)", "--batch-schedule", "8", "--batch-size", 8],
            "--batch-size and --batch-schedule exclude each other",
        ),
        (["FIX(0.1)", "--as", "batch-size"], "--as batch-size: needs the batch size"),
        (
            ["FIX(0.1)", "--as", "batch-size", "--batch-size", 8],
            "--as batch-size: needs --examples",
        ),
        (
            ["FIX(0.1)", "--as", "linear-scaling", "--batch-size", 8],
            "--as linear-scaling: needs --to-batch-size",
        ),
        (
            ["FIX(0.1)", *GROWING[2:], "--max-batch", 50_000],
            "--max-batch 50000: is all of the data (50,000 examples)",
        ),
        (
            ["FIX(0.1)", *GROWING[2:], "--max-batch", 100],
            "a batch of 128 leaves no room to grow to 100 of 50,000 examples",
        ),
        (
            ["FIX(0.1)", "--as", "batch-size", "--batch-size", 8, "--examples", 8],
            "a batch of 8 leaves no room",
        ),
        (["FIX(0.1)", "--momentum", 1], "--momentum 1.0: is out of range"),
        (["FIX(0.1)", "--plot", "a.html"], "a schedule is not drawn as .html"),
    ],
)
def test_bad_input_gets_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)


def test_it_loads_no_torch():
    code = (
        "import sys; from sharpcli.cli.main import sharp\n"
        "try: sharp.main(['schedule', 'FIX(0.1)', '--json'], prog_name='sharp')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'scipy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("plateau(0.1)",),
        ("0.1:10, plateau(0.1)", "--as", "batch-size", "--batch-size", "8", "--examples", "100"),
        ("0.1", "--batch-schedule", "ReduceLROnPlateau(8)"),
    ],
)
def test_a_schedule_that_looks_at_losses_cannot_be_drawn(arguments):
    assert "depends on the losses of a training" in refused(*arguments)
