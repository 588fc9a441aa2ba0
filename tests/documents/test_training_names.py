"""Settings of trainings under one name, and what of a checkpoint's metadata is a choice."""

import pytest
from sharpcli.settings.training_names import add_names, named_settings

from sharpcli.documents.labels import common_metadata, differing_metadata

HUGGING_FACE = {
    "training_args.learning_rate": 3e-4,
    "training_args.weight_decay": 0.01,
    "training_args.adam_beta1": 0.9,
    "training_args.adam_beta2": 0.95,
    "training_args.adam_epsilon": 1e-8,
    "training_args.lr_scheduler_type": "cosine",
    "training_args.optim": "adamw_torch_fused",
    "training_args.max_steps": -1,
    "training_args.num_train_epochs": 3.0,
    "training_args.max_grad_norm": 1.0,
    "training_args.label_smoothing_factor": 0.0,
    "training_args.per_device_train_batch_size": 8,
    "training_args.gradient_accumulation_steps": 4,
    "training_args.distributed_state.num_processes": 2,
    "training_args.seed": 42,
    "training_args.use_cache": False,
    "training_args.output_dir": "out",
    "training_args.logging_steps": 500,
    "global_step": 1000,
}


def test_names_of_hugging_face():
    assert named_settings(HUGGING_FACE) == {
        "optimizer": "adamw",
        "lr": 3e-4,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.95,
        "betas": "0.9,0.95",
        "eps": 1e-8,
        "clip_norm": 1.0,
        "max_epochs": 3.0,
        "seed": 42,
        "steps": 1000,
        "batch_size": 64,
        "batch_size_from": "per_device_train_batch_size 8 × gradient_accumulation_steps 4 × "
        "distributed_state.num_processes 2",
    }


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ({"batch_size": 32}, None),
        ({"per_device_train_batch_size": 8}, 8),
        ({"per_gpu_train_batch_size": 8, "world_size": 4}, 32),
        ({"batch_size": 12, "gradient_accumulation_steps": 40}, 480),
        ({"batch_size": 12, "accumulate_grad_batches": 1}, None),
        ({"batch_size": 16, "devices": 2, "num_nodes": 3}, 96),
        ({"batch_size": 16, "world_size": 6, "devices": 2, "num_nodes": 3}, 96),
        ({"global_batch_size": 512, "batch_size": 16, "world_size": 4}, 512),
        ({"per_device_train_batch_size": "8"}, None),
        ({"per_device_train_batch_size": 0}, None),
        ({"batch_size": 12, "gradient_accumulation_steps": 40, "sharpcli": "1.0"}, None),
    ],
)
def test_the_batch_size_of_one_update(metadata, size):
    assert named_settings(metadata).get("batch_size") == size


def test_a_guess_about_a_batch_size_is_noted_and_made_once():
    metadata = {"batch_size": 12, "gradient_accumulation_steps": 40}
    said = "batch_size=480 is of one update: batch_size 12 × gradient_accumulation_steps 40"
    assert add_names(metadata) == [said]
    assert metadata["batch_size"] == 480
    assert add_names(metadata) == []
    assert metadata["batch_size"] == 480
    assert add_names({"per_device_train_batch_size": 8, "world_size": 2}) == []


def test_what_a_file_has_under_our_name_stays():
    assert named_settings({"lr": 0.1, "learning_rate": 0.2}) == {}


def test_tables_show_choices_and_no_name_twice():
    rows = []
    for index, rate in enumerate((3e-4, 1e-3)):
        row = {**HUGGING_FACE, "training_args.learning_rate": rate}
        row |= {
            "training_args.output_dir": f"out-{index}",
            "training_args.logging_steps": index,
            "training_args.use_cache": bool(index),
            "config._name_or_path": f"me/model-{index}",
            "config.transformers_version": f"5.{index}",
            "config.hidden_size": 16 * (index + 1),
            "tokenizer_name": f"tokenizer-{index}",
            "hash_seed": index,
            "weights_seen": "/home/me/x" if index else "/home/me/y",
            "total_flos": float(index),
            "lr_now": rate / 2,
        }
        add_names(row)
        rows.append(row)
    assert differing_metadata(rows) == ["config.hidden_size", "lr_now", "lr"]
    assert common_metadata(rows) == {
        "steps": 1000,
        "optimizer": "adamw",
        "schedule": "cosine",
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "clip_norm": 1.0,
        "max_epochs": 3.0,
        "seed": 42,
        "batch_size": 64,
    }


def test_of_files_of_sharp_train_all_is_shown():
    rows = [
        {"sharpcli": "1.0", "init": "/x/a", "log_every": 1},
        {"sharpcli": "1.0", "init": "/x/b"},
    ]
    assert differing_metadata(rows) == ["init", "log_every"]


def test_checkpoints_of_different_tools_share_columns():
    other = {"optimizer": "adamw", "lr": 1e-3, "batch_size": 32, "beta1": 0.9, "beta2": 0.95}
    hugging_face = dict(HUGGING_FACE)
    add_names(hugging_face)
    assert {"lr", "batch_size"} <= {*differing_metadata([hugging_face, other])}
    assert not {"betas", "learning_rate"} & {*differing_metadata([hugging_face, other])}
