"""Loading a task: from a file, an object, a built-in name, and from a checkpoint's metadata."""

import sys
import types
from pathlib import Path

import pytest
import torch
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.studies import Studies
from sharpcli.tasks import builtin, builtin_tasks, load_task, task_from_metadata
from sharpcli.tasks.source import NoTaskFileError

GOOD = """
import torch
def model(width: int = 4):
    return torch.nn.Linear(3, width)
def data(split, rows: int = 5):
    return torch.zeros(rows, 3), torch.zeros(rows, dtype=torch.long)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text, name="task.py"):
    with open(name, "w") as stream:  # noqa: PTH123 (relative to the folder of the test)
        stream.write(text)
    return name


def refused(spec, kind=SharpError, **options):
    with pytest.raises(kind) as caught:
        load_task(spec, options)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_file():
    task = load_task(write(GOOD), {"width": "7", "rows": "2"})
    assert task.name == "task.py"
    assert task.options == {"width": 7, "rows": 2}
    assert task.model().weight.shape == (7, 3)
    assert len(task.data("test")[0]) == 2
    assert task.collate is None


def test_a_path_names_a_file_as_its_text_does():
    path = Path(write(GOOD))
    assert load_task(path, {}).fingerprint == load_task(str(path), {}).fingerprint
    assert Studies(path, {}, RunSettings(), torch.device("cpu")).of(None).task.name == "task.py"


def test_all_functions_of_the_file_are_taken():
    extra = "".join(f"def {f}(*a): return '{f}'\n" for f in ("predict", "loss"))
    extra += "def metrics(*a): return {'metrics': a}\n"
    task = load_task(write(GOOD + extra + "def collate(rows): return rows\n"), {})
    assert task.predict(None, None) == "predict"
    assert task.loss(None, None) == "loss"
    assert task.metrics(1, 2) == {"metrics": (1, 2)}
    assert task.collate([1]) == [1]


def test_metrics_can_be_switched_off():
    assert load_task(write(GOOD + "metrics = None"), {}).metrics is None


def test_a_file_of_any_name_that_is_there():
    assert load_task(write(GOOD, "task_file"), {}).name == "task_file"


def test_a_file_does_not_hide_a_builtin_task():
    write(GOOD, "digits")
    assert load_task("digits", {}).options["model"] == "mlp"


def test_neighbours_can_be_imported_and_leave_nothing_behind(folder):
    path, modules = list(sys.path), set(sys.modules)
    for name, number in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        write(f"number = {number}", f"{name}/neighbour.py")
        write(
            GOOD + "import neighbour\ndef predict(model, batch):\n  return neighbour.number\n",
            f"{name}/task.py",
        )
    assert [load_task(f"{n}/task.py", {}).predict(None, None) for n in ("one", "two")] == [1, 2]
    assert sys.path == path
    assert all(name.startswith("sharpcli_task_") for name in set(sys.modules) - modules)


def test_neighbours_can_be_imported_late():
    write("import torch\nclass Net(torch.nn.Module): pass\n", "late_neighbour.py")
    write(GOOD + "def model():\n  from late_neighbour import Net\n  return Net()\n")
    task = load_task("task.py", {})
    assert type(task.model()) is type(task.model())
    assert "late_neighbour" not in sys.modules


def test_neighbours_cannot_be_imported_while_measuring():
    write("number = 1", "too_late.py")
    write(GOOD + "def predict(model, batch):\n  import too_late\n")
    with pytest.raises(SharpError) as caught:
        load_task("task.py", {}).predict(None, None)
    assert "predict(model, batch) raised ModuleNotFoundError" in caught.value.message
    assert caught.value.hint == "import 'too_late' at the top of the task file, not in a function"


def test_dataclasses_work_in_a_task_file():
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text += "@dataclass\nclass A:\n  x: int = 0\n" + GOOD
    assert load_task(write(text), {"width": "9"}).model().weight.shape == (9, 3)


def test_an_object_in_a_module_of_the_working_folder(monkeypatch):
    write(
        GOOD + "class it:\n  model = staticmethod(model)\n  data = staticmethod(data)\n", "mine.py"
    )
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    path = list(sys.path)
    for spec in ("mine:it", "mine:"):
        task = load_task(spec, {"width": "2"})
        assert task.name == spec
        assert task.model().weight.shape == (2, 3)
    assert sys.path == path
    monkeypatch.delitem(sys.modules, "mine")


class Methods:
    def __init__(self):
        self.width = 6

    def model(self, depth: int = 1):
        return nn.Sequential(*(nn.Linear(3, self.width) for _ in range(depth)))

    def data(self, split):
        return (torch.zeros(4, 3),)


def test_a_class_and_an_instance(monkeypatch):
    module = types.ModuleType("holder")
    module.__spec__ = types.SimpleNamespace(origin=__file__)
    module.Methods, module.instance = Methods, Methods()
    monkeypatch.setitem(sys.modules, "holder", module)
    for spec in ("holder:Methods", "holder:instance"):
        assert len(load_task(spec, {"depth": "2"}).model()) == 2
        assert len(load_task(spec, {}).data("train")[0]) == 4


def test_fingerprint_follows_source_and_options():
    first = load_task(write(GOOD), {}).fingerprint
    assert len(first) == 64
    assert load_task("task.py", {"width": "4"}).fingerprint == first  # the default, given
    assert load_task("task.py", {"width": "5"}).fingerprint != first
    assert load_task(write(GOOD, "moved.py"), {}).fingerprint == first
    assert load_task(write(GOOD + "#"), {}).fingerprint != first


def test_no_such_file():
    assert refused("gone.py", NoTaskFileError) == (
        "gone.py: there is no such task file\n  hint: `sharp init gone.py` writes one"
    )


def test_no_such_task():
    said = refused("digitz", UsageError)
    assert "there is no task 'digitz'" in said
    assert "did you mean 'digits'?" in said
    assert "`sharp tasks` lists them" in said


def test_no_such_module():
    assert "there is no module 'no_such_module' here" in refused("no_such_module:x", UsageError)
    assert "there is no module 'no_such.module' here" in refused("no_such.module:x", UsageError)
    assert "there is no module '' here" in refused(":x", UsageError)


def test_no_such_object():
    said = refused("os.path:jion", UsageError)
    assert "'os.path' has no 'jion': did you mean 'join'?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def model(:\n", "task.py, line 1: invalid syntax"),
        (
            "x = 1\nraise ValueError('no data here')",
            "task.py, line 2: importing it raised ValueErr",
        ),
        ("import no_such_package", "task.py, line 1: importing it raised ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "task.py, line 2: importing it raised SystemExit"),
        ("def model(): pass", "task.py: defines no `data` (it defines model)"),
        ("def modle(): pass\nx = 1", "task.py: defines no `model` (it defines modle, x)"),
        ("", "task.py: defines no `model` (it defines nothing)"),
        (
            "import torch\nmodel = torch.zeros(2)\ndata = 1",
            "`model` is not a function but a tensor",
        ),
        (GOOD + "loss = 3", "task.py: `loss` is not a function but an int"),
        ("def model(:\n" + "\0", "task.py"),
    ],
)
def test_bad_files(text, said):
    assert said in refused(write(text))


def test_advice_for_bad_files():
    assert "`sharp init` writes one" in refused(write("def model(): pass"))
    assert "install 'no_such_package'" in refused(write("import no_such_package"))
    assert "__name__ == '__main__'" in refused(write("raise SystemExit"))


def test_an_error_in_a_neighbour_names_the_tasks_line():
    write("\n\n1 / 0", "broken_neighbour.py")
    said = refused(write("x = 1\nimport broken_neighbour"))
    assert "task.py, line 2 (broken_neighbour.py, line 3): importing it raised" in said
    assert "ZeroDivisionError: division by zero" in said


def test_a_syntax_error_in_a_neighbour_names_the_neighbour():
    write("\ndef", "worse_neighbour.py")
    assert "worse_neighbour.py, line 2: invalid syntax" in refused(write("import worse_neighbour"))


def test_builtin_tasks_are_named():
    names = list(builtin_tasks())
    assert names[:3] == ["digits", "mnist", "text"]
    assert names[3:] == ["hf-causal-lm", "hf-sequence-classification", "timm"]


def test_a_module_beside_them_is_a_builtin_task(tmp_path, monkeypatch):
    own = "SUMMARY, PACKAGE = 'two points', 'torch'\n"
    (tmp_path / "points_task.py").write_text(own + GOOD, "utf-8")
    monkeypatch.setattr(builtin, "__path__", [*builtin.__path__, str(tmp_path)])
    builtin_tasks.cache_clear()
    try:
        own = [name for name, each in builtin_tasks().items() if each.example is None]
        assert sorted(own) == ["digits", "mnist", "points_task", "text"]
        assert builtin_tasks()["points_task"].summary == "two points"
        assert load_task("points_task", {}).name == "points_task"
        assert task_from_metadata({"task": "points_task"}) == ("points_task", {})
    finally:
        builtin_tasks.cache_clear()


def test_metadata_may_name_a_builtin_task():
    metadata = {"task": "digits", "task_options": "model=mlp,batch_norm=true", "lr": 0.1}
    assert task_from_metadata(metadata) == ("digits", {"model": "mlp", "batch_norm": "true"})
    assert task_from_metadata({"task": "digits"}) == ("digits", {})
    assert task_from_metadata({"lr": 0.1}) is None


@pytest.mark.parametrize("name", ["/tmp/evil.py", "os:system", "evil", "", 3, "digits.py"])
def test_metadata_may_name_nothing_else(name):
    with pytest.raises(SharpError) as caught:
        task_from_metadata({"task": name})
    assert f"name the task {str(name)!r}, which is not a built-in one" in str(caught.value)
    assert "a checkpoint cannot choose code to run" in str(caught.value)
    assert 'task="task.py"' in caught.value.hint


def test_metadata_with_unreadable_options():
    with pytest.raises(SharpError, match="task_options 'mlp', which is not of the form"):
        task_from_metadata({"task": "digits", "task_options": "mlp"})


def test_fingerprint_follows_the_users_modules_that_the_task_imports(folder):
    (folder / "package").mkdir()
    own = {
        "helper.py": "def width(): return 4",
        "package/__init__.py": "from .deep import value",
        "package/deep.py": "value = 1",
        "later.py": "",
        "aside.py": "",
    }
    for name, text in own.items():
        write(text, name)
    spec = write(
        f"import os, torch.nn\nfrom helper import width\nimport package\n{GOOD}    import later\n"
    )
    first = load_task(spec, {}).fingerprint
    for name, text in own.items():
        write(f"{text}\n# changed", name)
        assert (load_task(spec, {}).fingerprint != first) == (name != "aside.py"), name
        write(text, name)
    assert load_task(spec, {}).fingerprint == first


def test_fingerprint_of_modules_that_import_one_another(folder):
    write("import b", "a.py")
    write("import a", "b.py")
    write("a syntax error", "broken.py")
    spec = write(f"import a\n{GOOD}    if False: import broken, missing\n")
    first = load_task(spec, {}).fingerprint
    write("import a\n", "b.py")
    assert load_task(spec, {}).fingerprint != first
