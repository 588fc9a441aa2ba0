"""What the command line says of wrong commands, options, files and tasks: one message for each.

Every entry is a command, the exit code and what its message must hold. No message is a traceback,
and each says what happened, where, and (behind "hint:" or in the message) what to do.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from sharpcli.cli.main import sharp

BASE = """
import torch
from torch import nn

def model(): return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

def numbers(count=40):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, inputs[:, :3].argmax(1)

def data(split): return numbers()
"""
NAN_DATA = "def data(split):\n    x, y = numbers()\n    x[17, 2] = float('nan')\n    return x, y"
ROWS = """
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 9
    def __getitem__(self, index): return %s
def data(split): return Rows()
"""
LOSS = "def loss(outputs, batch): return %s"

# What is added to the task, and what is said when it is measured.
TASKS = {
    "a generator": (
        "def data(split):\n    yield numbers()",
        ["data('train') returned a generator", "return a map-style Dataset"],
    ),
    "a loader": (
        "def data(split): return torch.utils.data.DataLoader([1])",
        ["data('train') returned a DataLoader", "return its dataset"],
    ),
    "arrays": (
        "def data(split): return tuple(t.numpy() for t in numbers())",
        ["whose item 0 is a ndarray, not a tensor", "torch.as_tensor"],
    ),
    "a list of tensors": (
        "def data(split): return [*numbers()]",
        ["returned a list of tensors that differ in shape", "return a tuple"],
    ),
    "a dict": ("def data(split): return {'x': 1}", ["data('train') returned a dict"]),
    "a text": ("def data(split): return 'mnist'", ["data('train') returned a str"]),
    "no data": ("def data(split): return numbers(0)", ["data('train') is empty"]),
    "no return": ("def data(split): numbers()", ["None (is `return` missing?)"]),
    "no split": (
        "def data(): return numbers()",
        ["sharp calls it as data('train'): let it take these arguments"],
    ),
    "unequal lengths": (
        "def data(split): return numbers()[0], numbers(7)[1]",
        ["tensors of unequal length: 40, 7"],
    ),
    "texts": (ROWS % "'a text', 1", ["must be Tensor, not list", "let data() return tensors"]),
    "objects": (ROWS % "object(), 1", ["do not make a batch", "make tensors of what a row holds"]),
    "ragged rows": (ROWS % "torch.ones(5 + index), 1", ["do not make a batch", "pad"]),
    "a row that fails": (ROWS % "[][index]", ["row 0 of data('train') raised IndexError"]),
    "names of arguments": (
        ROWS % "{'x': torch.ones(5), 'labels': 1}",
        ["got an unexpected keyword argument 'x'", "the task defines no predict(model, batch)"],
    ),
    "NaN in the data": (
        NAN_DATA,
        ["hold NaN in row 17 of the inputs", "the data are the cause, not the weights"],
    ),
    "integer inputs": (
        "def data(split): return numbers()[0].long(), numbers()[1]",
        ["integer inputs stay integers", ".float()"],
    ),
    "too few columns": (
        "def data(split): return numbers()[0][:, :4], numbers()[1]",
        ["shapes cannot be multiplied", "the shapes do not fit"],
    ),
    "targets out of range": (
        "def data(split): return numbers()[0], numbers()[1] + 5",
        ["is out of bounds", "class targets go from 0 to the number of outputs minus 1"],
    ),
    "a column of targets": (
        "def data(split): return numbers()[0], numbers()[1][:, None]",
        ["targets (8, 1) int64", "make the class targets of shape (N,), as by .squeeze(1)"],
    ),
    "numbers as targets": (
        "def data(split): return numbers()[0], numbers()[1].float()",
        ["none can be guessed for outputs (8, 3) float32 and targets (8,)", "a regression"],
    ),
    "no outputs": (
        "def predict(model, batch): return object()",
        ["none can be guessed for outputs of type object and targets"],
    ),
    "predict without return": (
        "def predict(model, batch): model(batch[0])",
        ["predict(model, batch) returned None", "is `return` missing"],
    ),
    "a mean": (
        LOSS % "nn.functional.cross_entropy(outputs, batch[1])",
        ["loss gave a single number for a batch of 8 examples", "(losses, w[targets])"],
    ),
    "a column of losses": (LOSS % "outputs[:, :1]", ["shape (8, 1)", ".squeeze(1)"]),
    "a matrix of losses": (LOSS % "outputs", ["shape (8, 3)", ".flatten(1).mean(1)"]),
    "a float": (LOSS % "0.5", ["gave a value of type float", "one value for each example"]),
    "an int": (LOSS % "3", ["gave a value of type int"]),
    "complex losses": (LOSS % "outputs[:, 0] * 1j", ["complex numbers", ".real or .abs()"]),
    "no loss": (LOSS % "None", ["loss gave None", "is `return` missing"]),
    "texts as a pair": (LOSS % "('a', 'b')", ["a pair of a value of type str"]),
    "a module as the loss": (
        "loss = nn.CrossEntropyLoss()",
        ["argument 'target'", "predict, loss and metrics get the whole batch"],
    ),
    "arguments of the loss": (
        "def loss(outputs): return outputs",
        ["sharp calls it as loss(outputs, batch)"],
    ),
    "log of zero": (LOSS % "(outputs[:, 0] * 0 - 1).log()", ["loss() is not finite for example 0"]),
    "length of a metric": (
        "def metrics(outputs, batch): return {'top': torch.ones(3)}",
        ["metric 'top' gave a tensor of shape (3,)"],
    ),
    "metrics without names": (
        "def metrics(outputs, batch): return [1]",
        ["metrics(outputs, batch) returned a list, not a dict"],
    ),
    "an error of the task": (
        "def predict(model, batch): return model(batch[0]).summ()",
        ["task.py, line 14: predict", "no attribute 'summ'", "correct the task's code"],
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task, checkpoints, and files that are none; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_TASK", raising=False)
    (tmp_path / "task.py").write_text(BASE)
    torch.manual_seed(0)
    for name, width in (("a.pt", 8), ("b.pt", 8), ("wide.pt", 16)):
        model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
        torch.save(model.state_dict(), tmp_path / name)
    broken = torch.load(tmp_path / "a.pt")
    broken["2.bias"][1] = float("inf")
    torch.save(broken, tmp_path / "inf.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "result.json").write_text("{}")
    return tmp_path


def run(*words: str) -> Result:
    """The command's result; a failure of the program itself is raised."""
    result = CliRunner().invoke(sharp, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    return result


def test_a_task_that_needs_more_memory_than_there_is(folder: Path) -> None:
    (folder / "task.py").write_text(f"{BASE}\ndef data(split): return torch.empty(2**60), 0\n")
    for command in ("measure a.pt -t task.py -m loss", "train task.py --output b.safetensors"):
        result = run(*command.split())
        assert result.exit_code == 1
        assert "task.py, line 14: data('train') ran out of memory: " in result.stderr
        assert "hint: give a smaller --batch-size" in result.stderr


def test_a_file_is_named(folder: Path) -> None:
    assert run("init", "").stderr.startswith("Error: FILE is empty")
    assert "it is a folder" in run("train", "task.py", "--output", "").stderr


@pytest.mark.parametrize("name", TASKS)
def test_what_is_wrong_with_a_task_is_said(folder: Path, name: str) -> None:
    added, wanted = TASKS[name]
    (folder / "task.py").write_text(f"{BASE}\n{added}\n")
    result = run("measure", "a.pt", "--task", "task.py", "-m", "loss", "--quiet")
    assert result.exit_code == 1
    said = result.stderr
    assert all(part in said for part in wanted), said
    assert said.count("hint:") == 1
    blamed = "correct the task's code" in said
    assert blamed == (name in ("an error of the task", "a row that fails")), said


FILES = {
    "syntax": ("def model(:\n", "task.py, line 1: invalid syntax: def model(:"),
    "needs an option": ("def model(width): ...\ndef data(split): ...", "give it with -O width=…"),
    "no model": ("def data(split): ...", "defines no `model` (it defines data)"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_task_file_is_said(folder: Path, name: str) -> None:
    text, wanted = FILES[name]
    (folder / "task.py").write_text(text)
    result = run("measure", "a.pt", "--task", "task.py")
    assert result.exit_code in (1, 2)
    assert wanted in result.stderr


MEASURE = "measure a.pt -t task.py -m loss"
COMMANDS = [
    ("measur a.pt", 2, "did you mean 'measure'?"),
    ("measure a.pt", 2, "no task: a checkpoint has tensors only"),
    ("measure", 2, "no checkpoint: nothing to measure"),
    ("measure a.pt -t gone.py", 2, "gone.py: there is no such task file"),
    ("measure a.pt -t digit", 2, "did you mean 'digits'?"),
    (f"{MEASURE} --samples 0", 2, "0 is not a whole number of 1 or more"),
    (f"{MEASURE} --samples many", 2, "'many' is not a whole number of 1 or more"),
    (f"{MEASURE} --batch-size 0", 2, "0 is not a whole number of 1 or more"),
    (f"{MEASURE} --seed -1", 2, "-1 is not a whole number from 0 to 4294967295"),
    (f"{MEASURE} --epsilon -1", 2, "-1 is not a number above 0"),
    (f"{MEASURE} --epsilon nan", 2, "nan is not a number above 0"),
    (f"{MEASURE} --tol 0", 2, "0 is not a number above 0, at most 1"),
    (f"{MEASURE} --tol nan", 2, "nan is not a number above 0, at most 1"),
    (f"{MEASURE} --relative-error inf", 2, "inf is not a number above 0"),
    (f"{MEASURE} --top 0", 2, "0 is not a whole number of 1 or more"),
    (f"{MEASURE} -O width=3", 2, "has no option 'width'"),
    (f"{MEASURE} --output a.pt", 2, "would overwrite a.pt, which is read here"),
    (f"{MEASURE} --output b.pt", 2, "would overwrite a file that looks like a checkpoint"),
    (f"{MEASURE} --output task.py", 2, "would overwrite task.py, which is read here"),
    ("measure a.pt -t task.py -m hesian", 2, "did you mean 'hessian'?"),
    ("measure gone.pt -t task.py", 1, "gone.pt: there is no such file"),
    ("measure run-*/x.pt -t task.py", 1, "no file matches this pattern"),
    ("measure empty -t task.py", 1, "empty: is a folder without a checkpoint"),
    ("measure wide.pt -t task.py", 1, "'0.weight' is (16, 5) in the file and (8, 5) in the model"),
    ("measure inf.pt -t task.py", 1, "the tensor '2.bias' holds NaN or Inf"),
    ("interpolate a.pt -t task.py", 2, "1 checkpoint: a line leads through two"),
    ("interpolate a.pt b.pt -t task.py --points 3x", 2, "'3x' is not a number of points"),
    ("interpolate a.pt b.pt -t task.py --plot x.bmp", 2, "'.bmp' is no kind of figure"),
    ("measure gone.pt -t task.py --plot x.gif", 2, "a measure is not drawn as .gif"),
    ("interpolate a.pt b.pt -t task.py --output b.pt", 2, "would overwrite b.pt"),
    (f"{MEASURE} --output {'x' * 300}.json", 1, "File name too long"),
    ("train task.py --lr nan", 2, "nan is not a finite number"),
    ("train task.py --output task.py", 2, "would overwrite task.py, which is read here"),
    (f"train task.py --output {'x' * 300}", 1, "File name too long"),
    ("demo --folder dangling", 1, "dangling: cannot be created: it is a link to a missing target"),
    ("compare result.json", 1, "result.json"),
    ("compare result.json --output result.json", 2, "would overwrite result.json"),
]


@pytest.mark.parametrize(("command", "code", "wanted"), COMMANDS, ids=[c[0] for c in COMMANDS])
def test_what_is_wrong_with_a_command_is_said(command: str, code: int, wanted: str) -> None:
    result = run(*command.split())
    assert (result.exit_code, wanted in result.stderr) == (code, True), result.stderr


def test_a_task_that_the_environment_or_a_file_names_is_said_to_be_named_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sharp.toml").write_text('task = "gone.py"')
    assert "the configuration file names the task" in run("measure", "a.pt").stderr
    monkeypatch.setenv("SHARP_TASK", "lost.py")
    assert (
        "SHARP_TASK names the task lost.py: there is no such task file"
        in run("measure", "a.pt").stderr
    )


def test_a_figure_without_its_library_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = run("interpolate", "a.pt", "b.pt", "-t", "task.py", "--plot", "line.png").stderr
    assert "matplotlib is not installed" in said
    assert "pip install 'sharpcli[plot]'" in said


def test_what_was_written_is_said_on_stderr(folder: Path) -> None:
    words = ("interpolate", "a.pt", "b.pt", "-t", "task.py", "--points", "3", "--range", "0:1")
    written = run(*words, "--output", "line.json", "--plot", "line.npz")
    assert written.stdout == ""
    assert "wrote line.json\nwrote line.npz\n" in written.stderr
    assert "wrote" not in run(*words, "--output", "line.json", "--quiet").stderr
    assert "wrote again.npz" in run("plot", "line.json", "--plot", "again.npz").stderr


def test_class_weights_are_noted(folder: Path) -> None:
    weighted = "nn.functional.cross_entropy(outputs, batch[1], weight=W, reduction='none')"
    words = ("measure", "a.pt", "-t", "task.py", "-m", "loss")
    for returned, noted in ((weighted, True), (f"({weighted}, W[batch[1]])", False)):
        (folder / "task.py").write_text(f"{BASE}\nW = torch.arange(1.0, 4)\n{LOSS % returned}\n")
        assert ("return the pair (losses, w[targets])" in run(*words).stderr) == noted
