"""The pages say what the code does: generated ones are fresh, their commands parse and run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sharpcli.cli.main import COMMANDS, sharp
from sharpcli.measures import known_measures
from sharpcli.render.files.claims_page import write_claims_page
from sharpcli.runs.experiments import saved_results
from sharpcli.training.schedules import parse_schedule

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
from write_reference import (  # noqa: E402 (a script beside the pages)
    cli_page,
    measures_page,
    python_page,
    schedules_page,
    schema_page,
    shipped_schema,
)

sys.path.remove(str(DOCS))

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Stands in for the checkpoints that pictures/make.sh trains for longer.
MADE_BY_SCRIPT = {"seed": ("1", "2", "3"), "sgd": ("01", "30"), "adam": ("01", "30")}
PLACEHOLDERS = {"CKPT", "CHECKPOINT", "FILE", "COMMAND", "TASK"}


def blocks(page, *languages):
    found = BLOCK.findall(page.read_text("utf-8"))
    return [text for language, text in found if language in languages]


def commands(page):
    """Every `sharp …` command line of a page's shell blocks, in order, as words."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line.partition(" #")[0]):
                part = part.partition(" > ")[0].strip()
                if part.startswith("sharp "):
                    yield shlex.split(part)[1:]


def inline_commands(page):
    text = BLOCK.sub("", page.read_text("utf-8"))
    return [shlex.split(code)[1:] for code in re.findall(r"`(sharp [^`…]+)`", text)]


EVERY = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in PAGES
    for words in [*commands(page), *inline_commands(page)]
    if not PLACEHOLDERS & set(words)
]


def test_the_readme_has_exactly_two_set_up_commands():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert [line for line in lines if "pip install" in line] == [
        "python -m pip install '.[demo]' && sharp demo",
        "python -m pip install '.[test]' && python -m pytest",
    ]


def test_ci_takes_its_commands_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "grep -E '^python -m pip install ' README.md" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    for check in ("ruff check", "ruff format --check", "mypy"):
        assert check in script


@pytest.mark.parametrize("words", EVERY)
def test_every_command_in_the_pages_parses(words):
    name, *rest = words
    if name.startswith("-"):
        assert CliRunner().invoke(sharp, words).exit_code == 0
        return
    parent = click.Context(sharp, help_option_names=["-h", "--help"])
    command = sharp.get_command(parent, name)
    assert command is not None, words
    command.make_context(name, rest, parent=parent, resilient_parsing=not rest)


def test_the_guide_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """Its commands in order, on the coarsest grids; figures and files are drawn all the same."""
    monkeypatch.chdir(tmp_path)
    lines = [
        f"sharp train digits --epochs 1 --optimizer {name.replace('seed', 'sgd')} "
        f"--seed {int(number)} --output {name}-{number}.safetensors"
        for name, numbers in MADE_BY_SCRIPT.items()
        for number in numbers
    ]
    text = "\n".join(blocks(DOCS / "guide.md", "sh"))
    lines += [line for line in text.splitlines() if line.startswith("sharp ")]
    assert len(lines) >= 20
    for line in lines:
        command, _, file = re.sub(r"--points \d+", "--points 3", line).partition(" > ")
        words = [path for word in shlex.split(command)[1:] for path in matching(word)]
        coarse = ["--path-steps", "5"] if "--path" in words else []
        done = CliRunner().invoke(sharp, [*words, *coarse])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        if file:
            Path(file.strip()).write_text(done.stdout, "utf-8")
    drawn = set(re.findall(r"--plot (\S+)", text))
    assert {path.name for path in tmp_path.iterdir()} >= drawn > {"line.svg", "plane.html"}


def test_the_python_of_the_guide_runs():
    """Its blocks in order, as the cells of one notebook."""
    cells, own = blocks(DOCS / "guide.md", "python"), {}
    assert len(cells) >= 2
    for cell in cells:
        exec(compile(cell, "guide.md", "exec"), own)
    assert own["report"].scalars()["loss.train"] > 0
    assert str(own["line"])


def matching(word):
    """What a shell makes of a word: the files that it matches, or, where there are none, itself."""
    return sorted(str(path) for path in Path().glob(word)) or [word] if "*" in word else [word]


def test_the_pictures_of_the_guide_are_made_by_the_commands_beside_them():
    script = (DOCS / "pictures" / "make.sh").read_text("utf-8").splitlines()
    commands = [line for line in script if line.startswith("sharp ")]
    guide = [line for text in blocks(DOCS / "guide.md", "sh") for line in text.splitlines()]
    assert len(commands) > 8
    assert [line for line in commands if line not in guide] == []
    shown = re.findall(
        r"\]\(pictures/([\w.-]+\.(?:svg|png))\)", (DOCS / "guide.md").read_text("utf-8")
    )
    assert shown == [path for line in commands for path in re.findall(r"--plot (\S+)", line)]
    pictures = [
        each
        for each in (*DOCS.rglob("*.svg"), *DOCS.rglob("*.png"))
        if each.parent != DOCS / "claims"
    ]
    assert sum(path.stat().st_size for path in pictures) < 2**20


