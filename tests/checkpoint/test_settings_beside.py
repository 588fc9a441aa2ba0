"""Settings of trainings in the layouts of other tools; nothing of them is imported."""

import json
import sys
import types
from enum import Enum

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sharpcli.checkpoint import load_checkpoint


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def scheduled(model, schedule, steps=3, **options):
    """The state of an optimizer whose schedule has made some steps."""
    options = {"lr": 0.1, **options}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    scheduler = schedule(optimizer)
    for _ in range(steps):
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return optimizer.state_dict()


def test_the_rate_before_the_schedule_and_the_last_one(tmp_path, model):
    state = scheduled(model, lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5))
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt").metadata
    assert (found["lr"], found["lr_now"]) == (0.1, pytest.approx(0.0125))


def test_without_a_schedule_there_is_one_rate(tmp_path, model):
    state = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt").metadata
    assert found["lr"] == 0.1
    assert "lr_now" not in found


def test_of_one_cycle_the_largest_rate_is_the_choice(tmp_path, model):
    cycle = torch.optim.lr_scheduler.OneCycleLR
    state = scheduled(model, lambda o: cycle(o, max_lr=0.5, total_steps=10))
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt").metadata
    assert found["lr"] == 0.5
    assert found["lr_now"] == state["param_groups"][0]["lr"]


def test_the_rate_that_the_arguments_name_and_a_loop_has_changed(tmp_path, model):
    state = torch.optim.SGD(model.parameters(), 0.01).state_dict()
    about = {"args": {"learning_rate": 0.1}, "optimizer": state, "model": model.state_dict()}
    torch.save(about, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt").metadata
    assert (found["lr"], found["lr_now"], found["learning_rate"]) == (0.1, 0.01, 0.1)


def test_lightning(tmp_path, model):
    state = scheduled(model, lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5))
    lightning = {
        "epoch": 1,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "optimizer_states": [state],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "batch_size": 16,
            "accumulate_grad_batches": 2,
            "net": {"width": 64},
            "max_epochs": 5,
        },
    }
    torch.save(lightning, tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    found = checkpoint.metadata
    assert (found["lr"], found["batch_size"], found["steps"]) == (0.1, 32, 40)
    assert found["net.width"] == 64
    assert found["batch_size_from"] == "batch_size 16 × accumulate_grad_batches 2"
    assert f"batch_size=32 is of one update: {found['batch_size_from']}" in checkpoint.notes


@pytest.fixture
def arguments(monkeypatch):
    """A class of transformers' name, which leaves when the file is written."""
    module = types.ModuleType("transformers_like")

    class Kind(Enum):
        COSINE = "cosine"

    class Arguments:
        def __init__(self, **values):
            self.__dict__.update(values)

        def __setstate__(self, state):
            raise AssertionError("code of a checkpoint was run")

    for each in (Kind, Arguments):
        each.__module__, each.__qualname__ = "transformers_like", each.__name__
        setattr(module, each.__name__, each)

    def write(path, **values):
        monkeypatch.setitem(sys.modules, "transformers_like", module)
        torch.save(Arguments(lr_scheduler_type=Kind.COSINE, **values), path)
        monkeypatch.delitem(sys.modules, "transformers_like")

    return write


def folder_of(tmp_path, model, **state):
    folder = tmp_path / "checkpoint-40"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    if state:
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_hugging_face_trainer(tmp_path, model, arguments):
    folder = folder_of(tmp_path, model, epoch=0.5, global_step=40, max_steps=80, logging_steps=5)
    arguments(
        folder / "training_args.bin",
        learning_rate=0.1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        optim="adamw_torch",
        output_dir="/somewhere",
        callback=lambda_like(),
    )
    for rank in range(3):
        (folder / f"rng_state_{rank}.pth").write_bytes(b"")
    torch.save(
        scheduled(model, lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)),
        folder / "optimizer.pt",
    )
    checkpoint = load_checkpoint(folder)
    found = checkpoint.metadata
    wanted = {
        "lr": 0.1,
        "lr_now": 0.0125,
        "schedule": "cosine",
        "batch_size": 24,
        "batch_size_from": "per_device_train_batch_size 4 × gradient_accumulation_steps 2 × "
        "num_processes 3",
        "steps": 40,
        "epochs": 0.5,
        "max_steps": 80,
        "optimizer": "adamw",
        "training_args.output_dir": "/somewhere",
        "logging_steps": 5,
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert checkpoint.optimizer is not None
    assert checkpoint.notes == ("read from 'model.safetensors'",)


def lambda_like():
    return {"nested": {"deep": {"deeper": 1}}, "values": list(range(10))}


def test_accelerate(tmp_path, model):
    folder = folder_of(tmp_path, model)
    torch.save(
        scheduled(model, lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), momentum=0.9),
        folder / "optimizer.bin",
    )
    for rank in range(2):
        (folder / f"random_states_{rank}.pkl").write_bytes(b"")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.optimizer is not None
    found = checkpoint.metadata
    assert (found["optimizer"], found["lr"], found["momentum"]) == ("sgd", 0.1, 0.9)
    assert found["num_processes"] == 2


def test_a_config_beside_the_weights(tmp_path, model):
    folder = folder_of(tmp_path, model)
    config = {"hidden_size": 64, "vision": {"width": 32}, "id2label": dict.fromkeys(range(99), "x")}
    (folder / "config.json").write_text(json.dumps(config))
    for path in (folder, folder / "model.safetensors"):
        found = load_checkpoint(path).metadata
        assert found == {"config.hidden_size": 64, "config.vision.width": 32}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00", '{"a": ' * 9000])
def test_a_broken_config_is_left_out(tmp_path, model, text):
    folder = folder_of(tmp_path, model)
    (folder / "config.json").write_text(text)
    (folder / "training_args.bin").write_bytes(b"PK\x03\x04" + text.encode())
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.metadata, checkpoint.notes) == ({}, ("read from 'model.safetensors'",))


def test_settings_that_link_to_each_other_end(tmp_path, model):
    table = {f"k{i}": i for i in range(40)}
    for _ in range(6):
        table = {f"k{i}": table for i in range(40)}
    torch.save({"model": model.state_dict(), "config": table}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").metadata == {}


def test_a_yaml_file_without_the_library_that_reads_it(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    torch.save(model.state_dict(), tmp_path / "a.ckpt")
    (tmp_path / "hparams.yaml").write_text("lr: 0.1")
    found = load_checkpoint(tmp_path / "a.ckpt")
    assert "lr" not in found.metadata
    said = "'hparams.yaml' not read: it needs PyYAML (pip install 'sharpcli[yaml]')"
    assert said in found.notes
