"""`sharp measure` from the command line to the table, the files and the exit code."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from minima import TASK, hear_interrupts, measure, tensors, write_minima
from rich.cells import cell_len
from safetensors.torch import save_file

from sharpcli.measures import known_measures

ROOT = Path(__file__).parents[3]
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "schema.json").read_text("utf-8")))
BOTH = ("sgd.safetensors", "adam.safetensors", "-t", "task.py")
QUICK = ("-m", "loss", "-m", "gradient")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_TASK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


def document_of(done):
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    return document


def test_the_default_table_has_a_row_a_checkpoint_with_all_measures():
    done = measure(*BOTH, width=200)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "task.py (width=8) · 48 train examples · float32 on cpu"
    assert "all rows: lr=0.1" in lines
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    header = " ".join(lines[rule - 3 : rule])
    for title in ("optimizer", "batch_size", "gap", "accuracy", "φ", "λ1", "λmin", "trace", "‖∇L‖"):
        assert title in header
    sgd, adam = (line.split() for line in lines[rule + 1 : rule + 3])
    assert (sgd[0], {*sgd[1:3]}) == ("sgd", {"sgd", "32"})
    assert (adam[0], {*adam[1:3]}) == ("adam", {"adam", "400"})
    assert len(sgd) == len(adam) == 3 + 4 + 2 + 5


def test_the_json_is_one_document_that_fits_the_schema():
    done = measure(*BOTH, "--json", "--subspace", "full", "--subspace", "10", "-k", "3")
    assert done.exit_code == 0
    document = document_of(done)
    assert document["kind"] == "measure"
    assert document["task"]["name"] == "task.py"
    assert document["task"]["examples"] == {"train": 48, "test": 24}
    assert document["settings"]["measure"]["top"] == 3
    assert document["environment"]["device"] == "cpu"
    first, second = document["results"]
    assert first["checkpoint"]["metadata"] == {"optimizer": "sgd", "batch_size": 32, "lr": 0.1}
    assert first["checkpoint"]["parameters"] == 67
    assert first["checkpoint"]["sha256"] != second["checkpoint"]["sha256"]
    measures = first["measures"]
    assert list(measures) == [
        *("loss", "accuracy", "epsilon_sharpness", "gradient", "hessian", "trace")
    ]
    places = [(entry["epsilon"], entry["subspace"]) for entry in measures["epsilon_sharpness"]]
    assert sorted(places, key=str) == sorted(
        [(1e-3, None), (1e-3, 10), (5e-4, None), (5e-4, 10)], key=str
    )
    eigenvalues = [scalar["value"] for scalar in measures["hessian"]["eigenvalues"]]
    assert eigenvalues == sorted(eigenvalues, reverse=True)
    assert len(eigenvalues) == 3
    gap = measures["loss"]["test"]["value"] - measures["loss"]["train"]["value"]
    assert measures["loss"]["gap"]["value"] == pytest.approx(gap)


def test_csv_has_a_line_a_checkpoint_and_every_number():
    done = measure(*BOTH, *QUICK, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["checkpoint"] for row in rows] == ["sgd.safetensors", "adam.safetensors"]
    assert [row["metadata.optimizer"] for row in rows] == ["sgd", "adam"]
    assert all(float(row["gradient.norm"]) > 0 for row in rows)


def test_markdown_is_a_table_of_github():
    done = measure(*BOTH, *QUICK, "--format", "markdown")
    tables = [part.splitlines() for part in done.stdout.split("\n\n") if part.startswith("|")]
    table, pairs = tables
    assert table[0].startswith("| checkpoint | batch_size | optimizer | loss train |")
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == ["sgd", "adam"]
    assert len({line.count("|") for line in pairs}) == 1


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_output_goes_to_the_file_and_nothing_to_stdout(folder, form):
    done = measure(*BOTH, *QUICK, "--format", form, "--output", "result")
    assert done.exit_code == 0
    assert done.stdout == ""
    written = (folder / "result").read_text("utf-8")
    assert "sgd" in written
    assert "\x1b" not in written
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []


def test_output_that_cannot_be_written_leaves_what_was_there(folder):
    (folder / "closed").mkdir()
    (folder / "old.json").write_text("old", "utf-8")
    done = measure(*BOTH, *QUICK, "--json", "--output", "none/result.json")
    assert done.exit_code == 1
    assert "none/result.json: cannot be written: there is no folder none" in done.stderr
    done = measure(*BOTH, "-m", "hesian", "--json", "--output", "old.json")
    assert done.exit_code == 2
    assert (folder / "old.json").read_text("utf-8") == "old"


def test_quiet_leaves_stderr_to_warnings_and_json_leaves_stdout_to_the_document():
    done = measure("sgd.safetensors", "-t", "task.py", "-m", "loss", "--json", "--quiet")
    assert done.stderr == ""
    document_of(done)
    done = measure("sgd.safetensors", "-t", "task.py", "-m", "gradient", "--json", "--quiet")
    assert done.stderr.startswith("warning: sgd.safetensors: the gradient's norm is 1.2")
    document_of(done)


def test_warnings_and_failures_go_to_stderr_even_with_json():
    done = measure(*BOTH, "none.safetensors", *QUICK, "--json")
    assert done.exit_code == 1
    assert [result["status"] for result in document_of(done)["results"]] == ["ok", "ok", "failed"]
    assert "failed: none.safetensors: there is no such file" in done.stderr


@pytest.mark.parametrize("width", [80, 160])
def test_no_line_is_wider_than_the_screen_and_no_number_is_cut(width):
    wide = measure(*BOTH, "nope.safetensors", "--subspace", "full", "--subspace", "9", width=1000)
    narrow = measure(
        *BOTH, "nope.safetensors", "--subspace", "full", "--subspace", "9", width=width
    )
    assert max(map(cell_len, narrow.stdout.splitlines())) <= width
    cells = {
        cell
        for line in wide.stdout.splitlines()
        if line.startswith(("sgd", "adam"))
        for cell in line.split()
    }
    assert cells <= set(narrow.stdout.split())


def test_no_color_and_a_pipe_get_no_escapes():
    assert "\x1b" not in measure(*BOTH, *QUICK).stdout
    assert "\x1b" not in measure(*BOTH, *QUICK, NO_COLOR="1").stdout


def test_the_task_may_come_from_sharp_toml_or_the_environment(folder):
    (folder / "sharp.toml").write_text(
        'task = "task.py"\n[measure]\nmeasure = ["loss"]\nepsilon = [1e-2]\n', "utf-8"
    )
    document = document_of(measure("sgd.safetensors", "--json"))
    assert document["settings"]["measure"]["measures"] == ["loss"]
    assert document["settings"]["measure"]["epsilons"] == [1e-2]
    (folder / "sharp.toml").unlink()
    done = measure("sgd.safetensors", "-m", "loss", "--json", SHARP_TASK="task.py")
    assert document_of(done)["task"]["name"] == "task.py"


def test_a_wrong_key_of_sharp_toml_is_named(folder):
    (folder / "sharp.toml").write_text("[measure]\nepsilonn = 1e-2\n", "utf-8")
    done = measure(*BOTH)
    assert done.exit_code == 2
    assert "sharp.toml: [measure] epsilonn: `sharp measure` has no such option" in done.stderr


def test_the_task_may_come_from_the_metadata_and_then_only_a_built_in_one(folder):
    from sharpcli.tasks import load_task

    network = load_task("digits", {"width": "4", "depth": "1"}).model()
    named = {"task": "digits", "task_options": "width=4,depth=1"}
    save_file(network.state_dict(), "digits.safetensors", metadata=named)
    document = document_of(measure("digits.safetensors", "-m", "loss", "--json"))
    assert document["task"]["options"]["width"] == 4
    save_file(tensors(), "hostile.safetensors", metadata={"task": "task.py"})
    done = measure("digits.safetensors", "hostile.safetensors", "-m", "loss", "--json")
    assert done.exit_code == 1
    good, refused = document_of(done)["results"]
    assert good["status"] == "ok"
    assert "a checkpoint cannot choose code to run" in refused["error"]["message"]


def test_one_checkpoint_without_a_task_does_not_cost_the_others_their_results(folder):
    from sharpcli.tasks import load_task

    network = load_task("digits", {"width": "4", "depth": "1"}).model()
    named = {"task": "digits", "task_options": "width=4,depth=1"}
    save_file(network.state_dict(), "digits.safetensors", metadata=named)
    done = measure("digits.safetensors", "sgd.safetensors", "-m", "loss", "--json")
    assert done.exit_code == 1
    assert [result["status"] for result in document_of(done)["results"]] == ["ok", "failed"]
    done = measure("sgd.safetensors", "-m", "loss")
    assert done.exit_code == 2
    assert "no task: a checkpoint has tensors only" in done.stderr
    assert "--task" in done.stderr


def test_list_is_a_table_of_every_measure():
    for width in (80, 160):
        done = measure("--list", width=width)
        assert done.exit_code == 0
        assert all(len(line) <= width for line in done.stdout.splitlines())
        said = " ".join(done.stdout.split())
        for known in known_measures().values():
            assert f"{known.name}{' *' if known.default else ''} " in said
        assert "invariant to" in said
        assert "cost" in said


def test_list_says_all_about_named_measures():
    done = measure("--list", "-m", "all")
    assert done.exit_code == 0
    said = " ".join(done.stdout.replace(" (on request)", "").split())
    for known in known_measures().values():
        assert f"{known.name}: {known.meaning}" in said
        assert known.formula in said
        assert known.source in said
        assert known.warns in said
    done = measure("--list", "-m", "path-norm")
    assert done.stdout.startswith("path-norm (on request): ")
    assert "epsilon" not in done.stdout


def test_list_is_a_document_too():
    document = json.loads(measure("--list", "--json").stdout)
    assert document["kind"] == "measures"
    found = {each["name"]: each for each in document["measures"]}
    assert [*found] == [*known_measures()]
    assert found["margin"]["key"] == "margin"
    assert found["margin"]["options"][0]["name"] == "margin_percentile"


def test_rescale_check_names_what_moved(folder):
    (folder / "task.py").write_text(TASK.replace("nn.Tanh", "nn.ReLU"), "utf-8")
    done = measure(*BOTH, "-m", "loss", "-m", "path-norm", "-m", "parameter-norms",
                   "--rescale-check", width=80)  # fmt: skip
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "sgd, rescaled: the same function with 8 units rescaled" in done.stdout
    said = done.stdout[done.stdout.index("sgd, rescaled:") :]
    lines = [line for line in said.splitlines() if line.startswith("path norm ")]
    assert len(lines) == 2 and all(line.endswith("unchanged") for line in lines)
    assert "moved" in next(x for x in said.splitlines() if x.startswith("‖θ‖ "))


def test_all_measures(folder):
    named = ("--initial", "adam.safetensors")
    (folder / "task.py").write_text(TASK.replace("nn.Tanh", "nn.ReLU"), "utf-8")  # has a path norm
    document = document_of(
        measure("sgd.safetensors", "-t", "task.py", "-m", "all", *named, "--json")
    )
    keys = {known.name.replace("-", "_") for known in known_measures().values()}
    result = document["results"][0]
    assert keys - {"preconditioned_sharpness"} <= set(result["measures"])
    (left_out,) = [each for each in result["warnings"] if "is left out" in each]
    assert left_out.startswith("preconditioned-sharpness is left out: ")


def test_strict_exits_with_three_where_a_number_did_not_converge():
    few = (*BOTH, "-m", "hessian", "--max-products", "7", "--tol", "1e-6")
    assert measure(*few).exit_code == 0
    done = measure(*few, "--strict")
    assert done.exit_code == 3
    assert "raise --max-products or --tol" in " ".join(done.stdout.split())
    assert measure(*BOTH, "-m", "loss", "--strict").exit_code == 0


def test_more_than_float32_can_give_is_marked_and_strict_says_so():
    done = measure(*BOTH, "-m", "hessian", "--tol", "1e-12", "--strict")
    assert done.exit_code == 3
    said = " ".join(done.stdout.split())
    assert "rounding keeps the error above --tol or a tenth of the value: use --dtype" in said
    done = measure(*BOTH, "-m", "hessian", "--tol", "1e-12", "--dtype", "float64", "--json")
    found = document_of(done)["results"][0]["measures"]["hessian"]["eigenvalues"]
    assert {scalar["status"] for scalar in found} == {"converged"}


def test_a_wrong_second_derivative_is_marked_and_strict_says_so(folder):
    (folder / "task.py").write_text(
        TASK
        + """
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0].detach() * g

