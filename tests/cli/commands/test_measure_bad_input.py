"""`sharp measure` on what is broken, hostile or impossible: one message, the rest measured."""

import json
import os
import struct

import pytest
import torch
from minima import TASK, measure, tensors, write_minima
from safetensors.torch import save_file
from torch import nn

QUICK = ("-m", "loss", "-m", "gradient")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def module_without_parameters():
    module = nn.Sequential(nn.Linear(4, 8))
    module[0].__dict__["_parameters"] = None
    return module


def changed(name, value):
    return {**tensors(), name: value}


def set_entry(name, value):
    tensor = tensors()[name]
    tensor.view(-1)[1] = value
    return changed(name, tensor)


def broken_checkpoints():
    """Each bad checkpoint's file name, how to make it, and what must be said of it."""
    whole = lambda path: path.with_name("sgd.safetensors").read_bytes()  # noqa: E731 (one line says it)
    yield "gone.safetensors", lambda path: None, "there is no such file"
    yield "empty.safetensors", lambda path: path.write_bytes(b""), "is empty"
    yield (
        "cut.safetensors",
        lambda path: path.write_bytes(whole(path)[:100]),
        "bytes, but the file has 100",
    )
    yield (
        "short.safetensors",
        lambda path: path.write_bytes(whole(path)[:-8]),
        "the file is damaged or incomplete: copy or download it again",
    )
    yield (
        "flipped.safetensors",
        lambda path: path.write_bytes(
            whole(path)[:20] + bytes([whole(path)[20] ^ 0x80]) + whole(path)[21:]
        ),
        "the safetensors header cannot be read: it is not valid JSON",
    )
    yield (
        "huge.safetensors",
        lambda path: path.write_bytes(struct.pack("<Q", 10**18) + whole(path)[8:]),
        "the safetensors header claims 1000000000000000000 bytes",
    )
    yield (
        "hostile.pt",
        lambda path: torch.save({"w": RunsCode()}, path),
        "holds no tensors that are read without its classes: w (posix.mkdir)",
    )
    yield (
        "module.pt",
        lambda path: torch.save(module_without_parameters(), path),
        "refused: holds a whole pickled module",
    )
    yield (
        "notes.safetensors",
        lambda path: path.write_text("loss went down nicely", "utf-8"),
        "is a text file, not a checkpoint",
    )
    yield "folder", lambda path: path.mkdir(), "is a folder without a checkpoint"
    yield (
        "missing.safetensors",
        lambda path: save_file({k: v for k, v in tensors().items() if k != "2.bias"}, path),
        "(1 missing of 4): '2.bias' (3,) is missing",
    )
    yield (
        "extra.safetensors",
        lambda path: save_file(changed("3.bias", torch.zeros(2)), path),
        "(1 unexpected of 4): '3.bias' (2,) is unexpected",
    )
    yield (
        "shape.safetensors",
        lambda path: save_file(changed("0.weight", torch.zeros(8, 5)), path),
        "'0.weight' is (8, 5) in the file and (8, 4) in the model",
    )
    yield (
        "nan.safetensors",
        lambda path: save_file(set_entry("0.weight", float("nan")), path),
        "the tensor '0.weight' holds NaN or Inf",
    )
    yield (
        "inf.safetensors",
        lambda path: save_file(set_entry("2.bias", float("-inf")), path),
        "the tensor '2.bias' holds NaN or Inf",
    )


CHECKPOINTS = list(broken_checkpoints())


@pytest.mark.parametrize(("name", "make", "said"), CHECKPOINTS, ids=[c[0] for c in CHECKPOINTS])
def test_a_bad_checkpoint_fails_alone(folder, name, make, said):
    make(folder / name)
    names = ("sgd.safetensors", name, "adam.safetensors")
    done = measure(*names, "-t", "task.py", *QUICK, "--json")
    assert done.exit_code == 1
    results = json.loads(done.stdout)["results"]
    assert [result["status"] for result in results] == ["ok", "failed", "ok"]
    assert results[1]["checkpoint"]["path"] == name
    error = results[1]["error"]
    assert said in f"{error['message']}\n{error['hint']}"
    assert error["hint"]
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed:")]
    assert len(failures) == 1
    assert name in failures[0]
    assert "Traceback" not in done.stderr
    assert not (folder / "ran").exists()


