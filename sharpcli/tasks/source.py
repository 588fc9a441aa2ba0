"""Find a task's functions in a file, an importable object, or a built-in task.

A task's code is the user's and may raise anything. `user_code` turns its exceptions into a
`SharpError` that names the task, the line and the exception.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.tasks.arguments import POSITIONAL
from sharpcli.tasks.own_code import imported_code

if TYPE_CHECKING:
    from sharpcli.tasks import Builtin

__all__ = ["NoTaskFileError", "Source", "find_source", "user_code"]

# Hints for exceptions whose text does not show the cause, by a pattern of that text.
_KNOWN = {
    r"does not require grad|does not have a grad_fn|not have been used in the graph": (
        "sharp runs predict() and loss() without gradients if it needs none: put code that "
        "differentiates with respect to the inputs (as a PINN does) under `with "
        "torch.enable_grad():`, or use torch.func (grad, jacrev, vmap), which needs no change"
    ),
    r"Target -?\d+ is out of bounds|(?i:label.*out of range)": (
        "class targets go from 0 to the number of outputs minus 1: check the targets of data() and "
        "the width of the model's last layer"
    ),
    r"shapes? cannot be multiplied|expected input.* to have|normalized_shape|"
    r"size mismatch|must match the size of tensor|expected .*-?D input|Expected .*-?D": (
        "the shapes do not fit: compare those of data() (the first axis is the examples) with "
        "what the model and loss() take"
    ),
    r"more than 1 value per channel": (
        "batch norm takes no single example in training: choose a batch size that leaves none over "
        "at the end of an epoch, or has no part of one example"
    ),
    r"but got (Long|Int|Short|Char|Byte|Bool) and": (
        "integer inputs stay integers: convert them in data() with .float()"
    ),
    r"dtype|scalar type|type Double|type Float": (
        "sharp hands floating-point data and parameters over in one dtype, float32 unless another "
        "is asked for: make tensors in predict(), loss() and forward() in that of what they meet, "
        "as in torch.zeros(3).to(outputs)"
    ),
    r"argument 'target'": (
        "predict, loss and metrics get the whole batch, as in `def loss(outputs, batch): "
        "return functional.cross_entropy(outputs, batch[1], reduction='none')`"
    ),
    r"argument '\w+' (\(position \d+\) )?must be Tensor, not \w+": (
        "one of PyTorch's functions got something other than a tensor: let data() return "
        "tensors, or make them in collate(rows) or predict()"
    ),
    r"all tensors to be on the same device|not on the expected device": (
        "move tensors that the task makes to the device of the outputs: .to(outputs.device)"
    ),
}
# Folders of code that is not the task's: sharp's own and Python's.
_NOT_THE_TASKS = tuple(
    f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], sysconfig.get_path("stdlib"))
)


@dataclass
class Imports:
    """While active, modules can be imported from a folder; afterwards `sys.path` is restored.

    With `private`, modules from the folder are also removed from `sys.modules`, and put back at the
    next use. So the `utils.py` of one task is never mistaken for another's.
    """

    folder: Path
    private: bool = True
    kept: dict[str, ModuleType] = field(default_factory=dict)
    shadowed: dict[str, ModuleType] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)

    def __enter__(self) -> None:
        sys.path.insert(0, str(self.folder))
        self.shadowed = {name: sys.modules[name] for name in self.kept if name in sys.modules}
        self.before = set(sys.modules) - set(self.shadowed)
        sys.modules.update(self.kept)

    def __exit__(self, *_: object) -> None:
        if str(self.folder) in sys.path:
            sys.path.remove(str(self.folder))
        if self.private:
            for name in set(sys.modules) - self.before:
                if self._is_ours(name.partition(".")[0]):
                    self.kept[name] = sys.modules.pop(name)
            sys.modules.update(self.shadowed)

    def _is_ours(self, root: str) -> bool:
        """Whether the module `root` is a file or a package directly in the folder."""
        module = sys.modules.get(root) or self.kept.get(root)
        file = getattr(module, "__file__", None)
        if file is None:
            return False
        place = Path(file).parent
        return self.folder == (place.parent if hasattr(module, "__path__") else place)


@dataclass(frozen=True, repr=False)
class Source:
    """A task's functions by name, and what errors and the fingerprint need.

    `where` is its name in errors, `file` the file with its own code, `text` the input of the
    fingerprint, `public` the names that it defines. `identities` give for an option that names a
    file or a folder what identifies its content, for the fingerprint.
    """

    where: str
    functions: Mapping[str, Any]
    public: tuple[str, ...]
    text: bytes
    file: str | None
    imports: Imports
    identities: Mapping[str, Callable[[str], str]] = field(default_factory=dict)


class user_code:  # noqa: N801 (used as `with user_code(...)`, where it reads as a function)
    """While active, exceptions from the task's code become a `SharpError` that names the task.

    `given` are the options that the user chose for the code. `otherwise` is the hint if none of the
    task's own code has run.
    """

    def __init__(
        self,
        where: str,
        what: str,
        file: str | None,
        given: Mapping[str, Any] | None = None,
        otherwise: str | None = None,
    ) -> None:
        self.where, self.what, self.file = where, what, file
        self.given, self.otherwise = given or {}, otherwise

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SharpError) or not isinstance(error, Exception | SystemExit):
            return  # no exception, one that has its message already, or Ctrl-C
        if is_out_of_memory(error):
            error.add_note(f"{self._place(trace)[0]}: {self.what} ran out of memory")
            return  # the caller halves the batch size, or the program ends
        if isinstance(error, SyntaxError) and error.lineno is not None:
            place = self.where if error.filename == self.file else error.filename
            raise SharpError(
                f"{place}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}",
                "correct this line",
            ) from error
        place, own = self._place(trace)
        said = f": {error}" if str(error) else ""
        raise SharpError(
            f"{place}: {self.what} raised {type(error).__name__}{said}", self._advice(error, own)
        ) from error

    def _place(self, trace: TracebackType | None) -> tuple[str, bool]:
        """The place at which the task's own code failed, and whether any of it was running.

        The line in the task's file comes first, then the line in another file of the user's.
        """
        frames = traceback.extract_tb(trace)
        own = [
            frame for frame in frames if frame.filename == self.file or _is_users(frame.filename)
        ]
        if not own or (self.file or "").startswith(_NOT_THE_TASKS[0]):
            return self.where, False
        lines = [frame.lineno for frame in own if frame.filename == self.file]
        line = f", line {lines[-1]}" if lines else ""
        last = own[-1]
        beside = last.filename.removeprefix(f"{Path(self.file or '').parent}{os.sep}")
        inner = "" if last.filename == self.file else f" ({beside}, line {last.lineno})"
        return f"{self.where}{line}{inner}", True

    def _advice(self, error: BaseException, own: bool) -> str:
        """The hint for an exception; `own` says whether it passed through the task's own code."""
        if isinstance(error, ModuleNotFoundError):
            file = self.file
            if file and error.name and Path(file).with_name(f"{error.name}.py").exists():
                return f"import '{error.name}' at the top of the task file, not in a function"
            return f"install '{error.name}' in the environment that runs sharp ({sys.executable})"
        if isinstance(error, SystemExit):
            return "put what the file does as a script under `if __name__ == '__main__':`"
        for pattern, advice in _KNOWN.items():
            if re.search(pattern, str(error)):
                return advice
        if not own and re.search(r"takes .* arguments? but|required positional", str(error)):
            return f"sharp calls it as {self.what}: let it take these arguments"
        chosen = " ".join(setting(f"options.{name}", each) for name, each in self.given.items())
        if chosen:
            text = any(isinstance(value, str) for value in self.given.values())
            typed = (
                " (passed as text unless the argument is annotated, as in width: int)"
                if text
                else ""
            )
            return f"check {chosen}{typed}" + (", or correct the task's code" if own else "")
        if not own and self.otherwise:
            return self.otherwise
        return "correct the task's code; python -i on the file helps to find the cause"


