"""The shared options: what commands get from them, and what bad values are told."""

import click
import pytest
from click.testing import CliRunner
from sharpcli.cli.options.output import output_options
from sharpcli.cli.options.run import run_options
from sharpcli.cli.options.task import task_argument, task_options
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.output import OutputSettings

from sharpcli.cli.parameter_types import NAMES, SIZE
from sharpcli.errors import UsageError


def invoke(decorator, *arguments, environment=None):
    """What a command with this decorator gets, and how it ends."""
    got = {}

    @click.command()
    @decorator
    def command(**values):
        got.update(values)

    done = CliRunner(env=environment).invoke(command, arguments)
    return got, done


def test_run_options_default_to_the_settings_defaults():
    got, _ = invoke(run_options)
    assert got == {"run": RunSettings()}


def test_run_options():
    got, _ = invoke(
        run_options,
        *("--split", "test", "--samples", "9", "--batch-size", "4", "--device", "cuda:1"),
        *("--dtype", "float64", "--mode", "train", "--seed", "7"),
    )
    assert got["run"] == RunSettings("test", 9, 4, "cuda:1", "float64", "train", 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cudaa"], "'cudaa' is not a device: did you mean 'cuda'?"),
        (["--device", "cuda:x"], "'cuda:x' is not a device: did you mean 'cuda:0'?"),
        (["--samples", "0"], "Invalid value for '--samples': 0"),
        (["--batch-size", "many"], "Invalid value for '--batch-size': 'many'"),
        (["--dtype", "float16"], "'float32', 'float64', 'bfloat16'"),
        (["--split", "validation"], "'train', 'test'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_bad_run_options_say_what_is_allowed(arguments, said):
    _, done = invoke(run_options, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("file", "arguments", "expected"),
    [
        ("r.json", [], "json"),
        ("r.JSON", [], "json"),
        ("r.csv", [], "csv"),
        ("r.md", [], "markdown"),
        ("r.txt", [], "table"),
        ("r", [], "table"),
        ("r.json", ["--format", "table"], "table"),
        ("r.csv", ["--json"], "json"),
    ],
)
def test_the_suffix_of_the_output_says_its_form_unless_an_option_does(
    tmp_path, file, arguments, expected
):
    got, done = invoke(output_options, "--output", str(tmp_path / file), *arguments)
    assert done.exit_code == 0, done.output
    assert got["output"].format == expected


def test_output_options(tmp_path):
    got, _ = invoke(output_options)
    assert got == {"output": OutputSettings()}
    file = tmp_path / "r.csv"
    got, _ = invoke(output_options, "--format", "csv", "--output", str(file), "--strict")
    assert got["output"] == OutputSettings("csv", file, strict=True)


@pytest.mark.parametrize("arguments", [["--json"], ["--format", "json", "--json"]])
def test_json_is_short_for_format_json(arguments):
    got, _ = invoke(output_options, *arguments)
    assert got["output"].format == "json"


@pytest.mark.parametrize("arguments", [["--json", "--format", "csv"], ["--quiet", "--verbose"]])
def test_what_excludes_each_other(arguments):
    _, done = invoke(output_options, *arguments)
    assert isinstance(done.exception, UsageError)
    assert "exclude each other" in done.exception.message


def test_task_options():
    got, _ = invoke(task_options, "-t", "digits", "-O", "width=128", "--option", "name=a=b")
    assert got == {"task": "digits", "task_options": {"width": "128", "name": "a=b"}}


def test_no_task():
    got, _ = invoke(task_options)
    assert got == {"task": None, "task_options": {}}


def test_the_environment_names_the_task_and_the_command_line_outdoes_it():
    environment = {"SHARP_TASK": "digits"}
    assert invoke(task_options, environment=environment)[0]["task"] == "digits"
    assert invoke(task_options, "-t", "t.py", environment=environment)[0]["task"] == "t.py"
    assert invoke(task_argument, "t.py", environment=environment)[0]["task"] == "t.py"


@pytest.mark.parametrize("pair", ["width", "=3"])
def test_an_option_is_name_equals_value(pair):
    _, done = invoke(task_options, "-O", pair)
    assert done.exit_code == 2
    assert f"'{pair}' is not of the form name=value" in done.stderr


def test_an_option_given_twice():
    _, done = invoke(task_options, "-O", "width=1", "-O", "width=2")
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == "-O width is given twice"


def test_a_task_named_twice():
    _, done = invoke(task_argument, "digits", "--task", "t.py")
    assert done.exception.message == "the task is named twice: 'digits' and --task t.py"


def test_names():
    assert NAMES.convert("optimizer, batch_size", None, None) == ("optimizer", "batch_size")
    for bad in ("a,,b", "", "a,a"):
        with pytest.raises(click.BadParameter):
            NAMES.convert(bad, None, None)


@pytest.mark.parametrize(
    ("said", "size"),
    [("500MB", 500 * 10**6), ("2GB", 2 * 10**9), ("1.5GiB", 3 * 2**29), ("12k", 12_000), ("7", 7)],
)
def test_sizes_are_read_as_people_write_them(said, size):
    assert SIZE.convert(said, None, None) == size


@pytest.mark.parametrize("said", ["", "0", "much", "-3GB", "2 gigabytes", "0.1"])
def test_what_is_no_size_is_refused(said):
    with pytest.raises(click.BadParameter, match="is not a size such as 500MB or 2GB"):
        SIZE.convert(said, None, None)
