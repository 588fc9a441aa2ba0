"""What model() draws at random and no checkpoint replaces is said."""

import pytest
import torch
from torch import nn

from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runs.random_parts import random_tensors
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sharpcli.tasks import Task

TASK = """
import torch
from torch import nn

class Features(nn.Module):
    def __init__(self):
        super().__init__()
        KEPT
        self.head = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(torch.sin(inputs @ self.b))

def model():
    return Features()

def data(split):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(20, 3, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()
"""
LOSS = MeasureSettings(measures=("loss",))
SAID = "not in the file and random in model(): the numbers depend on seed=0"


def notes(folder, source, content, **run):
    (folder / "task.py").write_text(source)
    torch.save(content, folder / "a.pt")
    run_settings = RunSettings(device="cpu", **run)
    report = measure_checkpoints([folder / "a.pt"], folder / "task.py", {}, run_settings, LOSS)
    return [note for note in report.results[0].checkpoint["notes"] if "random" in note]


HEAD = nn.Linear(4, 2).state_dict()
PLAIN = {f"head.{name}": tensor for name, tensor in HEAD.items()}


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("self.register_buffer('b', torch.randn(3, 4), persistent=False)", True),
        ("self.b = torch.randn(3, 4)", True),
        ("self.b = torch.linspace(0, 1, 12).reshape(3, 4)", False),
        ("self.b = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))", False),
    ],
)
def test_random_features_that_the_file_lacks(tmp_path, kept, said):
    found = notes(tmp_path, TASK.replace("KEPT", kept), PLAIN)
    assert [note.startswith(f"'b' {SAID}") for note in found] == [True] * said


def test_the_rest_of_a_part(tmp_path):
    source = TASK.replace("KEPT", "self.register_buffer('b', torch.randn(3, 4))")
    (said,) = notes(tmp_path, source, PLAIN, partial=True)
    assert said.startswith(f"'b' {SAID}")
    fixed = source.replace("return Features()", "torch.manual_seed(0); return Features()")
    assert not notes(tmp_path, fixed, PLAIN, partial=True)
    assert not notes(tmp_path, source, PLAIN | {"b": torch.ones(3, 4)}, partial=True)


def test_a_weight_that_a_hook_computes_is_not_random(tmp_path):
    source = TASK.replace("KEPT", "self.register_buffer('b', torch.ones(3, 4))").replace(
        "nn.Linear(4, 2)", "nn.utils.spectral_norm(nn.Linear(4, 2))"
    )
    head = nn.utils.spectral_norm(nn.Linear(4, 2)).state_dict()
    content = {f"head.{name}": tensor for name, tensor in head.items()}
    assert not notes(tmp_path, source, content | {"b": torch.ones(3, 4)})


class Counted(nn.Module):
    built = 0

    def __init__(self, buffer):
        super().__init__()
        Counted.built += 1
        self.layer = nn.Linear(2, 2)
        self.register_buffer("kept", buffer(), persistent=False)


@pytest.mark.parametrize(
    "buffer",
    [
        lambda: torch.zeros(16),
        lambda: torch.arange(32)[None],
        lambda: torch.arange(32.0).expand(3, -1),
        lambda: 1 / 10000 ** (torch.arange(0, 64, 2).float() / 64),
        lambda: (1 / 500000 ** (torch.arange(0, 128, 2).float() / 128)).bfloat16(),
        lambda: torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
        lambda: torch.full((8, 8), float("-inf")).triu(1),
        lambda: torch.linspace(-1, 1, 20),
    ],
)
def test_what_a_rule_gives_is_not_built_again(buffer):
    Counted.built = 0
    model = Counted(buffer)
    task = Task("t", {}, "", model=lambda: Counted(buffer), data=None, predict=None, loss=None)
    assert random_tensors(task, model, 0, partial=False) == frozenset()
    assert Counted.built == 1


@pytest.mark.parametrize(
    "buffer",
    [
        lambda: torch.randn(16),
        lambda: torch.rand(1),
        lambda: torch.randperm(16),
        lambda: torch.rand(16).sort().values,
        lambda: torch.randint(0, 2, (8, 8)).bool(),
        lambda: torch.randn(8).expand(4, 8),
        lambda: torch.rand(8, 8).tril(),
    ],
)
def test_what_chance_gives_is_found(buffer):
    torch.manual_seed(0)
    model = Counted(buffer)
    task = Task("t", {}, "", model=lambda: Counted(buffer), data=None, predict=None, loss=None)
    assert random_tensors(task, model, 0, partial=False) == {"kept"}