def _is_users(filename: str) -> bool:
    """Whether a file belongs to neither sharp, nor Python, nor an installed package."""
    installed = "site-packages" in filename or "dist-packages" in filename
    return not (installed or filename.startswith(("<", *_NOT_THE_TASKS)))


class NoTaskFileError(UsageError):
    """The file that a task's name leads to does not exist."""


def find_source(spec: str, builtins: Mapping[str, Builtin]) -> Source:
    """Find and run the code that `spec` names; a `SharpError` says where it fails.

    Raises:
        UsageError: there is no such file, module, object or built-in task.
    """
    if spec in builtins:
        return _from_builtin(builtins[spec])
    if spec.endswith(".py") or Path(spec).is_file():
        return _from_file(Path(spec), spec)
    if ":" in spec:
        return _from_object(spec)
    if not spec:
        raise UsageError("the task's name is empty", "is a variable of the shell not set?")
    raise UsageError(
        f"there is no task '{spec}': it is not a file, and among the built-in tasks "
        f"{did_you_mean(spec, builtins)}",
        "name a file (task.py, which `sharp init` writes), an object (package.module:name) or a "
        "built-in task (`sharp tasks` lists them)",
    )


def _from_file(path: Path, where: str) -> Source:
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise NoTaskFileError(
            f"{where}: there is no such task file", f"`sharp init {where}` writes one"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{where}: the task file cannot be read: {error.strerror}", "check its permissions"
        ) from error
    full = path.resolve()
    # A unique name under which the file's own classes and functions can find their module.
    name = f"sharpcli_task_{hashlib.sha256(str(full).encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = str(full)
    imports = Imports(full.parent)
    sys.modules[name] = module
    with user_code(where, "importing it", str(full)), imports:
        exec(compile(text, str(full), "exec", dont_inherit=True), module.__dict__)
        functions, public = _contents(module)
        functions = _from_lightning(functions, getattr(module, "datamodule", None), where, module)
    own = text + imported_code(text, full, _is_users)
    return Source(where, functions, public, own, str(full), imports)


