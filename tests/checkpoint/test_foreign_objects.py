"""Files with objects of any class: tensors and plain values are read, and no code is run."""

import argparse
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
import types
import uuid
import zipfile
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntFlag):
    LOW = 1


@dataclasses.dataclass
class Config:
    lr: float = 0.25
    name: str = "run"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    lr: float = 0.5


Point = collections.namedtuple("Point", "x y")


class Table(dict):
    pass


class Several(list):
    pass


class OwnTensor(torch.Tensor):
    pass


class Circular:
    def __init__(self):
        self.own, self.tensor = self, torch.ones(3)


def function():
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.tied = nn.Linear(2, 3, bias=False)
        self.tied.weight = self.first.weight
        self.same = self.norm
        self.parts = nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})
        self.absent = None
        self.register_module("missing", None)
        self.register_parameter("no", None)
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.register_buffer("scale", torch.rand(2))
        self.several = nn.ParameterList([nn.Parameter(torch.rand(2))])


NET = nn.Linear(2, 3)


def optimizer():
    made = torch.optim.AdamW(NET.parameters(), 0.125)
    NET(torch.ones(1, 2)).sum().backward()
    made.step()
    return made


def kinds():
    """Objects by key, and the class that a note shows; None for what is read or plain."""
    adam = optimizer()
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 3)
    return {
        "rng": (np.ones(3), "numpy.ndarray"),
        "texts": (np.array([1, "a"], object), "numpy.ndarray"),
        "single": (np.float32(2), None),
        "day": (np.datetime64("2020-01-01"), "numpy.generic"),
        "out": (PosixPath("a/b"), "pathlib.PosixPath"),
        "when": (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "datetime.datetime"),
        "colour": (Colour.RED, f"{__name__}.Colour"),
        "level": (Level.LOW, f"{__name__}.Level"),
        "cut": (slice(1, 2), None),
        "steps": (range(3), None),
        "names": ({"a"}, None),
        "frozen": (frozenset([3]), None),
        "root": (1j, None),
        "default": (collections.defaultdict(list, a=[1]), None),
        "ordered": (collections.OrderedDict(a=1), None),
        "counts": (collections.Counter("aab"), None),
        "last": (collections.deque([1], 3), None),
        "space": (argparse.Namespace(a=1), None),
        "simple": (types.SimpleNamespace(a=1), None),
        "part": (functools.partial(function, 3, k=2), "functools.partial"),
        "dataclass": (Config(), f"{__name__}.Config"),
        "slotted": (Slotted(), f"{__name__}.Slotted"),
        "point": (Point(1, 2), f"{__name__}.Point"),
        "table": (Table(a=1), f"{__name__}.Table"),
        "several": (Several([1]), f"{__name__}.Several"),
        "function": (function, f"{__name__}.function"),
        "relu": (nn.functional.relu, "torch.nn.functional.relu"),
        "class": (Config, f"{__name__}.Config"),
        "loss": (nn.CrossEntropyLoss(torch.ones(2)), "torch.nn.modules.loss.CrossEntropyLoss"),
        "optimizer": (adam.state_dict(), None),
        "optim": (adam, "torch.optim.adamw.AdamW"),
        "scheduler": (scheduler.state_dict(), None),
        "sched": (scheduler, "torch.optim.lr_scheduler.StepLR"),
        "size": (torch.Size([1]), None),
        "dtype": (torch.float32, None),
        "device": (torch.device("cpu"), None),
        "states": (random.getstate(), None),
        "module_aside": (Net(), f"{__name__}.Net"),
        "decimal": (decimal.Decimal("1.5"), "decimal.Decimal"),
        "uid": (uuid.UUID(int=3), "uuid.UUID"),
        "circular": (Circular(), f"{__name__}.Circular"),
        "own": (torch.ones(2).as_subclass(OwnTensor), f"{__name__}.OwnTensor"),
    }