def test_all_bad_checkpoints_of_one_call_are_said_in_the_table(folder):
    for name, make, _ in CHECKPOINTS:
        make(folder / name)
    names = [name for name, _, _ in CHECKPOINTS]
    done = measure(*names, "sgd.safetensors", "-t", "task.py", "-m", "loss", width=80)
    assert done.exit_code == 1
    rows = [line for line in done.stdout.splitlines() if " failed: " in line]
    assert [row.split()[0] for row in rows] == [name.partition(".")[0] for name in names]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "1.687" in done.stdout


def test_a_file_that_cannot_be_opened(folder):
    (folder / "closed.safetensors").symlink_to(folder / "closed.safetensors")
    done = measure("closed.safetensors", "sgd.safetensors", "-t", "task.py", "-m", "loss")
    assert done.exit_code == 1
    assert "failed: closed.safetensors: " in done.stderr
    assert "Traceback" not in done.stderr


BAD_TASKS = {
    "raises": ("raise ValueError('boom')", 1, "task.py, line 1: importing it raised ValueError: b"),
    "syntax": ("def model(:", 1, "task.py, line 1: invalid syntax: def model(:"),
    "no model": ("def data(split): ...", 1, "task.py: defines no `model` (it defines data)"),
    "no data": ("def model(): ...", 1, "task.py: defines no `data` (it defines model)"),
    "empty": (TASK + "\ndef data(split): return torch.zeros(0, 4), torch.zeros(0)", 1, "is empty"),
    "none": (TASK + "\ndef data(split): pass", 1, "returned None (is `return` missing?)"),
    "test raises": (
        TASK.replace("(split):\n", "(split):\n    if split == 'test': raise OSError('no disk')\n"),
        1,
        "data('test') raised OSError: no disk\n  hint: correct the task's code; python -i on the "
        "file helps to find the cause; if there are no test data, return None",
    ),
    "row raises": (
        TASK + "\nclass Rows:\n    __len__ = lambda self: 9\n"
        "    def __getitem__(self, i): return [torch.zeros(4)] * (i < 5) or {}[i]\n"
        "def data(split): return Rows()",
        1,
        "row 5 of data('train') raised KeyError: 5",
    ),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_bad_task_is_one_message(folder, name):
    text, code, said = BAD_TASKS[name]
    (folder / "task.py").write_text(text, "utf-8")
    done = measure("sgd.safetensors", "-t", "task.py")
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("Error: task.py")
    assert said in done.stderr
    assert done.stderr.count("Error:") == 1 + said.count("Error:")
    assert "\n  hint: " in done.stderr


BAD_FUNCTIONS = {
    "nan loss": (
        "def loss(outputs, batch): return outputs.sum(1) * float('nan')",
        "the loss is nan: loss() is not finite for example 0 of the train data of task.py",
    ),
    "one loss": (
        "def loss(outputs, batch): return nn.functional.cross_entropy(outputs, batch[1])",
        "task.py: loss gave a single number for a batch of 8 examples",
    ),
    "metrics": ("def metrics(outputs, batch): return 3", "returned an int, not a dict"),
    "a metric": (
        "def metrics(outputs, batch): return {'f1': 3}",
        "task.py: metric 'f1' gave a value of type int for a batch of 48 examples",
    ),
    "a metric named loss": (
        "def metrics(outputs, batch): return {'loss': outputs.sum(1)}",
        "task.py: metrics gave one with the name 'loss', which is the loss's own",
    ),
    "predict raises": (
        "count = iter(range(4))\n"
        "def predict(model, batch): return model(batch[0]) + 0 * next(count)",
        "predict(model, batch) raised StopIteration",
    ),
    "wrong shape": (
        "def predict(model, batch): return model(batch[0][:, :2])",
        "mat1 and mat2 shapes cannot be multiplied (8x2 and 4x8)",
    ),
    "random": (
        "def predict(model, batch): return nn.functional.dropout(model(batch[0]))",
        "two evaluations of the same batch differ",
    ),
    "detached": (
        "def predict(model, batch): return model(batch[0]).detach()",
        "the loss has no gradient: nothing differentiable leads from the parameters to it",
    ),
    "in place": (
        "def predict(model, batch):\n    x = model(batch[0]).exp()\n    y = x * 1\n    x += 1\n"
        "    return x + y",
        "the loss cannot be differentiated: one of the variables needed for gradient computation "
        "has been modified by an inplace operation",
    ),
    "singular": (
        "def loss(outputs, batch): return (outputs * 0).sum(1).sqrt()",
        "the gradient is not finite, first in '0.weight'",
    ),
}


@pytest.mark.parametrize("name", BAD_FUNCTIONS)
def test_a_function_of_the_task_that_fails_fails_the_checkpoint(folder, name):
    text, said = BAD_FUNCTIONS[name]
    (folder / "task.py").write_text(f"{TASK}\n{text}\n", "utf-8")
    done = measure("sgd.safetensors", "-t", "task.py", *QUICK)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("failed: sgd.safetensors: ")
    assert said in done.stderr
    assert "\n  hint: " in done.stderr
    assert "sgd.safetensors  failed: " in done.stdout


def test_a_loss_without_a_gradient_can_still_be_measured(folder):
    text = "def predict(model, batch): return (model(batch[0]) > 0).float()"
    (folder / "task.py").write_text(f"{TASK}\n{text}\n", "utf-8")
    assert measure("sgd.safetensors", "-t", "task.py", "-m", "loss").exit_code == 0


BAD_REQUESTS = {
    "k above n": (("-k", "68"), "--top 68: the model has only 67 parameters"),
    "p above n": (("--subspace", "1000"), "--subspace 1000: the model has only 67 parameters"),
    "p of 0": (("--subspace", "0"), "'0' is neither 'full' nor a positive number of dimensions"),
    "epsilon 0": (("--epsilon", "0"), "'--epsilon': 0 is not a number above 0"),
    "negative epsilon": (("--epsilon", "-1e-3"), "'--epsilon': -1e-3 is not a number above 0"),
    "nan epsilon": (("--epsilon", "nan"), "'--epsilon': nan is not a number above 0"),
    "measure": (("-m", "hesian"), "no such measure\n  hint: did you mean 'hessian'?"),
    "option": (("--epsilonn", "1"), "No such option '--epsilonn'"),
    "device": (("--device", "gpu"), "'gpu' is not a device: did you mean 'cpu'?"),
    "no such gpu": (("--device", "cuda:300"), "--device cuda:300: this PyTorch ("),
    "tol": (("--tol", "0"), "'--tol'"),
    "products": (("--max-products", "3"), "--max-products 3: too few for 5 eigenvalues and the sm"),
    "seed": (("--seed", "99999999999999999999"), "'--seed'"),
    "samples": (("--samples", "0"), "'--samples'"),
    "split": (("--split", "valid"), "'train', 'test'"),
    "task option": (("-O", "widht=3"), "has no option 'widht': did you mean 'width'?"),
    "task option's value": (("-O", "width=wide"), "-O width=wide: is not int"),
    "format": (("--json", "--format", "csv"), "--json and --format csv exclude each other"),
    "output folder": (("--output", "."), "is a directory"),
    "no path": (("",), "a checkpoint's path is empty"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_ends_with_two(name):
    arguments, said = BAD_REQUESTS[name]
    done = measure("sgd.safetensors", "-t", "task.py", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("nope.py", "nope.py: there is no such task file\n  hint: `sharp init nope.py` writes one"),
        ("nope", "there is no task 'nope'"),
        ("nope.nope:task", "nope.nope:task: there is no module 'nope.nope' here"),
    ],
)
def test_a_task_that_is_not_there(task, said):
    done = measure("sgd.safetensors", "-t", task)
    assert done.exit_code == 2
    assert said in done.stderr


def test_nothing_to_measure():
    done = measure("-t", "task.py")
    assert done.exit_code == 2
    assert "no checkpoint: nothing to measure" in done.stderr


def test_wrong_options_of_the_task_name_both_shapes():
    done = measure("sgd.safetensors", "-t", "task.py", "-O", "width=16")
    assert done.exit_code == 1
    assert "'0.weight' is (8, 4) in the file and (16, 4) in the model" in done.stderr
    assert "give the model the options it was trained with (-O name=value)" in done.stderr
