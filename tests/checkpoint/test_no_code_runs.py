"""No operation of a pickle runs code."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from pickle_text import named, program, text

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
    files = {}
    for name, operations in ways(f"touch {canary}"):
        for where in ("side", "args"):
            path = tmp_path / f"{len(files)}.pt"
            key = text("side" if where == "side" else "hyper_parameters")
            files[str(program(path, key, operations, b"s"))] = name
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
