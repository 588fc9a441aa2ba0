"""Recognise quantised weights by their tensors' names and types."""

from __future__ import annotations

import torch

from sharpcli.checkpoint.contents import Checkpoint, quoted
from sharpcli.errors import SharpError

__all__ = ["quantized_error"]

_IN_TRANSFORMERS = (
    "in its own environment: model = AutoModelForCausalLM.from_pretrained(folder); "
    "model.dequantize(); model.save_pretrained(folder + '-float')"
)
# The end of a name that only this kind of file has, what wrote it, and how to convert it. In this
# order: MLX and GPTQ both have scales.
_KINDS = (
    (".SCB", "int8 by bitsandbytes", _IN_TRANSFORMERS),
    (".weight_format", "int8 by bitsandbytes", _IN_TRANSFORMERS),
    (".absmax", "4 or 8 bits by bitsandbytes", _IN_TRANSFORMERS),
    (".quant_map", "4 bits by bitsandbytes", _IN_TRANSFORMERS),
    (
        ".g_idx",
        "integers by GPTQ",
        "use the weights from before quantisation, or convert them: "
        "gptqmodel.utils.model_dequant.dequantize_model(folder, output)",
    ),
    (
        ".qweight",
        "integers by GPTQ or AWQ",
        "use the weights from before quantisation, or convert them: "
        "gptqmodel.utils.model_dequant.dequantize_model(folder, output)",
    ),
    (".weight_packed", "compressed tensors", _IN_TRANSFORMERS),
    (
        ".weight_scale_inv",
        "fp8 with scales of blocks",
        "multiply each weight by its scales: with transformers from_pretrained(folder, "
        "quantization_config=FineGrainedFP8Config(dequantize=True)), then save_pretrained(…)",
    ),
    (
        "_packed_params._packed_params",
        "int8 by torch.ao",
        "save the model's state dict from before torch.ao.quantization.convert",
    ),
    (".weight_scale", "fp8 or int8 with scales", _IN_TRANSFORMERS),
    (
        ".scales",
        "integers with scales, as MLX writes them",
        "in MLX: python -m mlx_lm convert --hf-path FOLDER --mlx-path OUTPUT --dequantize",
    ),
)


def quantized_error(checkpoint: Checkpoint) -> SharpError | None:
    """The error to raise where the weights are quantised, which says how to convert them."""
    for end, kind, hint in _KINDS:
        name = next((name for name in checkpoint.tensors if name.endswith(end)), None)
        if name is not None:
            return SharpError(
                f"{checkpoint.path}: its weights are quantised: {kind} ({quoted(name)}); a loss "
                "has no derivative in integers or in weights without their scales",
                hint,
            )
    for name, tensor in checkpoint.tensors.items():
        if tensor.ndim > 1 and tensor.dtype in (torch.int8, torch.uint8):
            return SharpError(
                f"{checkpoint.path}: its weights are quantised: {quoted(name)} holds "
                f"{str(tensor.dtype).removeprefix('torch.')}",
                "convert them to floating point with the tool that wrote them",
            )
    return None
