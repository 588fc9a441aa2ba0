"""TAB completes commands, options, files and names; once by a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from sharpcli.cli.commands.completion import SHELLS
from sharpcli.cli.main import COMMANDS, sharp
from sharpcli.measures import known_measures
from sharpcli.tasks import builtin_tasks

FILE = ("file", "")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_TASK", raising=False)


def completed(*words):
    """What TAB offers for the last word, as (kind, text)."""
    *before, incomplete = words
    found = ShellComplete(sharp, {}, "sharp", "_SHARP_COMPLETE").get_completions(before, incomplete)
    return [(item.type, item.value) for item in found]


def plain(*words):
    found = completed(*words)
    assert {kind for kind, _ in found} <= {"plain"}
    return [text for _, text in found]


def test_commands_and_their_options():
    assert plain("") == [*COMMANDS]
    assert plain("in") == ["interpolate", "inspect", "init"]
    assert "--version" in plain("--")
    assert plain("measure", "--sub") == ["--subspace"]
    assert "--sam-rho" in plain("measure", "--sa")  # of a measure


def test_completing_a_command_imports_none():
    code = (
        "import sys; from click.shell_completion import ShellComplete\n"
        "from sharpcli.cli.main import sharp\n"
        "ShellComplete(sharp, {}, 'sharp', 'X').get_completions([], 'm')\n"
        "assert not [name for name in sys.modules if name.startswith('sharpcli.cli.commands.')]\n"
        "ShellComplete(sharp, {}, 'sharp', 'X').get_completions(['measure', '-m'], 'h')\n"
        "ShellComplete(sharp, {}, 'sharp', 'X').get_completions(['train', 'digits', '-O'], '')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ("measure",),
        ("measure", "a.pt"),
        ("measure", "a.pt", "--baseline"),
        ("measure", "a.pt", "--initial"),
        ("interpolate", "a.pt"),
        ("landscape",),
        ("landscape", "a.pt", "--mark"),
        ("landscape", "a.pt", "--trajectory", "b.pt"),
        ("spectrum",),
        ("inspect",),
        ("plot",),
        ("plot", "a.json", "--plot"),
        ("compare",),
        ("report",),
        ("train", "--init"),
        ("sweep",),
    ],
)
def test_files_stay_files(words):
    assert completed(*words, "") == [FILE]
    assert completed(*words, "runs/mo") == [("file", "runs/mo")]


def test_every_argument_and_every_checkpoint_is_completed():
    parent = sharp.make_context("sharp", [], resilient_parsing=True)
    for name in COMMANDS:
        command = sharp.get_command(parent, name)
        context = click.Context(command, parent=parent)
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Argument) or "CKPT" in (parameter.metavar or ""):
                found = parameter.shell_complete(context, "")
                assert found, (name, parameter.name)


def test_measures():
    assert plain("measure", "-m", "") == ["all", *known_measures()]
    assert plain("measure", "-m", "he") == ["hessian"]
    assert plain("measure", "a.pt", "--decide", "tr") == ["trace"]
    assert plain("train", "digits", "--track", "hessian,tr") == ["hessian,trace"]
    assert "hessian,hessian" not in plain("train", "digits", "--track", "hessian,he")


def test_tasks_and_their_options(tmp_path):
    (tmp_path / "my_task.py").write_text("raise SystemExit('this task must not be run')")
    assert plain("measure", "a.pt", "-t", "") == [*builtin_tasks(), "my_task.py"]
    assert plain("measure", "a.pt", "-t", "my") == ["my_task.py"]
    assert plain("train", "di") == ["digits"]
    assert completed("measure", "a.pt", "-t", "src/my") == [("file", "src/my")]
    declared = [f"{option.name}=" for option in builtin_tasks()["digits"].options()]
    assert plain("measure", "a.pt", "-t", "digits", "-O", "") == declared
    assert plain("train", "digits", "-O", "wi") == ["width="]
    assert plain("train", "my_task.py", "-O", "") == []


def test_values_of_options():
    assert plain("measure", "a.pt", "--format", "") == ["table", "json", "csv", "markdown"]
    assert plain("measure", "a.pt", "--device", "c") == ["cpu", "cuda"]
    assert plain("measure", "a.pt", "--subspace", "f") == ["full"]
    assert plain("train", "digits", "--save-every", "") == ["log"]
    assert plain("train", "digits", "--optimizer", "ada") == ["adam", "adamw"]
    assert plain("schedule", "TRI") == ["TRI(", "TRI2(", "TRIEXP("]
    assert plain("completion", "") == [*SHELLS]


def test_a_broken_configuration_and_an_unknown_command_say_nothing(tmp_path, capfd):
    (tmp_path / "sharp.toml").write_text("nonsense = [", "utf-8")
    assert plain("measure", "-m", "he") == ["hessian"]
    assert plain("mesure", "-m", "he") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell(shell, monkeypatch):
    done = CliRunner().invoke(sharp, ["completion", shell])
    assert done.exit_code == 0
    assert f"_SHARP_COMPLETE={shell}_complete" in done.stdout
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert CliRunner().invoke(sharp, ["completion"]).stdout == done.stdout


def test_a_shell_that_is_not_known(monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = CliRunner().invoke(sharp, ["completion"])
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: the shell 'tcsh' is not known\n  hint: sharp completion bash|zsh|fish\n"
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_real_bash(tmp_path):
    """The script is read by bash, which then asks `sharp` itself."""
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "sharp").write_text(f'#!/bin/sh\nexec {sys.executable} -m sharpcli "$@"\n', "utf-8")
    (tmp_path / "sharp").chmod(0o755)
    script = """
eval "$(sharp completion bash)"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _sharp_completion sharp
        echo "${COMPREPLY[*]}"; }
compopt() { local IFS=" "; echo "compopt $*"; }
ask sharp measure model.safetensors -m hes
ask sharp measure model.safetensors -t dig
ask sharp measure mod
complete -p sharp
"""
    package = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": package,
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("hessian", "digits", "compopt -o default", ""),
        "complete -o nosort -F _sharp_completion sharp",
    ]
