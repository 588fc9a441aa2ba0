"""What every command prints with --json fits the schema, kind by kind."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from tiny_experiments import write as write_experiment

from sharpcli.cli.main import COMMANDS, sharp

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
from schema_of import contract  # noqa: E402 (a script beside the pages)

sys.path.remove(str(DOCS))

SCHEMA = contract()
# Lists that are no results: their shape is a definition of its own.
LISTS = {"tasks": "list_of_tasks", "measures": "list_of_measures"}

SWEEP = """
task = "digits"
options = { width = 4 }
[fixed]
epochs = 1
evaluate_every = "epoch"
[grid]
seed = [0, 1]
"""
SEARCH = """
task = "digits"
options = { width = 4 }
trials = 2
[fixed]
epochs = 1
[search]
lr = { low = 0.01, high = 0.1 }
"""
TRAIN = "train digits -O width=4 --epochs 1"
LOSS = "-m loss --json"
# (kind, command), in order: later ones read what earlier ones wrote. `> FILE` keeps the document.
COMMAND_LINES = [
    ("train", f"{TRAIN} --output a.safetensors --json"),
    ("train", f"{TRAIN} --seed 1 --batch-size 64 --evaluate-every epoch --save-every log "
     "--output b.safetensors --json"),
    ("measure", "measure a.safetensors b.safetensors -m loss -m hessian -m trace "
     "--samples 100 --json > result.json"),
    ("measure", "measure a.safetensors -m epsilon-sharpness -m gradient --samples 60 --json"),
    ("measure", "measure a.safetensors -m loss -m trace --samples 60 --by layer --json"),
    ("measure", "measure a.safetensors b.safetensors --decide loss --json"),
    ("measures", "measure --list --json"),
    ("compare", "compare result.json --json"),
    ("compare", "compare result.json --by seed --json"),
    ("compare", "compare b.safetensors.curves.json --score --json"),
    ("interpolate", "interpolate a.safetensors b.safetensors --points 4 --json > line.json"),
    ("landscape", "landscape a.safetensors --points 3 --json > plane.json"),
    ("spectrum", "spectrum a.safetensors --samples 60 --steps 9 --json > spectrum.json"),
    ("interpolate", "plot line.json --json"),
    ("landscape", "plot plane.json --json"),
    ("spectrum", "plot spectrum.json --json"),
    ("inspect", "inspect a.safetensors --json"),
    ("policies", "schedule --json"),
    ("schedule", "schedule FIX(0.1) --steps 5 --json"),
    ("schedule", "schedule EXP(1,0.99) --steps 9 --as batch-size --batch-size 9 --examples 900 "
     "--json"),
    ("sweep", "sweep sweep.toml --output runs --json"),
    ("reproduce", "reproduce longer --output longer-runs --json"),
    ("experiments", "reproduce --json"),
    ("search", "search search.toml --output found --json"),
    ("tasks", "tasks --json"),
]  # fmt: skip
WITHOUT = {"demo", "init", "completion", "report"}  # what they print is for people, or for a shell


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The document of each command line, by its text."""
    folder = tmp_path_factory.mktemp("every")
    (folder / "sweep.toml").write_text(SWEEP, "utf-8")
    write_experiment(folder)
    (folder / "search.toml").write_text(SEARCH, "utf-8")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, line in COMMAND_LINES:
            command, _, file = line.partition(" > ")
            done = CliRunner().invoke(sharp, command.split())
            assert done.exit_code == 0, f"{line}\n{done.output}"
            found[line] = json.loads(done.stdout, parse_constant=_refuse)
            if file:
                (folder / file).write_text(done.stdout, "utf-8")
    return found


def _refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(("kind", "line"), COMMAND_LINES)
def test_what_a_command_prints_fits(kind, line, printed):
    document = printed[line]
    assert document["kind"] == kind
    schema = SCHEMA
    if kind in LISTS:
        schema = {"$ref": f"#/$defs/{LISTS[kind]}", "$defs": SCHEMA["$defs"]}
    problems = Draft202012Validator(schema).iter_errors(document)
    assert [f"{each.json_path}: {each.message}" for each in problems] == []


def test_no_command_and_no_kind_is_left_out():
    lines = [line.split()[0] for _, line in COMMAND_LINES]
    assert {*lines} | WITHOUT == {*COMMANDS}
    kinds = {kind for kind, _ in COMMAND_LINES}
    assert kinds == {*SCHEMA["properties"]["kind"]["enum"], *LISTS}
    parent = sharp.make_context("sharp", [], resilient_parsing=True)
    for name in COMMANDS:
        options = {
            option for each in sharp.get_command(parent, name).params for option in each.opts
        }
        assert ("--json" in options) == (name not in WITHOUT), name
