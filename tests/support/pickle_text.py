"""Pickles written by hand, operation by operation."""

import struct
import zipfile


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def program(path, *operations):
    weight = (
        text("w") + named("torch._utils._rebuild_tensor_v2") + b"(("
        + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
        + b"K\x00K\x04\x85K\x01\x85\x89}tRq\x00s"
    )  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + weight + b"".join(operations) + b".")
        archive.writestr("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path