FORMATS = {
    "zip": {},
    "protocol 3": {"pickle_protocol": 3},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_tensors_beside_objects_of_any_class(tmp_path, options):
    path = tmp_path / "a.pt"
    for key, (value, name) in kinds().items():
        checkpoint = saved(path, {"model": NET.state_dict(), "epoch": 3, key: value}, **options)
        assert list(checkpoint.tensors) == ["weight", "bias"], key
        assert torch.equal(checkpoint.tensors["weight"], NET.weight), key
        assert checkpoint.metadata["epoch"] == 3, key
        aside = [note for note in checkpoint.notes if note.startswith("classes left aside")]
        assert aside == ([] if name is None else [f"classes left aside: {key} ({name})"])


def test_several_are_listed_and_counted(tmp_path):
    foreign = {key: value for key, (value, name) in kinds().items() if name}
    content = {"model": NET.state_dict(), "extra": [foreign], "out": PosixPath("a")}
    note = saved(tmp_path / "a.pt", content).notes[-1]
    assert note.startswith("classes left aside: out (pathlib.PosixPath), extra.0.rng (numpy.nda")
    assert note.endswith(f" and {len(foreign) - 4} more")


def test_inspect_shows_what_was_left_aside(tmp_path):
    from click.testing import CliRunner

    from sharpcli.cli.main import sharp

    content = {"model": NET.state_dict(), "rng": np.ones(2), "out": PosixPath("a")}
    torch.save(content, tmp_path / "a.pt")
    shown = CliRunner().invoke(sharp, ["inspect", str(tmp_path / "a.pt")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "classes left aside: rng (numpy.ndarray), out (pathlib.PosixPath)" in shown.output


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace, Config, Table, dict])
def test_plain_values_of_settings_become_metadata(tmp_path, kind):
    settings = kind(lr=0.25, name="run")
    checkpoint = saved(tmp_path / "a.pt", {"model": NET.state_dict(), "args": settings})
    assert checkpoint.metadata == {"lr": 0.25, "name": "run"}


def test_hyperparameters_with_objects_in_them(tmp_path):
    settings = {
        "lr": 0.5,
        "loss": nn.CrossEntropyLoss(),
        "act": nn.functional.relu,
        "kind": Config,
        "betas": [0.9, 0.99],
        "inner": argparse.Namespace(path=PosixPath("x")),
    }
    content = {"state_dict": NET.state_dict(), "hyper_parameters": settings}
    checkpoint = saved(tmp_path / "a.ckpt", content)
    assert checkpoint.metadata == {"lr": 0.5, "betas": "0.9,0.99", "inner.path": "x"}
    assert checkpoint.notes[-1] == (
        "classes left aside: hyper_parameters.loss (torch.nn.modules.loss.CrossEntropyLoss), "
        f"hyper_parameters.act (torch.nn.functional.relu), hyper_parameters.kind ({__name__}"
        ".Config), hyper_parameters.inner.path (pathlib.PosixPath)"
    )


# --- modules -------------------------------------------------------------------------------------


def same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_a_whole_module_is_read_as_its_state_dict(tmp_path, options, wrap):
    module = wrap(Net())
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    checkpoint = saved(tmp_path / "a.pt", module, **options)
    same(checkpoint.tensors, module.state_dict())
    assert checkpoint.notes == (f"a whole pickled module ('{name}') read as its state dict",)
    checkpoint = saved(tmp_path / "a.pt", {"epoch": 3, "model": module}, **options)
    same(checkpoint.tensors, module.state_dict())
    assert checkpoint.metadata == {"epoch": 3}
    assert f"'model': a whole pickled module ('{name}') read as its state dict" in checkpoint.notes


def test_a_module_with_a_state_dict_beside_it(tmp_path):
    content = {"ema": NET.state_dict(), "model": Net(), "optimizer": optimizer().state_dict()}
    checkpoint = saved(tmp_path / "a.pt", content)
    same(checkpoint.tensors, content["model"].state_dict())
    content = {"weird": NET.state_dict(), "criterion": nn.CrossEntropyLoss(torch.ones(2))}
    same(saved(tmp_path / "a.pt", content).tensors, content["weird"])
    content = {"weird": Net(), "optimizer": optimizer().state_dict()}
    same(saved(tmp_path / "a.pt", content).tensors, content["weird"].state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm(tmp_path):
    module = nn.utils.weight_norm(nn.Linear(2, 2))
    same(saved(tmp_path / "a.pt", module).tensors, module.state_dict())


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore::DeprecationWarning")
def test_a_module_that_packs_its_weights_is_refused(tmp_path):
    packed = torch.ao.nn.quantized.Linear(2, 2)
    with pytest.raises(SharpError, match=r"holds a whole pickled module .* packs its weights"):
        saved(tmp_path / "a.pt", nn.Sequential(nn.Linear(2, 2), packed))


def test_a_module_in_an_object_of_the_users(tmp_path):
    content = Config(lr=0.5)
    content.model = Net()
    same(saved(tmp_path / "a.pt", content).tensors, content.model.state_dict())


# --- NumPy's arrays, and pickles that torch.save did not write -----------------------------------

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1", "c8", ">f4", ">i8", ">c16")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_numpy_arrays(tmp_path, protocol):
    arrays = {kind: (np.arange(6) % 5).reshape(2, 3).astype(kind) for kind in DTYPES}
    arrays |= {"columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), "no": np.ones(())}
    arrays |= {"empty": np.ones((0, 3)), "strided": np.arange(9.0)[::2]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "lr": 0.5}, protocol))
    checkpoint = load_checkpoint(tmp_path / "a.pkl")
    assert list(checkpoint.tensors) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(checkpoint.tensors[name].numpy(), array), name
        assert checkpoint.tensors[name].numpy().dtype == array.dtype.newbyteorder("="), name
    assert checkpoint.metadata == {"lr": 0.5}
    assert f"{len(arrays)} NumPy arrays read as tensors" in checkpoint.notes
    torch.save(arrays, tmp_path / "a.pt")
    assert list(load_checkpoint(tmp_path / "a.pt").tensors) == list(arrays)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_tensors_without_torch_save(tmp_path, protocol):
    state = {**Net().state_dict(), "half": torch.ones(3).half(), "row": torch.eye(3)[1]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": state, "out": Path()}, protocol))
    checkpoint = load_checkpoint(tmp_path / "a.pkl")
    same(checkpoint.tensors, state)
    assert "classes left aside: out (pathlib.PosixPath)" in checkpoint.notes
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Net().state_dict(), protocol)[:-30])
    with pytest.raises(SharpError, match="its pickle cannot be read"):
        load_checkpoint(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_whose_shape_does_not_fit(tmp_path, protocol):
    whole = pickle.dumps({"w": np.arange(6.0).reshape(2, 3), "v": np.ones(2)}, protocol)
    assert whole.count(b"K\x02K\x03\x86") == 1
    (tmp_path / "a.pkl").write_bytes(whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
    with pytest.raises(SharpError, match=r"tensor 'w' is a NumPy array whose shape \(2, 4\)"):
        load_checkpoint(tmp_path / "a.pkl")


def test_a_tensor_subclass_is_read_as_a_plain_tensor(tmp_path):
    own = torch.arange(3.0).as_subclass(OwnTensor)
    own.note = "an attribute"
    checkpoint = saved(tmp_path / "a.pt", {"w": own})
    assert type(checkpoint.tensors["w"]) is torch.Tensor
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2]
    assert checkpoint.notes == (f"classes left aside: w ({__name__}.OwnTensor)",)


# --- no code is run ------------------------------------------------------------------------------

TRAP = """
    from pathlib import Path

    def spring(what):
        with Path({canary!r}).open("a") as file:
            file.write(f"{{what}}\\n")

    spring("import")

    class Meta(type):
        def __call__(cls, *a, **k): spring("call of a class"); return super().__call__(*a, **k)

    class Trap(dict, metaclass=Meta):
        def __new__(cls, *a, **k): spring("__new__"); return super().__new__(cls)
        def __init__(self, *a, **k): spring("__init__")
        def __setstate__(self, state): spring("__setstate__")
        def __setattr__(self, name, value): spring("__setattr__")
        def __setitem__(self, key, value): spring("__setitem__")
        def __getattr__(self, name): spring("__getattr__"); raise AttributeError(name)
        def append(self, value): spring("append")
        def extend(self, values): spring("extend")
        def __hash__(self): spring("__hash__"); return 0
        def __eq__(self, other): spring("__eq__"); return True
        def __del__(self): spring("__del__")
        def __reduce_ex__(self, protocol): spring("__reduce_ex__"); return Trap, ()
        @property
        def prop(self): spring("getter")
        @prop.setter
        def prop(self, value): spring("setter")
"""


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def ways(command):
    """Operations that leave one value, each of which would run code if it were obeyed."""
    trap, state = named("trap_module.Trap"), b"}" + text("prop") + b"K\x01s"
    yield "import", trap
    yield "stack global", text("trap_module") + text("Trap") + b"\x93"
    for name in ("os.system", "posix.system", "subprocess.getoutput"):
        yield name, named(name) + text(command) + b"\x85R"
    code = text(f"__import__('os').system({command!r})")
    for name in ("builtins.eval", "builtins.exec", "__builtin__.eval"):
        yield name, named(name) + code + b"\x85R"
    for name in ("torch.load", "torch.jit.load", "numpy.load", "runpy.run_path"):
        yield name, named(name) + text(command.split()[-1]) + b"\x85R"
    yield "__reduce_ex__", named("builtins.getattr") + trap + text("__reduce_ex__") + b"\x86R"
    attribute = named("builtins.getattr") + named("os.path") + text("system") + b"\x86R"
    yield "called attribute", attribute + text(command) + b"\x85R"
    yield "reduce", trap + b")R"
    yield "new object", trap + b")\x81"
    yield "new object with names", trap + b")" + state + b"\x92"
    yield "instance", b"(" + text(command) + b"ios\nsystem\n"
    yield "object", b"(" + named("os.system") + text(command) + b"o"
    yield "property setter", trap + b")\x81" + state + b"b"
    yield "slots", trap + b")\x81" + b"N" + state + b"\x86b"
    yield "__setstate__ of its own", trap + b")\x81K\x05b"
    yield (
        "a hidden __setstate__",
        trap + b")\x81}" + text("__setstate__") + named("os.system") + b"sb" + text(command) + b"b",
    )
    yield "items", trap + b")\x81K\x01K\x02s(K\x03K\x04u"
    yield "members", trap + b")\x81K\x01a(K\x01K\x02e"
    yield "added", trap + b")\x81(K\x01K\x02\x90"
    yield "keys", b"}" + trap + b")\x81K\x01s"
    yield "members of a set", b"\x8f(" + trap + b")\x81" + trap + b")\x81\x90"
    yield (
        "reconstructor",
        named("copyreg._reconstructor") + trap + named("builtins.dict") + b"}\x87R",
    )
    yield "copyreg", named("copyreg.__newobj_ex__") + trap + b")}\x87R"
    for code, size in ((b"\x82", 1), (b"\x83", 2), (b"\x84", 4)):
        yield (
            f"extension of {size}",
            code + (77).to_bytes(size, "little") + text(command) + b"\x85R",
        )
    yield "persistent", text(command) + b"\x85Q"
    partial = named("functools.partial") + named("os.system") + b"\x85R"
    state = b"(" + named("os.system") + text(command) + b"\x85}NtbR"
    yield "partial", partial + text(command) + b"\x85R"
    yield "state of a partial", partial + state[:-1]
    yield (
        "tensor subclass",
        named("torch._tensor._rebuild_from_type_v2")
        + b"("
        + named("os.system")
        + trap
        + text(command)
        + b"\x85}tR",
    )
    yield "numpy", named("numpy.core.multiarray._reconstruct") + trap + b"K\x00\x85C\x01b\x87R"
    yield "mapping", named("collections.defaultdict") + named("os.system") + b"\x85R"


READ = """
    import sys
    from sharpcli.checkpoint import load_checkpoint
    from sharpcli.errors import SharpError
    from sharpcli.runs.inspect import inspect_checkpoint
    import torch, numpy, copyreg
    copyreg.add_extension("trap_module", "Trap", 77)
    for path in sys.argv[1:]:
        try:
            checkpoint = load_checkpoint(path)
            assert checkpoint.tensors["w"].tolist() == [1, 2, 3, 4]
            inspect_checkpoint(path)
        except SharpError as error:
            print(path, error.message)
    assert "trap_module" not in sys.modules
"""


def test_a_canary_survives_every_way_to_run_code(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "trap_module.py").write_text(textwrap.dedent(TRAP.format(canary=str(canary))))
    (tmp_path / "read.py").write_text(textwrap.dedent(READ))
    weights = (
        b"\x80\x02}" + text("w") + named("torch._utils._rebuild_tensor_v2") + b"(("
        + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
        + b"K\x00K\x04\x85K\x01\x85\x89}tRs"
    )  # fmt: skip
    files = {}
    for name, operations in ways(f"touch {canary}"):
        for where in ("side", "args"):
            path = tmp_path / f"{len(files)}.pt"
            key = text("side" if where == "side" else "hyper_parameters")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/data.pkl", weights + key + operations + b"s.")
                archive.writestr("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
            files[str(path)] = name
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "read.py"), *files],
        env=environment, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not canary.exists(), canary.read_text()
    refused = {files[line.split()[0]] for line in done.stdout.splitlines()}
    assert refused == {"tensor subclass"}
    # the trap springs where its code does run
    trapped = [sys.executable, "-c", "import trap_module; trap_module.Trap().prop = 1"]
    subprocess.run(trapped, env=environment, check=True, cwd=tmp_path)
    assert canary.read_text().split("\n")[:4] == [
        "import",
        "call of a class",
        "__new__",
        "__init__",
    ]