def _from_object(spec: str) -> Source:
    module_name, _, attribute = spec.partition(":")
    imports = Imports(Path.cwd(), private=False)
    try:
        with imports:
            found = importlib.util.find_spec(module_name) if module_name else None
    except ModuleNotFoundError:  # a parent package is missing
        found = None
    except ValueError:  # the module is loaded and has no spec, as __main__
        found = None
    if found is None:
        raise UsageError(
            f"{spec}: there is no module '{module_name}' here",
            "install it, or run sharp in the folder that holds it; an object is named "
            "package.module:name",
        )
    with user_code(spec, "importing it", found.origin), imports:
        module = importlib.import_module(module_name)
    it: Any = module
    for part in filter(None, attribute.split(".")):
        if not hasattr(it, part):
            names = [name for name in dir(it) if not name.startswith("_")]
            raise UsageError(
                f"{spec}: '{module_name}' has no '{part}': {did_you_mean(part, names)}",
                "an object is named package.module:name",
            )
        it = getattr(it, part)
    functions, public = _contents(it)
    if attribute and _lightning_module(it):
        with user_code(spec, "reading its data loaders", found.origin), imports:
            functions = _from_lightning({"model": it}, None, spec, module)
    elif isinstance(it, type) and _wants_self(it):
        with user_code(spec, f"{it.__name__}()", found.origin), imports:
            functions, public = _contents(it())
    source = found.origin if found.origin and found.origin.endswith(".py") else None
    text = Path(source).read_bytes() if source else repr(spec).encode()
    text += imported_code(text, Path(source), _is_users) if source else b""
    return Source(spec, functions, public, text, found.origin, imports)


def _from_builtin(builtin: Builtin) -> Source:
    try:
        version = importlib.metadata.version(builtin.package) if builtin.package else ""
    except importlib.metadata.PackageNotFoundError:
        version = "absent"  # `data` raises an error that says how to install it
    text = f"{builtin.name} {builtin.package} {version}".encode()
    module = builtin.module
    imports = Imports(Path(__file__).parent, private=False)
    named = module.identities() if hasattr(module, "identities") else {}
    return Source(builtin.name, *_contents(module), text, module.__file__, imports, named)


def _contents(it: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The functions of a task by name, and the names that it defines."""
    functions = {name: getattr(it, name) for name in POSITIONAL if hasattr(it, name)}
    return functions, tuple(name for name in vars(it) if not name.startswith("_"))


def _lightning_module(it: Any) -> bool:
    from sharpcli.tasks.lightning_task import is_lightning_module  # slow: it loads torch

    return is_lightning_module(it)


def _from_lightning(
    functions: dict[str, Any], datamodule: Any, where: str, module: ModuleType
) -> dict[str, Any]:
    """The functions, with `data` and `collate` from Lightning if the task has no `data`."""
    model = functions.get("model")
    lightning = model is not None and _lightning_module(model)
    if "data" in functions or not (lightning or datamodule is not None):
        return functions
    from sharpcli.tasks.lightning_task import lightning_functions

    found = lightning_functions(
        model if lightning else None, datamodule, where, module, own_predict="predict" in functions
    )
    return {**found, **{k: v for k, v in functions.items() if k != "model" or not lightning}}


def _wants_self(kind: type) -> bool:
    """Whether `model` is a method, so that calling it needs an instance."""
    model = inspect.getattr_static(kind, "model", None)
    return inspect.isfunction(model) and next(iter(inspect.signature(model).parameters), "") in (
        "self",
    )
