"""sharp.toml and pyproject.toml: where they are found, what counts more, what bad ones are told."""

import json

import click
import pytest
from click.testing import CliRunner
from sharpcli.cli.options.output import output_options
from sharpcli.cli.options.run import run_options
from sharpcli.cli.options.task import task_options

from sharpcli.cli import main as command_line
from sharpcli.cli.config import find_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The root of a repository, which is the working directory."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_TASK", raising=False)
    return tmp_path


@pytest.fixture
def probe(monkeypatch):
    """Run `sharp tasks`, replaced by a command that prints what it got."""

    @click.command()
    @task_options
    @run_options
    @output_options
    @click.option("--epsilon", type=float, multiple=True)
    @click.option("--betas", type=float, nargs=2)
    def tasks(task, task_options, run, output, epsilon, betas):
        click.echo(
            json.dumps(
                {
                    "task": task,
                    "options": task_options,
                    "device": run.device,
                    "samples": run.samples,
                    "format": output.format,
                    "strict": output.strict,
                    "epsilon": epsilon,
                    "betas": betas,
                }
            )
        )

    monkeypatch.setattr("sharpcli.cli.commands.tasks.tasks", tasks)

    def run(*arguments, **environment):
        return CliRunner(env=environment).invoke(command_line.sharp, ["tasks", *arguments])

    return run


def got(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_no_file_no_defaults(folder, probe):
    assert got(probe())["device"] == "auto"


def test_keys_are_long_options(folder, probe):
    (folder / "sharp.toml").write_text(
        'device = "cpu"\nsamples = 10\nstrict = true\nepsilon = [1e-3, 5e-4]\n'
        "betas = [0.9, 0.99]\njson = true\n[options]\nwidth = 128\nbatch_norm = true\n"
    )
    assert got(probe()) == {
        "task": None,
        "options": {"width": "128", "batch_norm": "true"},
        "device": "cpu",
        "samples": 10,
        "format": "json",
        "strict": True,
        "epsilon": [1e-3, 5e-4],
        "betas": [0.9, 0.99],
    }


def test_precedence(folder, probe):
    (folder / "pyproject.toml").write_text(
        '[tool.sharp]\ntask = "a"\ndevice = "cpu"\nsamples = 1\n[tool.sharp.options]\nwidth = 1\n'
    )
    assert (got(probe())["task"], got(probe())["samples"]) == ("a", 1)
    (folder / "sharp.toml").write_text('task = "b"\nsamples = 2\n[options]\ndepth = 2\n')
    assert got(probe())["device"] == "cpu"
    assert (got(probe())["task"], got(probe())["samples"]) == ("b", 2)
    assert got(probe())["options"] == {"width": "1", "depth": "2"}
    assert got(probe(SHARP_TASK="c"))["task"] == "c"
    assert got(probe("--task", "d", SHARP_TASK="c"))["task"] == "d"
    assert got(probe("--samples", "3"))["samples"] == 3


def test_a_commands_table_outdoes_the_top(folder, probe):
    (folder / "sharp.toml").write_text("samples = 1\n[tasks]\nsamples = 2\n[measure]\nx = 3\n")
    assert got(probe())["samples"] == 2


def test_the_command_line_changes_one_option_of_the_task(folder, probe):
    (folder / "sharp.toml").write_text('task = "digits"\n[options]\nwidth = 1\ndepth = 2\n')
    assert got(probe("-O", "width=9"))["options"] == {"width": "9", "depth": "2"}


def test_options_belong_to_the_files_task(folder, probe):
    (folder / "sharp.toml").write_text('task = "digits"\n[options]\nwidth = 1\n')
    assert got(probe("--task", "digits"))["options"] == {"width": "1"}
    assert got(probe("--task", "other.py"))["options"] == {}


def test_json_and_format_from_different_places(folder, probe):
    (folder / "sharp.toml").write_text('format = "csv"\n')
    assert got(probe("--json"))["format"] == "json"
    (folder / "sharp.toml").write_text("json = true\n")
    assert got(probe("--format", "markdown"))["format"] == "markdown"


def test_a_task_file_is_relative_to_the_file(folder, probe, monkeypatch):
    (folder / "sharp.toml").write_text('task = "task.py"\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert got(probe())["task"] == str(folder / "task.py")


def test_where_files_are_found(tmp_path):
    home = tmp_path / "home"
    below = home / "repository" / "src"
    below.mkdir(parents=True)
    for place in (tmp_path, home, home / "repository"):
        (place / "sharp.toml").write_text("")
    nearest = find_files(below, home)
    assert [file.folder for file in nearest] == [home / "repository"]
    (home / "repository" / "sharp.toml").unlink()
    assert [file.folder for file in find_files(below, home)] == [home]
    (home / "repository" / ".git").mkdir()
    assert find_files(below, home) == []  # not beyond the repository
    outside = tmp_path / "shared" / "folder"
    outside.mkdir(parents=True)
    assert find_files(outside, home) == []  # not the parents of a folder that is nobody's


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devise = 'cpu'", "devise: is not an option: did you mean 'device'?"),
        ("[tasks]\nsampels = 1", "[tasks] sampels: `sharp tasks` has no such option: did you mean"),
        ("[mesure]\nx = 1", "[mesure] is not a command: did you mean 'measure'?"),
        ("device = 'cudaa'", "device = 'cudaa': 'cudaa' is not a device: did you mean 'cuda'?"),
        ("samples = 1.5", "samples = 1.5: '1.5' is not a whole number"),
        ("samples = true", "samples = true: is not a single value"),
        ("samples = [1]", "samples = [1]: takes one value, not a list"),
        ("strict = 1", "strict = 1: is true or false"),
        ("betas = [0.9]", "betas = [0.9]: takes a list of 2 values"),
        ("epsilon = ['x']", "epsilon = ['x']: 'x' is not a valid float"),
        ("options = 3", "options must be a table"),
        ("tasks = 3", "tasks is a command and needs a table"),
        ("[options]\nwidth = [1]", "[options] width = [1]: is not a single value"),
        ("a b", "is not TOML"),
        ("a = " + 9000 * "[" + 9000 * "]", "nested too deeply"),
    ],
)
def test_bad_files_are_named_with_the_key(folder, probe, text, said):
    (folder / "sharp.toml").write_text(text)
    done = probe()
    assert done.exit_code == 2
    assert f"{folder / 'sharp.toml'}: " in done.stderr
    assert said in done.stderr
    assert "hint: " in done.stderr


def test_errors_in_pyproject_name_the_table(folder, probe):
    (folder / "pyproject.toml").write_text("[tool.sharp]\ndevise = 1\n")
    assert "pyproject.toml [tool.sharp]: devise: is not an option" in probe().stderr


def test_help_comes_even_where_the_file_is_bad(folder, probe):
    (folder / "sharp.toml").write_text("a b")
    assert probe("--help").exit_code == 0


def test_an_option_of_another_command_may_stand_at_the_top(folder, probe):
    (folder / "sharp.toml").write_text("until-loss = 0.01\n")
    assert got(probe())["device"] == "auto"
