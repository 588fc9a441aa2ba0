"""transformers' Trainer with and without the callback: equal bytes, and numbers in its history."""

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers' own

VOCABULARY, WINDOW = 24, 12


class Texts(torch.utils.data.Dataset):
    """Windows of a cyclic text with noise, of unequal lengths."""

    def __init__(self, count=96):
        generator = torch.Generator().manual_seed(0)
        start = torch.randint(0, VOCABULARY, (count, 1), generator=generator)
        noise = torch.randint(0, 3, (count, WINDOW), generator=generator)
        self.tokens = (start + torch.arange(WINDOW) + noise) % VOCABULARY
        self.lengths = torch.randint(4, WINDOW + 1, (count,), generator=generator).tolist()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index, : self.lengths[index]].tolist()}


def padded(rows):
    """A batch as collators for language models make it, with −100 for padding."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[number, : len(row["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def gpt():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=WINDOW, n_embd=16, n_layer=1, n_head=2,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def trained(folder, watch=None, *, model=gpt, steps=12, data=None, collate=padded, **settings):
    transformers.set_seed(0)
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, logging_steps=4,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
        **settings,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model(), arguments, train_dataset=data or Texts(), data_collator=collate
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if watch is not None:
        from sharpcli import TransformersCallback

        trainer.add_callback(TransformersCallback(trainer, **watch))
    trainer.train()
    return trainer


def logged(trainer, key="sharpness/hessian.eigenvalues[0]"):
    return {row["step"]: row[key] for row in trainer.state.log_history if key in row}


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"gradient_checkpointing": True}])
def test_the_training_is_the_same_byte_for_byte(tmp_path, precision):
    plain = trained(tmp_path, **precision)
    drawn = torch.get_rng_state()
    watch = {"measures": ("hessian", "loss", "gradient"), "every": 4, "share": None, "samples": 24}
    watched = trained(tmp_path, watch, **precision)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, watched.model.state_dict()[name]), name
    for own, other in zip(
        plain.optimizer.state.values(), watched.optimizer.state.values(), strict=True
    ):
        assert all(torch.equal(own[key], other[key]) for key in own)
    assert torch.equal(torch.get_rng_state(), drawn)
    # The Trainer's own log has the same entries at the same steps.
    losses = [(row["step"], row["loss"]) for row in plain.state.log_history if "loss" in row]
    assert losses == [(r["step"], r["loss"]) for r in watched.state.log_history if "loss" in r]
    assert [step for step, _ in losses] == [4, 8, 12]
    assert list(logged(watched)) == [4, 8, 12]
    assert watched.model.training is plain.model.training


def test_the_numbers_are_those_of_the_model_s_own_loss(tmp_path):
    watch = {"measures": ("hessian", "loss"), "every": 12, "share": None, "samples": 48}
    trainer = trained(tmp_path, watch, data=Texts(48))
    model, tokens, total, weight = trainer.model.eval(), Texts(48), 0.0, 0
    with torch.no_grad():
        for index in range(len(tokens)):
            batch = padded([tokens[index]])
            terms = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch).loss) * terms
            weight += terms
    found = logged(trainer, "sharpness/loss.train")[12]
    assert abs(found - total / weight) <= 1e-5 * found
    import sharpcli

    callback = trainer.callback_handler.callbacks[-1]
    report = sharpcli.measure_model(
        model,
        trainer.get_train_dataloader(),
        loss=callback.monitor._subject.network.task.loss,
        predict=callback.monitor._subject.network.task.predict,
        measures="hessian",
        settings=sharpcli.MeasureSettings(top=1, tol=0.01),
    )
    true = report.scalars()["hessian.eigenvalues[0]"]
    assert abs(logged(trainer)[12] - true) <= 0.1 * true


def test_regression_and_classes_are_recognised_by_the_model_s_own_loss(tmp_path):
    def rows(labels):
        texts = Texts(32)
        return [{"input_ids": texts.tokens[i], "labels": labels[i]} for i in range(32)]

    def model(**settings):
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=WINDOW, **settings,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)

    watch = {"measures": "loss", "every": 2, "share": None}
    kinds = [
        (torch.arange(32) % 3, {"num_labels": 3}),
        (torch.linspace(-1, 1, 32), {"num_labels": 1}),
        ((torch.arange(64).reshape(32, 2) % 3 > 0).float(), {"num_labels": 2}),
    ]
    for labels, settings in kinds:
        trainer = trained(
            tmp_path, watch, model=lambda s=settings: model(**s), data=rows(labels),
            collate=None, steps=2,
        )  # fmt: skip
        batch = {
            "input_ids": torch.stack([row["input_ids"] for row in rows(labels)]),
            "labels": labels,
        }
        with torch.no_grad():
            true = float(trainer.model.eval()(**batch).loss)
        found = logged(trainer, "sharpness/loss.train")[2]
        assert abs(found - true) <= 1e-4 * true


def test_a_loss_that_is_not_known_is_refused_before_the_training(tmp_path):
    from sharpcli.errors import SharpError

    class Doubled(transformers.GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            if found.loss is not None:
                found.loss = 2 * found.loss
            return found

    def model():
        return Doubled(gpt().config)

    with pytest.raises(SharpError, match="its own loss is"):
        trained(tmp_path, {}, model=model, remove_unused_columns=False)
    watch = {"loss": lambda outputs, batch: outputs.logits.square().mean((1, 2)), "share": None}
    watch |= {"measures": "loss", "every": 2}
    trainer = trained(tmp_path, watch, model=model, steps=2, remove_unused_columns=False)
    assert logged(trainer, "sharpness/loss.train")


def test_the_preconditioned_eigenvalue_takes_the_trainer_s_optimizer(tmp_path):
    watch = {"measures": ("preconditioned-hessian",), "every": 6, "share": None, "samples": 24}
    found = logged(trained(tmp_path, watch), "sharpness/preconditioned_hessian.eigenvalues[0]")
    assert list(found) == [6, 12]
    assert all(value > 0 for value in found.values())
