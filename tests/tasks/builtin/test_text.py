"""The built-in task `text`: its data are the text of this Python, and it can be measured."""

import json
import sys
import zlib

import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy

from sharpcli.checkpoint import load_checkpoint
from sharpcli.cli.main import sharp
from sharpcli.errors import SharpError
from sharpcli.tasks import load_task
from sharpcli.tasks.builtin import text

TINY = {"layers": "1", "heads": "2", "width": "4", "context": "8", "examples": "24"}


def test_windows_are_bytes_and_the_bytes_after_them():
    task = load_task("text", {"context": "20", "examples": "100000"})
    inputs, targets = task.data("train")
    assert inputs.dtype == torch.int64
    assert inputs.shape == targets.shape
    assert inputs.shape[1] == 20
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    first = next(
        content
        for name, content in text.topics().items()
        if zlib.crc32(name.encode()) % 5 != 2 and len(content) > 40
    )
    assert bytes(inputs[0].tolist()) == first[:20]
    assert bytes(targets[1].tolist()) == first[21:41]


def test_the_splits_have_no_topic_in_common():
    texts = text.topics()
    assert len(texts) > 50
    content = {}
    for split in ("train", "test"):
        inputs, _ = load_task("text", {"context": "100", "examples": "100000"}).data(split)
        content[split] = [bytes(row.tolist()) for row in inputs]
    of_test = b"\0".join(v for k, v in texts.items() if zlib.crc32(k.encode()) % 5 == 2)
    assert all(window in of_test for window in content["test"])
    assert sum(window in of_test for window in content["train"]) == 0
    share = len(content["test"]) / (len(content["test"]) + len(content["train"]))
    assert 0.2 < share < 0.3


def test_a_paragraph_is_there_once():
    texts = text.topics().values()
    paragraphs = [tuple(p.split()) for content in texts for p in content.split(b"\n\n")]
    assert len(paragraphs) == len(set(paragraphs))


def test_fewer_examples_lie_evenly_in_the_text():
    every, _ = load_task("text", {"examples": "100000"}).data("train")
    few, _ = load_task("text", {"examples": "10"}).data("train")
    assert torch.equal(few, every[[i * len(every) // 10 for i in range(10)]])
    assert len(load_task("text", {}).data("train")[0]) == 1024


def test_the_fingerprint_is_that_of_the_text():
    assert text.fingerprint({"a": b"b"}) != text.fingerprint({"a": b"c"})
    assert text.fingerprint(text.topics()) == text.TEXT
    task = load_task("text", {})
    assert task.options["text"] == text.TEXT
    other = load_task("text", {"text": "0123abcd"})
    assert other.fingerprint != task.fingerprint


def test_the_text_of_another_python_is_refused():
    with pytest.raises(SharpError) as caught:
        load_task("text", {"text": "0123abcd"}).data("train")
    assert "'0123abcd' is not the one of this Python" in caught.value.message
    assert caught.value.hint.endswith(f'options.text="{text.TEXT}"')


def test_a_python_without_the_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert text.fingerprint(text.topics()) == text.ABSENT
    monkeypatch.setattr(text, "TEXT", text.ABSENT)
    with pytest.raises(SharpError, match="comes without the documentation"):
        text.data("train")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"layers": 0}, "layers 0, heads 4, width 64 and context 32 must be between 1 and"),
        ({"heads": 3}, "width 64 is not a multiple of heads 3"),
        ({"dropout": 1.0}, "dropout 1 must be 0 or more, below 1"),
        ({"dropout": float("nan")}, "dropout nan must be 0 or more"),
        ({"width": 10**6}, "layers 2, width 1000000 and context 32 make a model of"),
        ({"layers": 10**8}, "layers 100000000, width 64 and context 32 make a model of"),
        ({"context": 10**9}, "width 64 and context 1000000000 make a model of"),
        ({"width": 10**400}, "must be between 1 and"),
    ],
)
def test_options_of_the_network_are_checked(option, said):
    with pytest.raises(SharpError, match=said):
        text.model(**option)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"context": 0}, "context 0 and examples 1024 must be between 1 and"),
        ({"examples": 0}, "examples 0 must be between 1 and"),
        ({"context": 10**6}, "no topic of the train split has more than 1000000 bytes"),
    ],
)
def test_options_of_the_data_are_checked(option, said):
    with pytest.raises(SharpError, match=said):
        text.data("train", **option)


def test_measured_curvature_is_that_of_a_dense_hessian(tmp_path, monkeypatch):
    """λ1 of a trained GPT, its attention included, beside the eigenvalues of ∂²L/∂θ²."""
    monkeypatch.chdir(tmp_path)
    given = [word for name, value in TINY.items() for word in ("-O", f"{name}={value}")]
    trained = ["train", "text", *given, "--optimizer", "adam", "--lr", "0.01", "--epochs", "5"]
    assert CliRunner().invoke(sharp, trained).exit_code == 0
    asked = ["measure", "model.safetensors", "-m", "hessian", "--dtype", "float64", "--json"]
    done = CliRunner().invoke(sharp, asked)
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)["results"][0]["measures"]["hessian"]

    task = load_task("text", TINY)
    model = task.model().double()
    model.load_state_dict(load_checkpoint("model.safetensors").tensors)
    parameters = list(model.parameters())
    inputs, targets = task.data("train")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True))
        unit = torch.eye(len(gradient), dtype=gradient.dtype)
        rows = [
            flat(torch.autograd.grad(gradient, parameters, row, retain_graph=True)) for row in unit
        ]
    values = torch.linalg.eigvalsh(torch.stack(rows))
    largest = measured["eigenvalues"][0]
    assert largest["status"] == "converged"
    assert largest["value"] == pytest.approx(values[-1].item(), rel=1e-8)
    assert measured["smallest"]["value"] == pytest.approx(values[0].item(), rel=1e-6)


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
