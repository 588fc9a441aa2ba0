"""Messages name settings: in Python's words for a caller, as options on the command line."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
from sharpcli.settings.exploring import PathSettings

import sharpcli
from sharpcli.cli.main import COMMANDS, sharp
from sharpcli.cli.option_names import as_option
from sharpcli.errors import UsageError, setting, settings_written_by
from sharpcli.training import TrainSettings

PACKAGE = Path(sharpcli.__file__).parent
FILES = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "cli" not in path.parents]


# In backticks, as an example, or of another program: what is typed as it stands.
COMMANDS_AS_A_WHOLE = re.compile(r"`sharp [^`]*`|^sharp .*|python -m .*")
# What only callers in Python can give.
ONLY_IN_PYTHON = {"collate"}


def trees() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text("utf-8"))) for path in FILES]


def options() -> set[str]:
    context = sharp.make_context("sharp", [], resilient_parsing=True)
    commands = [sharp.get_command(context, name) for name in COMMANDS]
    return {
        name
        for command in commands
        if command is not None
        for parameter in command.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def literal_names(call: ast.Call) -> list[str]:
    """The names that a call of `setting` may be given, where they stand in the code."""
    first = call.args[0]
    choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
    return [c.value for c in choices if isinstance(c, ast.Constant) and isinstance(c.value, str)]


def named_settings() -> list[tuple[str, str]]:
    return [
        (file, name)
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setting"
        for name in literal_names(node)
    ]


def test_only_the_command_line_writes_options():
    found = [
        f"{file}:{node.lineno}: {node.value}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if file != "runs/slurm.py"  # it runs Slurm's own commands
        if re.search(r"--[a-z]|(?<![\w-])-[mO]\b", COMMANDS_AS_A_WHOLE.sub("", node.value))
    ]
    assert found == []


def test_every_setting_that_a_message_names_is_an_option():
    known, names = options(), named_settings()
    assert len(names) > 80
    assert [
        f"{file}: {name}"
        for file, name in names
        if as_option(name).split()[0] not in known and name not in ONLY_IN_PYTHON
    ] == []


@pytest.mark.parametrize(
    ("settings", "prefix"), [(TrainSettings, ""), (SpectrumSettings, ""), (PathSettings, "path.")]
)
def test_settings_that_are_named_by_their_field_are_options(settings, prefix):
    fields = [field.name for field in dataclasses.fields(settings) if field.name != "curvature"]
    assert {as_option(f"{prefix}{name}") for name in fields} <= options()


@pytest.mark.parametrize(
    ("name", "value", "in_python", "as_written"),
    [
        ("max_products", ..., "max_products", "--max-products"),
        ("dtype", "float64", 'dtype="float64"', "--dtype float64"),
        ("top", 12, "top=12", "--top 12"),
        ("resume", False, "resume=False", "--no-resume"),
        ("format", "json", 'format="json"', "--json"),
        ("format", "csv", 'format="csv"', "--format csv"),
        ("measures", ["loss", "trace"], "measures=['loss', 'trace']", "-m loss -m trace"),
        ("parameters", "layer4.*", 'parameters="layer4.*"', "--parameters 'layer4.*'"),
        ("path.lr", ..., "path.lr", "--path-lr"),
        ("path.kind", "chain", 'path.kind="chain"', "--path chain"),
        ("path.seed", 1, "path.seed=1", "--seed 1"),
        ("batch_norm.mode", "batch", 'batch_norm.mode="batch"', "--batch-norm batch"),
        ("batch_norm.examples", 64, "batch_norm.examples=64", "--batch-norm-examples 64"),
        ("run.batch_size", 8, "run.batch_size=8", "--batch-size 8"),
        ("options.width", 64, "options.width=64", "-O width=64"),
        ("task.options.a.b", ..., "task.options.a.b", "-O a.b"),
    ],
)
def test_a_setting_is_written_for_who_reads_it(name, value, in_python, as_written):
    assert setting(name, value) == in_python
    with settings_written_by(as_option):
        assert setting(name, value) == as_written
    assert setting(name, value) == in_python


def test_one_error_reads_as_its_reader_writes_settings():
    with pytest.raises(UsageError) as raised:
        CurvatureSettings(operator="ggn", hvp="double-backward")
    assert raised.value.message == (
        'hvp="double-backward": is a way to a Hessian product, and operator="ggn" has none'
    )
    words = ["measure", "a.pt", "--operator", "ggn", "--hvp", "double-backward"]
    for standalone in (True, False):
        done = CliRunner().invoke(sharp, words, standalone_mode=standalone)
        said = done.output if standalone else str(done.exception)
        assert (
            "--hvp double-backward: is a way to a Hessian product, and --operator ggn has none\n"
            "  hint: leave --hvp out"
        ) in said
