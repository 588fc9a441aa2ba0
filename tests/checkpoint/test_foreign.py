"""Other tools' files and folders are named, with the call that converts them."""

from __future__ import annotations

import pytest
import torch

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError


def refusal(path):
    with pytest.raises(SharpError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("name", "content", "words", "hint"),
    [
        ("m.gguf", b"GGUF\x03\x00\x00\x00" + bytes(80), "a GGUF file", "gguf_file='m.gguf'"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(80), "an HDF5 (Keras) file", "from_tf=True"),
        ("flax_model.msgpack", b"\x82\xa6params\x81" + bytes(80), "of Flax", "from_flax=True"),
        ("m", b"\x82\xa6params\x81\x00" + bytes(80), "as Flax writes it", "msgpack_restore"),
        ("m.onnx", b"\x08\x08\x12\x07pytorch" + bytes(80), "an ONNX graph", "onnx2torch.convert"),
        ("m", b"\x08\x08\x12\x07pytorch\x00" + bytes(80), "an ONNX graph", "onnx2torch.convert"),
        ("weights.npz", b"PK\x03\x04" + bytes(80), "NumPy arrays, as MLX", "numpy.load(file)"),
        ("m.keras", b"PK\x03\x04" + bytes(80), "a Keras archive", "get_weights"),
        ("m.pt2", b"PK\x03\x04" + bytes(80), "of torch.export", "state_dict"),
        ("__0_0.distcp", b"PK\x03\x04" + bytes(80), "one shard of a distributed", "dcp_to_torch"),
        (
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            b"PK\x03\x04" + bytes(80),
            "one shard of a DeepSpeed ZeRO",
            "zero_to_fp32.py",
        ),
        ("model.ckpt.index", bytes(80), "a part of a TensorFlow checkpoint", "load_checkpoint"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(80), "a TensorFlow Lite", "from_tf"),
        ("m.nemo", bytes(257) + b"ustar\x0000" + bytes(260), "a tar archive", "tar -xf"),
    ],
)
def test_a_file(tmp_path, name, content, words, hint):
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert words in error.message and hint in error.hint


@pytest.mark.parametrize(
    ("names", "words", "hint"),
    [
        ([".metadata", "__0_0.distcp"], "a distributed checkpoint", "dcp_to_torch"),
        (["pytorch_model_fsdp_0/x", "optimizer_0/x"], "of accelerate", "accelerate merge-weights"),
        (["zero_to_fp32.py", "latest", "global_step9/x"], "DeepSpeed ZeRO", "zero_to_fp32.py"),
        (
            ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            "DeepSpeed ZeRO",
            "zero_to_fp32.py",
        ),
        (["_METADATA", "manifest.ocdbt", "d/x"], "an Orbax checkpoint", "PyTreeCheckpointer"),
        (["saved_model.pb", "variables/x"], "a TensorFlow SavedModel", "from_tf"),
        (["flax_model.msgpack", "config.json"], "no weights for PyTorch", "from_flax"),
        (["tf_model.h5", "config.json"], "an HDF5 (Keras) file", "from_tf"),
        (["model-q4.gguf"], "a GGUF file", "gguf_file='model-q4.gguf'"),
        (["weights.npz", "config.json"], "as MLX", "mlx.core.load"),
    ],
)
def test_a_folder(tmp_path, names, words, hint):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    error = refusal(tmp_path)
    assert words in error.message and hint in error.hint


def test_weights_of_torch_beside_those_of_another_tool_are_read(tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(b"x")
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert list(load_checkpoint(tmp_path).tensors) == ["w"]


def test_an_adapters_folder(tmp_path):
    torch.save({"lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.bin")
    torch.save({}, tmp_path / "training_args.bin")
    assert load_checkpoint(tmp_path).notes == ("read from 'adapter_model.bin'",)