def predict(model, batch):
    return Square.apply(model(batch[0]))
""",
        "utf-8",
    )
    done = measure(*BOTH, "-m", "hessian", "--strict", "--json")
    assert done.exit_code == 3
    hessian = document_of(done)["results"][0]["measures"]["hessian"]
    assert hessian["eigenvalues"][0]["status"] == "suspect"
    table = measure(*BOTH, "-m", "hessian").stdout
    row = next(line for line in table.splitlines() if line.startswith("sgd"))
    assert row.count("!") == len(row.split()) - 3
    assert "the second derivatives fail a float64 self-check" in " ".join(table.split())


def test_the_batch_size_never_changes_the_answer():
    found = [
        document_of(measure(*BOTH, *QUICK, "--json", "--dtype", "float64", "--batch-size", size))
        for size in ("48", "7", "1")
    ]
    norms = [document["results"][0]["measures"]["gradient"]["norm"]["value"] for document in found]
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-12)


@pytest.mark.parametrize("samples", ["1", "20", "48", "1000"])
def test_samples(samples):
    document = document_of(measure(*BOTH, *QUICK, "--samples", samples, "--json"))
    assert document["task"]["examples"] == {"train": min(int(samples), 48), "test": 24}
    loss = document["results"][0]["measures"]["loss"]["train"]
    assert ("sampling_error" in loss) == (samples == "20")
    assert ("sampling_status" in loss) == (samples in ("1", "20"))
    for result in document["results"]:
        said = [each for each in result.get("warnings", ()) if "unreliable" in each]
        assert len(said) == (samples in ("1", "20"))


@pytest.mark.parametrize(
    ("words", "asked", "examples"),
    [
        (("--samples", "12", "--relative-error", "0.001"), 0.001, 48),
        (("--samples", "12", "--relative-error", "1e9"), 1e9, 12),
        (("--samples", "12", "--relative-error", "0.001", "--sampling-error", "1e9"), 1e9, 12),
        (("--relative-error", "0.1"), None, None),
    ],
)
def test_the_relative_error_of_a_sample_is_that_of_sampling_too(words, asked, examples):
    arguments = ("sgd.safetensors", "-t", "task.py", "-m", "loss", "--json")
    document = document_of(measure(*arguments, *words))
    settings, about = document["settings"]["measure"], document["results"][0]["checkpoint"]
    assert settings["relative_error"] == float(words[words.index("--relative-error") + 1])
    assert settings["sampling_error"] == asked
    assert about.get("examples") == examples


def test_a_checkpoint_given_twice_is_two_numbered_rows():
    done = measure("sgd.safetensors", "sgd.safetensors", "-t", "task.py", *QUICK)
    assert done.exit_code == 0
    rows = [line.split("  ")[0] for line in done.stdout.splitlines() if line.startswith("sgd")]
    assert rows == ["sgd.safetensors (1)", "sgd.safetensors (2)"]


def test_files_of_one_name_are_told_apart_in_the_warning_too(folder):
    for name, scale in (("run-1", 1.0), ("run-2", 30.0)):
        (folder / name).mkdir()
        save_file(tensors(scale), folder / name / "model.safetensors")
    paths = ("run-1/model.safetensors", "run-2/model.safetensors")
    done = measure(*paths, "-t", "task.py", "-m", "loss")
    assert "training losses differ" in done.stderr
    assert "(run-1) to" in done.stderr
    assert "(run-2)" in done.stderr


def test_without_test_data_there_is_no_gap(folder):
    text = TASK.replace("(split):\n", '(split):\n    if split == "test":\n        return None\n')
    (folder / "task.py").write_text(text, "utf-8")
    document = document_of(measure(*BOTH, "--json"))
    assert document["task"]["examples"] == {"train": 48}
    assert set(document["results"][0]["measures"]["loss"]) >= {"train"}
    assert "gap" not in document["results"][0]["measures"]["loss"]
    assert " gap" not in measure(*BOTH, "-m", "loss").stdout
    done = measure(*BOTH, "--split", "test")
    assert done.exit_code == 1
    assert "data('test') gives None: there are no test data to measure on" in done.stderr


def test_one_class_and_one_parameter(folder):
    text = TASK.replace("(inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()", "ZERO")
    (folder / "task.py").write_text(
        text.replace("ZERO", "torch.zeros(len(inputs), dtype=torch.long)"), "utf-8"
    )
    assert measure(*BOTH).exit_code == 0
    (folder / "one.py").write_text(
        "import torch\n"
        "def model():\n    return torch.nn.Linear(1, 1, bias=False)\n"
        "def data(split):\n    x = torch.linspace(-1, 1, 20)[:, None]\n    return x, 2 * x\n"
        "def loss(outputs, batch):\n    return (outputs - batch[1]).square().sum(1)\n",
        "utf-8",
    )
    save_file({"weight": torch.tensor([[1.5]])}, "one.safetensors")
    document = document_of(measure("one.safetensors", "-t", "one.py", "-k", "1", "--json"))
    hessian = document["results"][0]["measures"]["hessian"]
    exact = 2 * torch.linspace(-1, 1, 20).square().mean().item()
    assert hessian["eigenvalues"][0]["value"] == pytest.approx(exact, rel=1e-6)
    assert hessian["smallest"]["value"] == pytest.approx(exact, rel=1e-6)


# In other processes: what only a real terminal, pipe or signal shows.


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "sharpcli", "measure", *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "90"},
        preexec_fn=hear_interrupts,
        **options,
    )


def test_an_interrupt_prints_what_is_finished(folder):
    (folder / "task.py").write_text(
        TASK
        + """