# --- time and memory -----------------------------------------------------------------------------


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


OBJECT = named("a.B") + b")\x81"
MODULE = OBJECT + b"}(" + text("_parameters") + b"}" + text("_modules") + b"}"
# Each ends with the object on the stack; a link drops the one before after it has taken it.
DEEP = {
    "states": OBJECT + b"q\x01" + (b"0" + OBJECT + b"h\x01bq\x01") * 10_000,
    "arguments": OBJECT + b"q\x01" + (b"0" + named("a.B") + b"h\x01\x85Rq\x01") * 10_000,
    "members": OBJECT + b"q\x01" + (b"0" + OBJECT + b"h\x01aq\x01") * 10_000,
    "attributes": OBJECT + b"q\x01" + (b"0" + OBJECT + text("k") + b"h\x01sq\x01") * 10_000,
    "modules": MODULE + b"ubq\x01" + (b"0" + MODULE + text("m") + b"h\x01subq\x01") * 10_000,
    "itself": OBJECT + b"q\x01}" + text("me") + b"h\x01sb",
    "itself in its arguments": b"]q\x01" + named("a.B") + b"h\x01\x85Ra",
    "settings in themselves": named("omegaconf.dictconfig.DictConfig") + b")\x81q\x01}"
    + text("_content") + b"h\x01sb",
}  # fmt: skip


