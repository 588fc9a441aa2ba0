"""What importing costs: the command line starts without torch, and says so in a fresh process."""

import importlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sharpcli import __version__
from sharpcli.cli.main import COMMANDS, sharp
from sharpcli.errors import SharpError

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HELP = "import sys; sys.argv = ['sharp', '--help']; from sharpcli.cli.main import main; main()"
HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "rich")


def fresh(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, **options
    )


def loaded_by(code):
    """The heavy modules that are loaded once `code` has run in a fresh process."""
    end = f"import sys; print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = fresh("-c", f"try:\n  {code}\nfinally:\n  {end}")
    return done.stdout.rpartition("LOADED")[2].split()


def test_help_imports_nothing_heavy():
    assert loaded_by(HELP) == []


@pytest.mark.parametrize(
    "module",
    [
        *("errors", "settings.exploring", "settings.measuring", "settings.search"),
        *("settings.training_names", "settings.typed", "cli.options.run", "cli.config"),
        *("cli.options.output", "documents.results"),
    ],
)
def test_light_modules_import_nothing_heavy(module):
    assert loaded_by(f"import sharpcli.{module}") == []


def test_settings_of_the_python_interface_import_nothing_heavy():
    names = "GridSettings, InterpolateSettings, LandscapeSettings, MeasureSettings, PathSettings"
    assert loaded_by(f"from sharpcli import {names}") == []


@pytest.mark.parametrize("module", ["render", "training", "tasks"])
def test_modules_without_torch(module):
    assert "torch" not in loaded_by(f"import sharpcli.{module}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_torch(command):
    argv = f"sys.argv = ['sharp', '{command}', '--help']"
    assert not {"torch", "numpy", "scipy", "sklearn"} & set(
        loaded_by(f"import sys; {argv}; from sharpcli.cli.main import main; main()")
    )


def seconds_of_children():
    """The processor's time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_as_fast_as_importing_click_and_rich():
    """At most 1.5 times the time of the imports, whatever else the machine does."""
    times = {"import click, rich": [], HELP: []}
    for _ in range(9):
        for code, taken in times.items():
            started = seconds_of_children()
            fresh("-c", code, check=True)
            taken.append(seconds_of_children() - started)
    imports, ours = (min(taken) for taken in times.values())
    assert ours <= 1.5 * imports


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_the_line_of_the_table(name):
    done = CliRunner().invoke(sharp, [name, "--help"])
    assert done.exit_code == 0, done.output
    module, attribute, line = COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    first_sentence = command.help.partition("\n")[0].strip()
    assert first_sentence == line
    assert "sharp " + name in (command.epilog or ""), "the epilog shows a runnable example"
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_list_of_commands():
    done = CliRunner().invoke(sharp, ["--help"])
    for name, (_, _, line) in COMMANDS.items():
        assert name in done.output
        assert line in done.output


def test_version():
    done = CliRunner().invoke(sharp, ["--version"])
    assert done.output == f"sharp {__version__}\n"


def test_unknown_command_gets_the_nearest():
    done = CliRunner().invoke(sharp, ["mesure"])
    assert done.exit_code == 2
    assert "there is no command 'mesure': did you mean 'measure'?" in done.stderr


def test_unknown_option_gets_the_nearest():
    done = CliRunner().invoke(sharp, ["train", "--optimiser", "adam"])
    assert done.exit_code == 2
    assert "--optimizer" in done.stderr


def raising(monkeypatch, error):
    """Make `sharp tasks` raise `error`."""

    def command():
        raise error

    stand_in = click.Command("tasks", callback=command)
    monkeypatch.setattr("sharpcli.cli.commands.tasks.tasks", stand_in)
    return CliRunner().invoke(sharp, ["tasks"])


def test_an_error_is_one_message_on_stderr(monkeypatch):
    done = raising(monkeypatch, SharpError("a.pt: is empty", "save it again"))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == "Error: a.pt: is empty\n  hint: save it again\n"


def test_an_interrupt_is_one_line(monkeypatch):
    done = raising(monkeypatch, KeyboardInterrupt())
    assert done.exit_code == 130
    assert done.stderr.strip() == "Interrupted."


def test_python_m_runs_it():
    done = fresh("-m", "sharpcli", "nothing")
    assert done.returncode == 2
    assert "there is no command 'nothing': there are: measure, interpolate" in done.stderr


def test_a_reader_that_leaves_gets_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m sharpcli tasks | true",
        shell=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""


def test_a_bug_says_how_to_report_it():
    code = (
        "import click, sharpcli.cli.commands.tasks as t\n"
        "t.tasks = click.Command('tasks', callback=lambda: 1 / 0)\n"
        "import sys; sys.argv = ['sharp', 'tasks']\n"
        "from sharpcli.cli.main import main; main()"
    )
    done = fresh("-c", code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert f"This is a bug in sharp {__version__}" in done.stderr
