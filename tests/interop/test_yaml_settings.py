"""YAML files beside checkpoints, as Lightning and Hydra write them."""

import sys
import time
import warnings

import pytest
import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint

yaml = pytest.importorskip("yaml")


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(nn.Linear(3, 2).state_dict(), folder / "a.ckpt")
    return folder / "a.ckpt"


def facts(path, text, name="hparams.yaml", above=True):
    file = (path.parent.parent if above else path.parent) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    checkpoint = load_checkpoint(path)
    return checkpoint.metadata, "\n".join(checkpoint.notes)


@pytest.mark.parametrize("above", [True, False])
def test_settings_of_lightning(path, above):
    metadata, notes = facts(path, "lr: 0.1\nwidth: 64\nmodel: {depth: 3}\n", above=above)
    assert metadata["lr"] == 0.1
    assert (metadata["width"], metadata["model.depth"]) == (64, 3)
    assert "left out" not in notes


def test_settings_of_hydra(path):
    text = "optimizer: {lr: 0.01}\nseed: 3\nname: run-${seed}\n"
    metadata, _ = facts(path, text, ".hydra/config.yaml")
    assert (metadata["seed"], metadata["optimizer.lr"]) == (3, 0.01)
    assert "name" not in metadata  # what it refers to is not looked up


def test_what_lightning_itself_writes(path):
    saving = pytest.importorskip("lightning.pytorch.core.saving")
    hparams = {"lr": 0.1, "betas": (0.9, 0.95), "loss": nn.MSELoss, "width": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it cannot write
        saving.save_hparams_to_yaml(path.parent.parent / "hparams.yaml", hparams)
    metadata = load_checkpoint(path).metadata
    assert (metadata["lr"], metadata["width"]) == (0.1, 8)


def test_what_omegaconf_writes(path):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {"model": {"width": 8}, "lr": 0.1, "wide": "${model.width}"}
    )
    metadata, _ = facts(path, omegaconf.OmegaConf.to_yaml(config), ".hydra/config.yaml")
    assert (metadata["model.width"], metadata["lr"]) == (8, 0.1)
    assert "wide" not in metadata


class Canary:
    made = False

    def __init__(self, *_):
        Canary.made = True

    def __reduce__(self):
        return Canary, (1,)


def test_no_object_is_made(path):
    text = yaml.dump({"lr": 0.1, "betas": (0.9, 0.95), "odd": Canary(), "kind": Canary})
    Canary.made = False
    metadata, notes = facts(path, text)
    assert not Canary.made
    assert metadata["lr"] == 0.1 and metadata["betas"] == "0.9,0.95"
    assert "left out of 'hparams.yaml': values with" in notes
    assert "'the tag !!python/object/apply:" in notes


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch ran']",
        "a: !!python/object/new:os.system ['touch ran']",
        "!!python/object/apply:os.system ['touch ran']",
        "? !!python/name:os.system\n: 3",
        "a: !!python/module:antigravity",
        "a: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch ran']",
    ],
)
def test_no_code_runs(path, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts(path, text)
    assert not (tmp_path / "ran").exists() and "antigravity" not in sys.modules


def bomb():
    lines = ["a0: &a0 [lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "values with 'an alias'"),
        ("a: &a [*a]", "values with 'an alias'"),
        ("a: " + "[" * 60_000, "is not plain YAML"),
        ("a: " + "9" * 100_000, ""),
        ("a: " + "1:" * 50_000 + "1", ""),
        ("a: &a {b: 1}\nc: {<<: *a}", "is not plain YAML"),
        ("a: b: c", "is not plain YAML"),
        ("lr: !!bool maybe", "is not plain YAML"),
        ('lr: !!int ""', "is not plain YAML"),
        ('lr: !!float ""', "is not plain YAML"),
        ("when: !!timestamp never", "is not plain YAML"),
        ("- 1", ""),
        ("", ""),
        ("\x00", "is not plain YAML"),
        ("a: 1\n" * 60_000, "settings have at most 131,072"),
        ("--- {a: 1}\n--- {b: 2}", "is not plain YAML"),
    ],
    ids=range(16),
)
def test_odd_files_end_soon(path, text, said):
    began = time.process_time()
    metadata, notes = facts(path, text)
    assert time.process_time() - began < 5
    assert said in notes
    assert not any(isinstance(value, list | dict) for value in metadata.values())
