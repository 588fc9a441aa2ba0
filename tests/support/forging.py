"""Checkpoints that nobody saved: damaged, handmade and hostile ones, made from a seed.

`forge(seed, index, folder)` writes one of them. Whatever reads it may refuse it or not, but not run
its code, hang, take all memory, or show bytes that are not the file's (`tests/trying.py`).
"""

import argparse
import datetime
import functools
import io
import json
import os
import pickle
import pickletools
import random
import shutil
import socket
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict, deque
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

CANARY = "canary"  # the file that every piece of code in a forged file would write
_NASTY = (0, 1, -1, 2, 3, 64, 65, 127, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64)
_NASTY += (-(2**63), 10**30, 0.5, 1e308, None, True, "", "F32", [], {}, [[]], "9" * 50, "\ud800")


def forge(seed, index, folder):
    """Write the forged checkpoint number `index` of `seed` in `folder`; its kind and its path."""
    rng = random.Random(f"{seed}/{index}")
    kinds = list(_KINDS)
    kind = kinds[index % len(kinds)]
    return kind, _KINDS[kind](rng, Path(folder))


# --- whole files, to be damaged ------------------------------------------------------------------


def _states():
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(5, 4, generator=generator)
    parameter = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = weight.clone()
    optimizer.step()
    plain = OrderedDict(w=weight, b=torch.arange(3.0), n=torch.tensor(7))
    yield plain
    yield {
        "model": plain,
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "args": {"lr": 0.5, "betas": (0.9, 0.99), "name": "run"},
    }
    yield {"state_dict": {"w": parameter, "tied": weight, "again": weight, "row": weight[1]}}
    yield {
        "h": torch.ones(3, dtype=torch.float16),
        "bf": torch.ones(2, 2, dtype=torch.bfloat16),
        "c": torch.ones(2, dtype=torch.complex64).conj(),
        "none": torch.zeros(0, 3),
        "t": weight.T,
        "u": torch.ones(2, dtype=torch.uint16),
        "q": torch.ones(4, dtype=torch.bool),
    }


class Settings:
    """An object that no reader of checkpoints knows."""

    def __init__(self, **entries):
        self.__dict__.update(entries)


def _foreign():
    """Files with objects of many classes beside, around and instead of a state dict."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    own = Settings(lr=0.1, shadow=dict(state), loss=torch.nn.CrossEntropyLoss(torch.ones(3)))
    own.own = own
    yield {
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(lr=0.5, act=torch.nn.functional.relu, inner=own),
        "rng": np.random.default_rng(3).random(5),
        "out": PurePosixPath("a/b"),
        "when": datetime.datetime(2020, 1, 1),
        "last": deque([Counter("aab"), {1, 2}, frozenset([3]), range(4), slice(1, 2), 1j]),
        "part": functools.partial(torch.relu, 3, k=2),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2),
    }
    yield {"model": model, "optimizer": optimizer.state_dict(), "epoch": 3}
    yield model
    yield {"ema": own, "optim": optimizer, "net": Settings(state_dict=state)}


def _without_torch():
    """Pickles that no torch.save wrote, of NumPy's arrays and of tensors."""
    arrays = {"w": np.arange(12.0).reshape(4, 3), "b": np.asfortranarray(np.eye(3, 2, dtype="i2"))}
    arrays |= {"big": np.arange(3, dtype=">f4"), "texts": np.array(["a"]), "n": np.float32(3)}
    for protocol in (2, 3, 4, 5):
        yield pickle.dumps({"model": arrays, "out": PurePosixPath("a")}, protocol)
        yield pickle.dumps(next(_states()), protocol)


def _saved(state, **options):
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def _tables():
    return [{k: v for k, v in state.items() if torch.is_tensor(v)} for state in _states()][::3]