@pytest.mark.parametrize("key", ["side", "model", "args"])
@pytest.mark.parametrize("kind", DEEP)
def test_long_chains_and_circles(tmp_path, kind, key):
    path = program(tmp_path / "a.pt", text(key) + DEEP[kind] + b"s")
    begun = time.process_time()
    try:
        assert list(load_checkpoint(path).tensors) == ["w"]
    except SharpError as error:
        assert "more objects than any checkpoint" in error.message
    assert time.process_time() - begun < 5


def test_a_module_of_very_many_names(tmp_path):
    made = OBJECT + b"}(" + text("_parameters") + b"}" + text("p") + b"h\x00s"
    made += text("_modules") + b"}ubq\x01"
    for _ in range(60):  # each has the one before twice: 2 ** 60 names
        twice = b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01u"
        made += b"0" + OBJECT + b"}(" + text("_parameters") + b"}" + text("_modules") + twice
        made += b"ubq\x01"
    path = program(tmp_path / "a.pt", text("model") + made + b"s")
    begun = time.process_time()
    assert list(load_checkpoint(path).tensors) == ["w"]
    assert time.process_time() - begun < 3


def test_a_state_that_very_many_objects_share(tmp_path):
    large = b"}(" + b"".join(text(f"{i}") + b"N" for i in range(20_000)) + b"uq\x01"
    many = large + b"0](" + (OBJECT + b"h\x01b") * 20_000 + b"e"
    path = program(tmp_path / "a.pt", text("side") + many + b"s")
    begun = time.process_time()
    with pytest.raises(SharpError, match="more objects than any checkpoint"):
        load_checkpoint(path)
    assert time.process_time() - begun < 3
    config = named("omegaconf.dictconfig.DictConfig") + b")\x81}" + text("_content") + b"h\x01sb"
    many = large + b"0](" + config * 20_000 + b"e"
    path = program(tmp_path / "a.pt", text("side") + many + b"s")
    begun = time.process_time()
    assert list(load_checkpoint(path).tensors) == ["w"]
    assert time.process_time() - begun < 3


