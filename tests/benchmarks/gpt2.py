"""A GPT-2 of transformers by its default attention, beside the same model by eager attention."""

from __future__ import annotations

import copy

import torch
from problem import Setting
from report import Bar, Section
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.runs.measure import measure_model

NAME = "gpt2"
_BAR = 1e-4


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "A GPT-2 of transformers, built from its configuration",
        "The shape of GPT-2, small and with random weights after some steps of Adam: tied "
        "embeddings, and the attention that transformers takes by default (fused, of which "
        "PyTorch has no second derivative: `sharp` runs it by the math kernel), measured in "
        "float32 beside the same weights in eager attention. The difference is relative.",
    )
    count, steps = (4, 2) if setting.quick else (16, 30)
    inputs = _tokens(count).to(setting.device)
    default = _model().to(setting.device)
    _train(default, inputs, steps)
    eager = _model("eager").to(setting.device)
    eager.load_state_dict(copy.deepcopy(default.state_dict()))
    used = default.config._attn_implementation
    found = {"default": _measured(default, inputs), "eager": _measured(eager, inputs)}
    rows, worst = [], 0.0
    for name, ours in found["default"].items():
        other = found["eager"][name]
        difference = abs(ours.value - other.value) / abs(other.value)
        worst = max(worst, difference)
        rows.append((name, f"{ours.value:.7g}", f"{other.value:.7g}", f"{difference:.1e}"))
    size = sum(parameter.numel() for parameter in default.parameters())
    title = f"{size:,} parameters, {count} rows of {inputs.shape[1]} bytes"
    section.tables.append((title, ("", f"{used} (the default)", "eager", "difference"), rows))
    section.bars.append(
        Bar("default beside eager attention", f"{worst:.1e}", f"≤ {_BAR}", worst <= _BAR)
    )
    return section


def _model(attention: str | None = None) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256,
        n_positions=64,
        n_embd=96,
        n_layer=4,
        n_head=4,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **({"attn_implementation": attention} if attention else {}),
    )
    model = GPT2LMHeadModel(config)
    assert model.lm_head.weight is model.transformer.wte.weight  # tied
    return model


def _tokens(count: int, length: int = 48) -> Tensor:
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics)).encode()[: count * length]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(count, length)


def _loss(outputs: object, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of the next byte: the sum over each row's bytes, and how many there are."""
    logits, targets = outputs.logits[:, :-1], batch["input_ids"][:, 1:]  # type: ignore[attr-defined]
    losses = functional.cross_entropy(
        logits.transpose(1, 2).double(), targets, reduction="none"
    ).sum(1)
    return losses, torch.full_like(losses, targets.shape[1])


def _train(model: nn.Module, inputs: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        sums, weights = _loss(model(input_ids=inputs), {"input_ids": inputs})
        optimizer.zero_grad()
        (sums.sum() / weights.sum()).backward()
        optimizer.step()
    optimizer.zero_grad()


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs.cpu()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.inputs[index]}


def _measured(model: nn.Module, inputs: Tensor) -> dict[str, Scalar]:
    # The trace to the last digit: its random signs are the same for both.
    settings = MeasureSettings(
        measures=("loss", "gradient", "hessian", "trace"), top=2, tol=1e-5, max_products=120
    )
    run = RunSettings(device=str(inputs.device))
    report = measure_model(
        model, _Rows(inputs), loss=_loss, metrics=lambda *_: {}, run=run, settings=settings
    )
    found = report.results[0].measures
    trace = Scalar(found["trace"]["value"])
    return {
        "loss": found["loss"]["train"],
        "‖∇L‖": found["gradient"]["norm"],
        "λ1": found["hessian"]["eigenvalues"][0],
        "trace": trace,
    }