def test_the_task_of_the_page_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = DOCS / "tasks.md"
    (tmp_path / "task.py").write_text(blocks(page, "python")[0], "utf-8")
    for width in (16, 32):  # which the page takes from each file's settings
        training = f"train task.py -O width={width} --epochs 1 --output width-{width}.pt"
        assert CliRunner().invoke(sharp, training.split()).exit_code == 0
    for words in commands(page):
        words = [path for word in words for path in matching(word)]
        done = CliRunner().invoke(sharp, words)
        assert done.exit_code == 0, done.output
    assert "absolute_error" in done.stdout


def words_of(text):
    return " ".join(text.split())


def test_the_command_reference_is_fresh():
    """Words only: Click's versions break lines differently."""
    hint = "run `python docs/write_reference.py`"
    assert words_of((DOCS / "cli.md").read_text("utf-8")) == words_of(cli_page()), hint
    for name in COMMANDS:
        assert f"## sharp {name}" in (DOCS / "cli.md").read_text("utf-8")


def test_the_python_page_is_fresh():
    """Words only: versions of Python write some signatures differently."""
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    page = (DOCS / "python.md").read_text("utf-8")
    assert words_of(page) == words_of(python_page()), "run `python docs/write_reference.py`"


def test_the_claims_page_is_of_the_results_that_are_kept(tmp_path):
    """Words only, and the names of the figures: versions of matplotlib draw differently."""
    written = write_claims_page(saved_results(()), tmp_path / "claims.md")
    page = (DOCS / "claims.md").read_text("utf-8")
    assert page == (tmp_path / "claims.md").read_text("utf-8"), (
        "run `python docs/write_reference.py`"
    )
    names = {each.name for each in written if each.suffix == ".svg"}
    assert names == {each.name for each in (DOCS / "claims").iterdir()}
    assert len(names) > 5
    size = sum(each.stat().st_size for each in (DOCS / "claims").iterdir())
    assert size < 100_000 * len(names)  # bytes: two panels of lines and labels


def test_the_schedules_page_has_every_policy_and_its_schedules_are_read():
    page = (DOCS / "schedules.md").read_text("utf-8")
    assert page == schedules_page(page), "run `python docs/write_reference.py`"
    written = re.findall(r"^    (\S.*\))$", page, re.MULTILINE)
    assert len(written) >= 4
    for spec in written:
        parse_schedule(spec)


def test_the_measures_page_has_the_registry_and_a_section_for_each():
    page = (DOCS / "measures.md").read_text("utf-8")
    assert page == measures_page(page), "run `python docs/write_reference.py`"
    for known in known_measures().values():
        assert f"\n## {known.name}\n" in page


def test_the_schema_is_made_from_the_dataclasses():
    assert (DOCS / "schema.json").read_text("utf-8") == schema_page(), (
        "run `python docs/write_reference.py`"
    )


def test_the_shipped_schema_is_the_contract_without_its_descriptions():
    shipped = (DOCS.parent / "sharpcli" / "documents" / "schema.json").read_text("utf-8")
    assert shipped == shipped_schema(), "run `python docs/write_reference.py`"


def test_the_json_page_knows_every_status_and_kind():
    import json

    schema = json.loads((DOCS / "schema.json").read_text("utf-8"))
    page = (DOCS / "json.md").read_text("utf-8")
    for status in schema["$defs"]["scalar_fields"]["properties"]["status"]["enum"]:
        assert f"`{status}`" in page
    for kind in schema["properties"]["kind"]["enum"]:
        assert f"`{kind}`" in page


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


# The arrows of docs/architecture.md, each in a fresh process.


def modules_loaded_by(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *("errors", "settings.measuring", "settings.exploring", "cli.config", "cli.options.output"),
        "documents.results",
        *("documents.labels", "documents.comparison", "documents.environment", "render"),
        *("render.terminal.table", "render.pages.measurements", "render.pages.comparison"),
    ],
)
def test_what_reads_documents_loads_no_torch(module):
    assert "torch" not in modules_loaded_by(f"sharpcli.{module}")


def test_linalg_knows_no_network():
    loaded = modules_loaded_by(
        "sharpcli.linalg, sharpcli.linalg.eigsh, sharpcli.linalg.trace, sharpcli.linalg.box"
    )
    loaded = loaded - modules_loaded_by("sharpcli")
    ours = {name.split(".")[1] for name in loaded if name.startswith("sharpcli.")}
    assert ours <= {"linalg", "errors", "runtime"}


def test_every_module_has_its_line_in_the_architecture():
    page = (DOCS / "architecture.md").read_text("utf-8")
    for path in (ROOT / "sharpcli").iterdir():
        if path.suffix not in ("", ".py"):
            continue  # py.typed
        name = path.stem + ("/" if path.is_dir() else "")
        if not name.startswith("__"):
            assert f"`{name}`" in page, name