ZIPS = [_saved(state) for state in _states()]
LEGACY = [_saved(state, _use_new_zipfile_serialization=False) for state in _states()]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # old files have the source code of classes, if there is one
    FOREIGN = [_saved(content) for content in _foreign()]
    FOREIGN += [_saved(content, pickle_protocol=5) for content in _foreign()]
    FOREIGN_LEGACY = [
        _saved(content, _use_new_zipfile_serialization=False) for content in _foreign()
    ]
BARE = list(_without_torch())
LATER = [_saved(state, pickle_protocol=4) for state in _states()]
SAFETENSORS = [
    save_safetensors(
        {k: v.resolve_conj().contiguous().clone() for k, v in table.items() if v.dtype.itemsize},
        {"lr": "0.1", "task": "digits", "task_options": "width=8,depth=1"},
    )
    for table in _tables()
]


# --- damaged bytes -------------------------------------------------------------------------------


def _damaged(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not content:
            break
        place = rng.randrange(len(content))
        if rng.random() < 0.5:  # headers, pickles and directories are at either end
            place = min(int(rng.expovariate(1 / 150)), len(content) - 1)
            place = place if rng.random() < 0.7 else len(content) - 1 - place
        length = rng.choice((1, 1, 2, 4, 8, 30))
        what = rng.randrange(6)
        if what == 0:
            content[place] ^= 1 << rng.randrange(8)
        elif what == 1:
            content[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what == 2:
            del content[place : place + length]
        elif what == 3:
            content[place:place] = rng.randbytes(length)
        elif what == 4:
            other = rng.randrange(len(content))
            content[place : place + length] = content[other : other + length]
        else:
            kind, size = rng.choice((("<I", 4), ("<Q", 8), ("<H", 2)))
            number = int(rng.choice(_NASTY[:16])) % 256**size
            content[place : place + size] = struct.pack(kind, number)
    if rng.random() < 0.1:
        del content[rng.randrange(len(content) + 1) :]
    return bytes(content)


def _damaged_file(wholes, name):
    def make(rng, folder):
        path = folder / name
        path.write_bytes(_damaged(rng, rng.choice(wholes)))
        return path

    return make


# --- safetensors headers and indices -------------------------------------------------------------


def _twisted(rng, value, depth=0):
    """JSON like `value`, with parts left out, repeated, exchanged or replaced."""
    if depth and rng.random() < 0.02:
        return rng.choice(_NASTY)
    if isinstance(value, dict):
        table = {k: _twisted(rng, v, depth + 1) for k, v in value.items() if rng.random() > 0.01}
        if table and rng.random() < 0.1:
            key = rng.choice(list(table))
            table[rng.choice((key + "x", "", "__metadata__", "../a", "\ud800", "a" * 300))] = table[
                key
            ]
        return table
    if isinstance(value, list):
        values = [_twisted(rng, each, depth + 1) for each in value]
        return values * rng.choice((2, 0)) if rng.random() < 0.02 else values
    if isinstance(value, int) and rng.random() < 0.02:
        return value + rng.choice((-1, 1, -4, 4, 2**32))
    return value


def _json(rng, value):
    text = json.dumps(value)
    if rng.random() < 0.1:
        text = text.replace(rng.choice(('"', ":", "[", "}", "0")), rng.choice(("", "[" * 3000)), 1)
    if rng.random() < 0.05:
        text = text.replace("0", rng.choice(("9" * 5000, "1e999", "NaN", "-0")), 1)
    return text.encode("utf-8", "surrogatepass")


def _twisted_safetensors(rng, folder):
    whole = rng.choice(SAFETENSORS)
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = _json(rng, _twisted(rng, json.loads(whole[8:begin])))
    length = len(header) + rng.choice((0, 0, 0, 0, 1, -1, 2**40))
    path = folder / "model.safetensors"
    path.write_bytes(max(length, 0).to_bytes(8, "little") + header + whole[begin:])
    return path


def _sharded(rng, folder):
    """A folder with an index and shards, some of which are damaged, lacking or no files at all."""
    torch_shards = rng.random() < 0.4
    suffix = "bin" if torch_shards else "safetensors"
    base = "pytorch_model" if torch_shards else "model"
    wholes = ZIPS[:1] + LEGACY[:1] if torch_shards else SAFETENSORS[:1]
    names = [f"{base}-{i}.{suffix}" for i in range(2)]
    for name in names:
        (folder / name).write_bytes(rng.choice(wholes))
    table = {"weight_map": {"w": names[0], "b": names[0], "n": names[1]}, "metadata": {}}
    if rng.random() < 0.5:
        table = _twisted(rng, table)
    index = folder / f"{base}.{suffix}.index.json"
    content = _json(rng, table)
    index.write_bytes(_damaged(rng, content) if rng.random() < 0.2 else content)
    if rng.random() < 0.4:
        broken = folder / rng.choice([*names, index.name])
        broken.unlink()
        _put_odd(rng, broken)
    elif rng.random() < 0.3:
        shard = folder / names[0]
        shard.write_bytes(_damaged(rng, shard.read_bytes()))
    return folder if rng.random() < 0.5 else index


def _put_odd(rng, path):
    """Put something at `path` that is not a file with a checkpoint in it."""
    what = rng.randrange(8)
    if what == 0:
        os.mkfifo(path)
    elif what == 1:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/random", "/dev/null", "/proc/kmsg", "/")))
    elif what == 2:
        fifo = path.with_name("fifo")
        os.mkfifo(fifo)
        path.symlink_to(fifo)
    elif what == 3:
        path.mkdir()
    elif what == 4:
        path.symlink_to(path.name)
    elif what == 5:
        with socket.socket(socket.AF_UNIX) as bound:
            here = Path.cwd()
            os.chdir(path.parent)  # the path of a socket has to be short
            bound.bind(path.name)
            os.chdir(here)
    elif what == 6:
        path.touch()
    else:
        path.symlink_to(next(path.parent.iterdir()).name)


def _odd_folder(rng, folder):
    """A folder in Hugging Face's layout, with one file in it that is something else."""
    content = rng.choice(SAFETENSORS)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "optimizer.pt").write_bytes(_damaged(rng, ZIPS[1]))
    state = {"epoch": 2.0, "log_history": [{"loss": 1.0}] * 3, "global_step": 5}
    (folder / "trainer_state.json").write_bytes(_json(rng, _twisted(rng, state)))
    if rng.random() < 0.6:
        name = rng.choice(("model.safetensors", "optimizer.pt", "trainer_state.json"))
        (folder / name).unlink()
        _put_odd(rng, folder / name)
    return folder


# --- pickles -------------------------------------------------------------------------------------


def _chunks(program):
    """The operations of a pickle, each as its bytes."""
    places = [place for _, _, place in pickletools.genops(program)]
    return [program[a:b] for a, b in zip(places, [*places[1:], len(program)], strict=True)]


def _text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _doubled(times):
    """A tuple of tuples, each twice the one before; its hash takes 2 ** times steps."""
    return b")" + b"2\x86" * times


def _evil(rng):
    """Operations that would write the canary, in any of the ways that pickles have."""
    module, name, argument = rng.choice(
        (
            ("os", "system", f"touch {CANARY}"),
            ("posix", "system", f"touch {CANARY}"),
            ("builtins", "exec", f"open({CANARY!r}, 'w')"),
            ("__builtin__", "eval", f"open({CANARY!r}, 'w')"),
            ("subprocess", "getoutput", f"touch {CANARY}"),
            ("torch", "load", CANARY),
            ("torch.hub", "load", CANARY),
            ("torch.serialization", "load", CANARY),
            ("torch._utils", "_import_dotted_name", "antigravity"),
            ("torch.storage", "_load_from_bytes", CANARY),
            ("torch.jit", "load", CANARY),
            ("numpy", "load", CANARY),
        )
    )
    named = f"{module}\n{name}\n".encode()
    ways = (
        b"c" + named + _text(argument) + b"\x85R",
        _text(module) + _text(name) + b"\x93" + _text(argument) + b"\x85R",
        b"(" + _text(argument) + b"i" + named,
        b"(c" + named + _text(argument) + b"o",
        b"c" + named + _text(argument) + b"\x85\x81",
        b"c"
        + named
        + b")\x81}"
        + _text("__setstate__")
        + b"c"
        + named
        + b"sb"
        + _text(argument)
        + b"b",
    )
    return rng.choice(ways)


def _snippet(rng):
    """A few operations that leave one value on the stack, most of them unwelcome."""
    number = rng.randrange(26)
    if number == 0:
        return _evil(rng)
    if number == 1:
        return b"}" + _doubled(rng.choice((3, 40, 200))) + b"K\x01s"
    if number == 2:
        size = rng.choice((1, 8, 300, 70000))
        return b"\x8b" + struct.pack("<i", size) + b"\xff" * (size - 1) + b"\x7f"
    if number == 3:
        return b"cbuiltins\nbytearray\nJ\x00\xca\x9a;\x85R"
    if number == 4:
        return b"]" * rng.choice((10, 3000)) + b"a" * rng.choice((5, 2999))
    if number == 5:
        name = rng.choice(("items", "values", "get", "keys", "__class__", "__dict__"))
        return b"ccollections\nOrderedDict\n)R}" + _text(name) + b"K\x05sb"
    if number == 6:
        return b"Nr" + struct.pack("<I", rng.choice((2**31, 2**32 - 1, 70)))
    if number == 7:
        return b"(" * rng.choice((3, 1000)) + b"N"
    if number == 8:
        return b"L" + b"9" * rng.choice((10, 5000)) + b"L\n"
    if number == 9:
        what = rng.choice(("defaultdict", "Counter", "OrderedDict", "deque"))
        return f"ccollections\n{what}\n".encode() + rng.choice((b")R", b"K\x05\x85R", b"]\x85R"))
    if number == 10:
        return b"c_codecs\nencode\n" + _text("é" * 50) + _text("latin1") + b"\x86R"
    if number == 11:
        return rng.choice((b"\x82\x01", b"\x97", b"\x98", b"P0\n", b"(1N", b"2", b"0"))
    if number == 12:
        dims = rng.choice((1, 64, 65, 900))
        return _tensor(b"(" + b"K\x01" * dims + b"t", b"(" + b"K\x00" * dims + b"t")
    if number == 13:
        return _tensor(b"J\x00\xca\x9a;\x85", b"K\x00\x85")
    if number == 14:
        return _tensor(b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85", b"K\x01\x85")
    if number == 15:
        return _tensor(
            b"K\x04\x85", b"K\x01\x85", rng.choice((b"K\x09", b"J\xff\xff\xff\xff", b"N"))
        )
    if number == 16:
        return b"cargparse\nNamespace\n)\x81}" + _text("lr") + b"G?\xf0\x00\x00\x00\x00\x00\x00sb"
    if number == 17:
        return (
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + _text("O8") + b"\x85RC\x01N\x86R"
        )
    if number == 18:
        return _object(rng) * rng.choice((1, 300)) + b"b" * rng.choice((0, 1, 100))
    if number == 19:
        first = b"cowner\nThing\n)\x81q\x63"
        return first + (b"0" + _object(rng) + b"h\x63" + rng.choice((b"b", b"a"))) * 5000
    if number == 20:
        state = b"}(" + _text("_parameters") + b"}" + _text("w") + _tensor() + b"s"
        return b"cowner\nNet\n)\x81" + state + _text("_modules") + b"}ub"
    if number == 21:
        content = rng.choice((b"}" + _text("lr") + b"K\x03s", b"h\x63", b"]K\x01a"))
        kind = rng.choice((b"dictconfig\nDictConfig", b"listconfig\nListConfig", b"nodes\nAnyNode"))
        name = rng.choice(("_content", "_val"))
        made = b"comegaconf." + kind + b"\n)\x81q\x63}" + _text(name) + content + b"sb"
        return made * rng.choice((1, 200))
    if number == 22:
        shape = rng.choice(
            (b"K\x04\x85", b"K\x05\x85", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85", b"N")
        )
        dtype = b"cnumpy\ndtype\n" + _text(rng.choice(("f4", "O8", "U1", "V3", "f4,f4"))) + b"\x85R"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        return made + b"(K\x01" + shape + dtype + b"\x89C\x10" + bytes(16) + b"tb"
    if number == 23:
        inner = rng.choice((b"", b"x" * 50, LEGACY[0][:300], pickle.dumps(3)))
        raw = b"B" + struct.pack("<I", len(inner)) + inner
        return b"ctorch.storage\n_load_from_bytes\n" + raw + b"\x85R"
    if number == 24:
        return b"cbuiltins\ngetattr\ncos\npath\n" + _text(rng.choice("ab")) + b"\x86R" * 3
    return rng.choice((b"N", b"\x88", b"K\x07", b"}", b"]", b")", _text("x" * 40)))


def _object(rng):
    """An object of a class that nobody has, made in one of the ways that pickles have."""
    ways = (b"cowner\nThing\n)\x81", b"cowner\nThing\n)R", b"(iowner\nThing\n", b"\x82\x07)R")
    return rng.choice(ways)


def _tensor(
    shape=b"K\x04\x85", strides=b"K\x01\x85", offset=b"K\x00", elements=b"K\x04", kind=b"Float"
):
    storage = (
        b"(" + _text("storage") + b"ctorch\n" + kind + b"Storage\n" + _text("0") + _text("cpu")
    )
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + storage + elements + b"tQ" + offset + shape + strides + hooks + b"tR"


def _changed(rng, program):
    """`program` with operations left out, repeated, exchanged and put in."""
    chunks = _chunks(program)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(chunks))
        what = rng.randrange(6)
        if what == 0 and len(chunks) > 1:
            del chunks[place]
        elif what == 1:
            chunks.insert(place, chunks[place])
        elif what == 2:
            other = rng.randrange(len(chunks))
            chunks[place], chunks[other] = chunks[other], chunks[place]
        elif what == 3:
            chunks.insert(place, _snippet(rng))
        elif what == 4:
            chunks[place] = rng.choice(chunks)
        else:  # another entry of the outermost mapping, as files have them
            chunks[-1:] = [_text(f"k{place}"), _snippet(rng), b"s", b"."]
    return b"".join(chunks)


def _handmade(rng):
    """A program of its own: a mapping with tensors, and snippets beside and between them."""
    program = b"\x80\x02}"
    for i in range(rng.randrange(1, 6)):
        key = _snippet(rng) if rng.random() < 0.1 else _text(rng.choice(("w", "model", f"x{i}")))
        kind, elements = b"Float", b"K\x04"
        if rng.random() < 0.1:
            kind = rng.choice((b"Double", b"Byte", b"ComplexFloat", b"X"))
            elements = rng.choice((b"K\x05", b"K\x02", b"J\x00\xca\x9a;", b"N"))
        value = _tensor(kind=kind, elements=elements) if rng.random() < 0.6 else _snippet(rng)
        program += key + value + b"s"
    if rng.random() < 0.7:
        program += _text("w") + _tensor() + b"s"
    return program + b"."


def _changed_zip(rng, folder):
    return _changed_in(rng, folder, rng.choice(ZIPS + LATER))


def _changed_foreign(rng, folder):
    return _changed_in(rng, folder, rng.choice(FOREIGN))


def _changed_in(rng, folder, whole):
    """A torch archive whose pickle has other operations."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    program = next(data for name, data in members if name.endswith("data.pkl"))
    members = [
        (name, _changed(rng, program) if name.endswith("data.pkl") else data)
        for name, data in members
    ]
    return _write_zip(folder / "a.pt", members)


def _write_zip(path, members, compressed=zipfile.ZIP_STORED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        with zipfile.ZipFile(path, "w", compressed) as archive:
            for name, data in members:
                archive.writestr(name, data)
    return path


def _handmade_zip(rng, folder):
    data = struct.pack("<4f", 1, 2, 3, 4)
    members = [("a/data.pkl", _handmade(rng)), ("a/data/0", data), ("a/version", b"3\n")]
    return _write_zip(folder / "a.pt", members)


def _strange_zip(rng, folder):
    """Members twice, renamed or compressed; sizes and places that the directory invents."""
    with zipfile.ZipFile(io.BytesIO(rng.choice(ZIPS))) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(rng.randrange(3)):
        name, data = rng.choice(members)
        what = rng.randrange(6)
        if what == 0:
            members.insert(0, (name.upper(), _handmade(rng)))
        elif what == 1:
            members.append((name, data))
        elif what == 2:
            members.remove((name, data))
            members.append((name, data[: len(data) // 2]))
        elif what == 3:
            members.insert(0, (rng.choice(("b/data.pkl", "a/constants.pkl", "../../x", "a/")), b""))
        elif what == 4:
            members = [(n, b"big" if n.endswith("byteorder") else d) for n, d in members]
        else:
            members.append((f"a/{len(members)}", b"x" * rng.choice((0, 5, 3000))))
        if not members:
            break
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.15 else zipfile.ZIP_STORED
    path = _write_zip(folder / "a.pt", members, kind)
    content = bytearray(path.read_bytes())
    entries = [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"]
    for _ in range(rng.randrange(3)):
        if entries:
            # flags and method, checksum, packed size, size, lengths, offset
            field, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4)))
            number = int(rng.choice((0, 1, 8, 100, 2**16, 2**31, 2**32 - 1, rng.randrange(5000))))
            place = rng.choice(entries) + field
            content[place : place + size] = (number % 256**size).to_bytes(size, "little")
    path.write_bytes(content)
    return path


def _legacy_of(program, keys, data):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return magic + pickle.dumps({"little_endian": True}, 2) + program + keys + data


def _handmade_legacy(rng, folder):
    """A legacy file with a program of its own, and lists of keys and data that may not fit it."""
    program = _handmade(rng).replace(b"tQ", b"NtQ")
    keys, count = pickle.dumps(["0"], 2), 4
    if rng.random() < 0.3:
        keys = pickle.dumps(rng.choice(([], ["0", "0"], ["1"], [0], "0", None)), 2)
        count = rng.choice((4, 5, 2**40, -1))
    data = struct.pack("<q4f", count, 1, 2, 3, 4)
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data))]
    path = folder / "a.pth"
    path.write_bytes(_legacy_of(program, keys, data))
    return path


def _changed_legacy(rng, folder):
    whole = rng.choice(LEGACY + FOREIGN_LEGACY)
    parts, begin = [], 0
    while len(parts) < 5:
        program = whole[begin:]
        end = max(place for _, _, place in pickletools.genops(program)) + 1
        parts.append(program[:end])
        begin += end
    changed = rng.choice((3, 3, 3, 4, 0))
    parts[changed] = _changed(rng, parts[changed])
    path = folder / "a.pth"
    path.write_bytes(b"".join(parts) + whole[begin:])
    return path


def _changed_bare(rng, folder):
    """A pickle of arrays or tensors without torch.save's format, changed or damaged."""
    path = folder / "a.pkl"
    whole = rng.choice(BARE)
    path.write_bytes(_changed(rng, whole) if rng.random() < 0.6 else _damaged(rng, whole))
    return path


_MAGIC = (
    *(b"GGUF\x03\0\0\0", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01\0v\0", b"\x1f\x8b\x08\0"),
    *(b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"\x08\x07\x12\x07pytorch", b"BZh91AY&SY"),
    *(b"\x82\xa6params\x81\xa1w\xc7\x20\x01", b"\xde\x00\x03\xa5model", b"TFL3", b"\x1c\0\0\0TFL3"),
    *(b'{"a": [1, 2', b"version https://git-lfs", b"<html>", b"#!/bin/sh\ntouch canary\n"),
)


def _other_format(rng, folder):
    """What begins like a format that is not read: GGUF, HDF5, msgpack, ONNX, NumPy, archives."""
    name = rng.choice(("a.pt", "a.safetensors", "a.gguf", "a.msgpack", "a.onnx", "a.h5", "a"))
    path = folder / name
    path.write_bytes(_damaged(rng, rng.choice(_MAGIC) + rng.randbytes(rng.choice((0, 40, 3000)))))
    return path


def _optimizer_beside(rng, folder):
    """Weights with an optimizer's state beside them that is changed, damaged or handmade."""
    (folder / "model.safetensors").write_bytes(SAFETENSORS[0])
    if rng.random() < 0.5:
        path = _changed_in(rng, folder, rng.choice((ZIPS[1], FOREIGN[1])))
    else:
        slots = b"}(" + b"".join(
            b"K" + bytes([i]) + b"}(" + _text("exp_avg") + _snippet(rng) + _text("step")
            + rng.choice((b"K\x03", _snippet(rng))) + b"u"
            for i in range(3)
        ) + b"u"  # fmt: skip
        groups = b"](" + b"".join(
            b"}(" + _text("params") + b"]K" + bytes([i]) + b"a" + _text("lr") + _snippet(rng)
            + _text("betas") + rng.choice((_doubled(60), _snippet(rng))) + b"u"
            for i in range(3)
        ) + b"e"  # fmt: skip
        program = b"\x80\x02}(" + _text("state") + slots + _text("param_groups") + groups + b"u."
        path = _write_zip(
            folder / "a.pt",
            [("a/data.pkl", program), ("a/data/0", bytes(16)), ("a/version", b"3")],
        )
    path.rename(folder / rng.choice(("optimizer.pt", "optimizer.bin")))
    return folder


def _bare_pickle(rng, folder):
    path = folder / "a.pt"
    program = _handmade(rng) if rng.random() < 0.5 else b"\x80\x02" + _snippet(rng) + b"."
    path.write_bytes(program[2:] if rng.random() < 0.3 else program)
    return path


def _multiplied(rng, folder):
    """A short text or program said again and again: a small file of very many objects."""
    many = rng.choice((1000, 2000, 5000, 20_000, 100_000))
    what = rng.randrange(10)
    table = b"\x80\x02}" + _text("w") + _tensor() + b"q\x01s"
    path = folder / "a.pt"
    if what == 0:
        unit = rng.choice((b"}", b"]", b")", b"(", b"N", b"K\x01", b"(t", b"\x8f", b"]q\x05"))
        program = table + _text("junk") + unit * many + b"."
    elif what == 1:
        program = table + b"".join(_text(f"{i}") + b"h\x01s" for i in range(many // 10)) + b"."
    elif what == 2:
        strange = _tensor(b"K\x04K\x02\x86", b"K\x00K\x00\x86")
        once = _tensor(b"M\x00\x01K\x01\x86", b"K\x00K\x00\x86", rng.choice((b"K\x00", b"K\x01")))
        program = table + b"".join(
            _text(f"{i}") + rng.choice((strange, once)) + b"s" for i in range(many // 100)
        )
        program += b"."
    elif what == 3:
        inner = b"}q\x02(" + b"".join(_text(key) + b"h\x02" for key in ("model", "net", "module"))
        inner += b"".join(_text(f"{i}") + b"N" for i in range(many // 20)) + b"u"
        program = b"\x80\x02" + inner + b"."
    elif what == 4:
        inner = b"}q\x02(" + b"".join(_text(f"{i}") + b"N" for i in range(many // 20)) + b"u0"
        program = b"\x80\x02" + inner + b"}("
        program += b"".join(_text(f"{i}") + b"h\x02" for i in range(many // 20)) + b"u."
    elif what == 5:
        groups = b"](" + b"}" * (many // 20) + b"eq\x03"
        one = b"}(" + _text("param_groups") + b"h\x03" + _text("state") + b"}u"
        program = table + _text("o") + groups + b"s"
        program += b"".join(_text(f"{i}") + one + b"s" for i in range(many // 50)) + b"."
    elif what == 6:
        slots = b"}(" + b"".join(_text(f"{i}") + b"h\x01" for i in range(many // 20)) + b"uq\x03"
        program = table + _text("s") + slots + b"s" + _text("optimizer") + b"}(" + _text("state")
        program += b"}(" + b"".join(
            b"M" + struct.pack("<H", i % 65536) + b"h\x03" for i in range(many // 20)
        )
        program += b"u" + _text("param_groups") + b"]}aus."
    elif what == 7:
        text = _text("x" * 1000) + b"q\x04"
        one = b"c_codecs\nencode\nq\x05h\x04" + _text("latin1") + b"\x86R0"
        program = table + _text("t") + text + b"s" + one * (many // 10) + b"."
    elif what == 8:
        parts = rng.choice(("[],", "{},", '{"a":1},', "1,"))
        text = ('{"__metadata__":{"a":"b"},"w":[' + parts * many + "1]}").encode()
        path = folder / "model.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        return path
    else:
        (folder / "a.safetensors").write_bytes(SAFETENSORS[0])
        index = folder / "model.safetensors.index.json"
        shards = {f"w{i}": "./" * (i % 50) + "a.safetensors" for i in range(many // 100)}
        index.write_text(json.dumps({"weight_map": {**shards, "w": "a.safetensors"}}))
        return index
    data = struct.pack("<4f", 1, 2, 3, 4)
    if rng.random() < 0.5:
        keys = pickle.dumps(["0"], 2)
        path.write_bytes(
            _legacy_of(program.replace(b"tQ", b"NtQ"), keys, struct.pack("<q", 4) + data)
        )
        return path
    return _write_zip(path, [("a/data.pkl", program), ("a/data/0", data), ("a/version", b"3")])


def _lying_checksum(rng, folder):
    """A torch archive whose bytes are damaged, with checksums that agree."""
    with zipfile.ZipFile(io.BytesIO(rng.choice(ZIPS + LATER))) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    members = [
        (name, _damaged(rng, data) if name.endswith("data.pkl") else data) for name, data in members
    ]
    return _write_zip(folder / "a.pt", members)


_KINDS = {
    "damaged safetensors": _damaged_file(SAFETENSORS, "model.safetensors"),
    "twisted safetensors header": _twisted_safetensors,
    "damaged zip": _damaged_file(ZIPS + LATER, "a.pt"),
    "damaged pickle in a zip": _lying_checksum,
    "changed pickle in a zip": _changed_zip,
    "handmade pickle in a zip": _handmade_zip,
    "strange zip": _strange_zip,
    "damaged legacy file": _damaged_file(LEGACY, "a.pth"),
    "changed pickle in a legacy file": _changed_legacy,
    "handmade legacy file": _handmade_legacy,
    "bare pickle": _bare_pickle,
    "changed objects in a zip": _changed_foreign,
    "damaged objects in a zip": _damaged_file(FOREIGN, "a.pt"),
    "damaged objects in a legacy file": _damaged_file(FOREIGN_LEGACY, "a.pth"),
    "changed pickle without torch.save": _changed_bare,
    "another format": _other_format,
    "optimizer beside": _optimizer_beside,
    "sharded": _sharded,
    "odd folder": _odd_folder,
    "very many objects": _multiplied,
}


def emptied(folder):
    """`folder`, anew and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    return Path(folder)


__all__ = ["CANARY", "emptied", "forge"]
