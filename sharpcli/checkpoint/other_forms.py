"""Other names of the same tensors: norms as hooks or parametrizations, old norms, adapters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

__all__ = ["Forms"]

# Suffixes of a normalised weight's tensors in torch.nn.utils: as a hook, and as a parametrization.
# The tensors and the arithmetic are the same.
_PARAMETRIZED = "parametrizations."
_FORMS = {
    "weight norm": (("_g", ".original0"), ("_v", ".original1")),
    "spectral norm": (("_orig", ".original"), ("_u", ".0._u"), ("_v", ".0._v")),
}
# TensorFlow's names of a layer norm's tensors, which BERT's first checkpoints have
_OLD_NORMS = {"gamma": "weight", "beta": "bias"}
_Names = dict[str, str]  # the name as renamed → the name in the checkpoint


class Forms:
    """Renames tensors that a model names in another way, part by part.

    `shorter` maps names as an adapter's file has them to the model's: PEFT leaves out the adapter's
    name (`lora_A.default.weight`, `modules_to_save.default.weight`).
    """

    def __init__(
        self, stored: Iterable[str], wanted: Collection[str], adapters: Sequence[str] = ()
    ) -> None:
        self._wanted = wanted
        self._parametrized = any(_PARAMETRIZED in name for name in (*stored, *wanted))
        self.shorter: dict[str, str] = {}
        for adapter in adapters:
            inserted = re.compile(rf"\.(modules_to_save\.)?{re.escape(adapter)}(?=\.|$)")
            for name in wanted:
                short = inserted.sub("", name)
                if "lora_magnitude_vector" in short:
                    short = short.removesuffix(".weight")
                elif name.endswith(f"prompt_encoder.{adapter}.embedding.weight"):
                    short = "prompt_embeddings"
                if short != name and short not in wanted:
                    self.shorter.setdefault(short, name)

    def converted(self, names: _Names) -> tuple[_Names, list[str]]:
        """`names` in the model's form, and a note for each kind of change."""
        notes: list[str] = []
        if self._parametrized:
            names, notes = _in_other_form(names, self._wanted)
        names, old = _with_new_norms(names, self._wanted)
        if old:
            tensors = "tensor" if old == 1 else "tensors"
            notes.append(f"{old} {tensors} 'gamma' or 'beta' read as 'weight' or 'bias'")
        longer = {
            new: self.shorter.get(new, new) if new not in self._wanted else new for new in names
        }
        count = sum(new != name for new, name in longer.items())
        if count and len({*longer.values()}) == len(names):
            names = {longer[new]: old_name for new, old_name in names.items()}
            notes.append(f"the adapter's name put into {count} names")
        return names, notes


def _with_new_norms(names: _Names, wanted: Collection[str]) -> tuple[_Names, int]:
    """`names` with weight and bias for gamma and beta where the model has these; their number."""
    renamed: _Names = {}
    count = 0
    for name, old in names.items():
        where, dot, last = name.rpartition(".")
        new = f"{where}{dot}{_OLD_NORMS.get(last, last)}"
        if new != name and name not in wanted and new in wanted and new not in names:
            name = new
            count += 1
        renamed[name] = old
    return renamed, count


def _in_other_form(names: _Names, wanted: Collection[str]) -> tuple[_Names, list[str]]:
    """Rename weight norms and spectral norms to the model's form: hook or parametrization."""
    renamed: _Names = {}
    kinds: list[str] = []
    for name in names:
        for kind, parts in _FORMS.items():
            for way, other in _both_forms(name, parts):
                if way[0] in renamed or not all(
                    a in names and a not in wanted and b in wanted
                    for a, b in zip(way, other, strict=True)
                ):
                    continue
                renamed |= dict(zip(way, other, strict=True))
                kinds.append(kind)
    notes = [
        f"{kind} of {count} tensor{'s' if count > 1 else ''} converted to the model's form"
        for kind in _FORMS
        if (count := kinds.count(kind))
    ]
    return {renamed.get(name, name): kept for name, kept in names.items()}, notes


def _both_forms(
    name: str, parts: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[str], list[str]]]:
    """All names of the norm whose first tensor is `name`, with their names in the other form."""
    hook, parametrization = parts[0]
    if name.endswith(hook):
        where, dot, tensor = name.removesuffix(hook).rpartition(".")
        new = f"{where}{dot}{_PARAMETRIZED}{tensor}"
        yield [f"{where}{dot}{tensor}{end}" for end, _ in parts], [new + end for _, end in parts]
    if name.endswith(parametrization):
        new = name.removesuffix(parametrization)
        where, _, tensor = new.rpartition(_PARAMETRIZED)
        if tensor and "." not in tensor:
            yield [new + end for _, end in parts], [f"{where}{tensor}{end}" for end, _ in parts]