import pathlib, time

def predict(model, batch):
    if model[0].weight.abs().max() > 2:  # the second checkpoint
        pathlib.Path("reached").touch()
        time.sleep(60)
    return model(batch[0])
""",
        "utf-8",
    )
    save_file(tensors(20.0), "slow.safetensors")
    process = start("sgd.safetensors", "slow.safetensors", "-t", "task.py", *QUICK, "--json")
    while not (folder / "reached").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    SCHEMA.validate(document)
    assert [result["status"] for result in document["results"]] == ["ok", "failed"]
    assert "slow.safetensors: interrupted before it was measured" in stderr
    assert "Traceback" not in stderr


def test_both_streams_in_one_file_do_not_run_into_each_other(folder):
    with (folder / "both").open("w", encoding="utf-8") as both:
        start(*BOTH, "none.safetensors", stdout=both, stderr=subprocess.STDOUT).wait()
    lines = (folder / "both").read_text("utf-8").splitlines()
    assert "failed: none.safetensors: there is no such file" in lines
    assert any(line.startswith("‖∇L‖:") and line.endswith("a minimum") for line in lines)


def test_a_full_disk_is_one_message(folder):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = start(*BOTH, "-m", "loss", stdout=full)
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert "standard output: cannot be written: No space left on device" in stderr
    assert "Traceback" not in stderr


def test_by_layer_has_a_sheet_a_checkpoint_and_a_row_a_layer():
    done = measure(*BOTH, "-m", "gradient", "-m", "trace", "--by", "layer")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    start = lines.index("sgd, layer by layer")
    assert lines[start + 1].split() == ["layer", "parameters", "trace", "‖∇L‖"]
    assert [line.split()[0] for line in lines[start + 3 : start + 6]] == ["0", "2", "all"]
    assert [line.split()[1] for line in lines[start + 3 : start + 5]] == ["40", "27"]
    assert "adam, layer by layer" in lines
    assert "not a minimum" in done.stderr
    assert "0: the gradient" not in done.stderr


def test_by_layer_in_json_and_csv():
    done = measure(*BOTH, "-m", "gradient", "--by", "layer", "--json")
    results = document_of(done)["results"]
    assert [layer["layer"] for layer in results[1]["layers"]] == ["0", "2"]
    done = measure(*BOTH, "-m", "gradient", "--by", "layer", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["checkpoint"], row["layer"], row["parameters"]) for row in rows] == [
        (name, layer, count)
        for name in ("sgd.safetensors", "adam.safetensors")
        for layer, count in (("", "67"), ("0", "40"), ("2", "27"))
    ]
    norms = [float(row["gradient.norm"]) for row in rows[:3]]
    assert norms[0] == pytest.approx((norms[1] ** 2 + norms[2] ** 2) ** 0.5)


def test_a_subset_is_said_with_its_size():
    done = measure(*BOTH, "-m", "gradient", "--parameters", "2.*", width=200)
    first = done.stdout.splitlines()[0]
    assert first.endswith("float32 on cpu · 2.* (27 of 67 parameters)")
    done = measure(*BOTH, "--parameters", "2.wait")
    assert done.exit_code == 2
    assert "--parameters '2.wait': matches no parameter of the model" in done.stderr
    assert "layers: 0, 2 (`sharp inspect` lists a checkpoint's tensors)" in done.stderr


def test_an_option_that_no_measure_asked_for_reads_is_noted():
    asked = ("sgd.safetensors", "-t", "task.py", "-m", "loss", "-m", "trace", "--json")
    unread = ("--top", "3", "--operator", "ggn", "--epsilon", "0.1", "--relative-error", "0.5")
    done = measure(*asked, *unread)
    document_of(done)
    assert done.stderr.splitlines() == [
        "note: --epsilon has no effect: it is for -m epsilon-sharpness",
        "note: --top has no effect: it is for -m hessian",
    ]
    assert measure(*asked, *unread, "--quiet").stderr == ""
    done = measure(*asked[:-3], "--relative-error", "0.9", "--json", "--samples", "40")
    assert "no effect" not in done.stderr  # it is the sample's there
