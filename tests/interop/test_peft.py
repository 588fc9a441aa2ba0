"""Adapters that peft writes: the file's part is measured, the rest is of the task's model."""

from __future__ import annotations

import pytest
import torch
from live_models import assert_equal, dense, measured, module_of, perturbed

from sharpcli.checkpoint import match_tensors, read_checkpoint

pytest.importorskip("transformers")
pytest.importorskip("peft")

TASK = """
import peft
import torch
from transformers import BertConfig, BertForSequenceClassification

def model():
    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=4, max_position_embeddings=6, num_labels=3,
        attn_implementation="eager",
    ))
    return peft.get_peft_model(base, CONFIG)

def data(split):
    if split == "train":
        generator = torch.Generator().manual_seed(3)
        words = torch.randint(0, 7, (9, 5), generator=generator)
        return words, torch.randint(0, 3, (9,), generator=generator)

def predict(model, batch):
    return model(input_ids=batch[0]).logits

def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")
"""
LORA = "CONFIG = peft.LoraConfig(r=2, target_modules=['query', 'value']"
CONFIGS = {
    "lora": (LORA + ")", "4 of the model's"),
    "with a head": (LORA + ", modules_to_save=['classifier'])", "6 of the model's"),
    "for classification": (LORA + ", task_type='SEQ_CLS')", "6 of the model's"),
    "ia3": (
        "CONFIG = peft.IA3Config(target_modules=['query', 'value'], feedforward_modules=[])",
        "2 of the model's",
    ),
}


def written(folder, text):
    """A task file, its module, and its model with other weights."""
    path = folder / "task.py"
    path.write_text(text)
    task = module_of(path)
    return path, task, perturbed(task.model())


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapters_folder_and_file(tmp_path, kind):
    config, count = CONFIGS[kind]
    path, task, model = written(tmp_path, TASK + config)
    model.save_pretrained(tmp_path / "adapter")
    result = measured(path, tmp_path / "adapter", partial=True)
    assert_equal(result, task, model)
    (note,) = [each for each in result.checkpoint["notes"] if "as model() made them" in each]
    assert f"the file has {count}" in note
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"({trained:,} of " in note
    lone = measured(path, tmp_path / "adapter" / "adapter_model.safetensors", partial=True)
    assert lone.measures["loss"]["train"].value == result.measures["loss"]["train"].value


def test_the_head_of_an_adapter_with_all_biases_is_in_the_file_twice(tmp_path):
    # peft writes its bias as classifier.bias and as classifier.modules_to_save.bias
    path, task, model = written(tmp_path, TASK + LORA + ", bias='all', task_type='SEQ_CLS')")
    model.save_pretrained(tmp_path / "adapter")
    result = measured(path, tmp_path / "adapter", partial=True)
    assert_equal(result, task, model)
    assert any("modules_to_save.bias' not in the" in note for note in result.checkpoint["notes"])


def test_dora_has_a_loss_and_no_second_derivative(tmp_path):
    # peft leaves the norm of the adapted weight out of differentiation
    path, task, model = written(tmp_path, TASK + LORA + ", use_dora=True)")
    model.save_pretrained(tmp_path / "adapter")
    refused = measured(path, tmp_path / "adapter", partial=True)
    assert "the gradient is not the slope of the loss" in refused.error.message
    result = measured(path, tmp_path / "adapter", measures=("loss",), partial=True)
    assert abs(result.measures["loss"]["train"].value - dense(task, model)[0]) < 1e-9
    assert any("the file has 6 of" in note for note in result.checkpoint["notes"])


def test_an_adapter_with_a_name_of_its_own(tmp_path):
    path, task, model = written(
        tmp_path, TASK.replace("CONFIG)", "CONFIG, adapter_name='mine')") + LORA + ")"
    )
    model.save_pretrained(tmp_path / "adapter")
    assert_equal(measured(path, tmp_path / "adapter" / "mine", partial=True), task, model)


def test_a_whole_model_with_its_adapter_in_one_file(tmp_path):
    path, task, model = written(tmp_path, TASK + LORA + ")")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert_equal(measured(path, tmp_path / "model.pt"), task, model)


def test_without_partial_the_message_names_it(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK + LORA + ")")
    perturbed(module_of(path).model()).save_pretrained(tmp_path / "adapter")
    refused = measured(path, tmp_path / "adapter")
    assert "is missing" in refused.error.message and "partial=True" in refused.error.hint
    path.write_text(TASK.replace("peft.get_peft_model(base, CONFIG)", "base"))
    refused = measured(path, tmp_path / "adapter", partial=True)
    assert "peft.get_peft_model" in refused.error.hint


def test_an_adapter_that_the_models_configuration_scales_otherwise_is_an_error(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK + LORA + ", lora_alpha=32)")
    perturbed(module_of(path).model()).save_pretrained(tmp_path / "adapter")
    path.write_text(TASK + LORA + ", lora_alpha=8)")
    refused = measured(path, tmp_path / "adapter", partial=True)
    assert "'lora_alpha' is '32' in it and '8' in the model" in refused.error.message
    assert "peft.PeftConfig.from_pretrained" in refused.error.hint


def test_a_file_of_one_adapter_goes_to_the_active_one(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK + LORA + ")")
    module_of(path).model().save_pretrained(tmp_path / "adapter")
    several = TASK.replace(
        "return peft.get_peft_model(base, CONFIG)",
        "model = peft.get_peft_model(base, CONFIG, adapter_name='first')\n"
        "    model.add_adapter('second', CONFIG)\n"
        "    model.set_adapter('second')\n"
        "    return model",
    )
    path.write_text(several + LORA + ")")
    model = module_of(path).model()
    checkpoint = read_checkpoint(tmp_path / "adapter")
    match = match_tensors(checkpoint, model.state_dict(), model=model, rest=model.state_dict())
    assert len(match.covered) == 4 and all(".second." in name for name in match.covered)