def test_bytes_that_very_many_arrays_share(tmp_path):
    array = np.ones(100_000)
    shared = {f"{i}": array for i in range(3)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(shared, 3))
    found = load_checkpoint(tmp_path / "a.pkl").tensors
    assert len(found) == 3
    assert len({tensor.data_ptr() for tensor in found.values()}) == 1
    again = b"\x80\x03}" + text("d") + b"B" + struct.pack("<I", array.nbytes) + array.tobytes()
    again += b"q\x01s" + text("t") + named("numpy.dtype") + text("f8") + b"\x85Rq\x02s"
    again += b"".join(
        text(f"{i}")
        + named("numpy.core.multiarray._reconstruct") + named("numpy.ndarray")
        + b"K\x00\x85C\x01b\x87R(K\x01J" + struct.pack("<i", 100_000) + b"\x85h\x02\x89h\x01tbs"
        for i in range(1000)
    )  # fmt: skip
    (tmp_path / "a.pkl").write_bytes(again + b".")
    with pytest.raises(SharpError, match="NumPy arrays together are larger than the file"):
        load_checkpoint(tmp_path / "a.pkl")


def test_storages_in_bytes_that_are_read_again_and_again(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.ones(100_000).untyped_storage(), buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    tensor = named("torch.storage._load_from_bytes") + b"h\x01\x85R"
    made = b"\x80\x03}" + text("d") + b"B" + struct.pack("<I", len(whole)) + whole + b"q\x01s"
    made += b"".join(text(f"{i}") + tensor + b"s" for i in range(2000))
    made += text("w") + pickle.dumps(torch.ones(2), 3)[2:-1] + b"s."
    (tmp_path / "a.pkl").write_bytes(made)
    begun = time.process_time()
    assert load_checkpoint(tmp_path / "a.pkl").tensors["w"].tolist() == [1, 1]
    assert time.process_time() - begun < 3


def test_extension_codes_are_names(tmp_path):
    copyreg.add_extension(__name__, "Config", 99)
    try:
        code = pickle.dumps(Config(), 2)
        assert b"\x82\x63" in code
        path = program(tmp_path / "a.pt", text("conf") + code[2:-1] + b"s")
        assert list(load_checkpoint(path).tensors) == ["w"]
    finally:
        copyreg.remove_extension(__name__, "Config", 99)


def test_an_object_of_no_class_is_a_damaged_pickle(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02(o.")
    with pytest.raises(SharpError, match="it makes an object of no class"):
        load_checkpoint(path)


def test_a_mapping_that_thousands_of_keys_share_is_looked_at_once(tmp_path):
    shared = {f"key {index}": {} for index in range(3000)}
    torch.save({f"name {index}": shared for index in range(3000)}, tmp_path / "a.pt")
    started = time.process_time()
    with pytest.raises(SharpError):
        load_checkpoint(tmp_path / "a.pt")
    assert time.process_time() - started < 2
