"""What model() draws at random and no checkpoint replaces is said."""

import pytest
import torch
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.runs.measure import measure_checkpoints

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
