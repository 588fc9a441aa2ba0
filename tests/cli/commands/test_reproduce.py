"""`sharp reproduce`: what the command prints and writes, and how it goes on after a kill."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from tiny_experiments import begin, kill, write

from sharpcli.cli.main import sharp

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "schema.json"
SCHEMA = Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the experiment, and a finished run of it in `out`."""
    found = tmp_path_factory.mktemp("reproduce")
    write(found)
    done = run("longer", "--output", str(found / "out"), home=found)
    assert done.exit_code == 0, done.output
    (found / "printed").write_text(done.stdout)
    return found


def run(*arguments, home=None, width=80):
    with pytest.MonkeyPatch.context() as patch:
        if home is not None:
            patch.chdir(home)
        return CliRunner(env={"COLUMNS": str(width)}).invoke(sharp, ["reproduce", *arguments])


def test_the_table_has_a_row_for_each_claim(folder):
    printed = (folder / "printed").read_text()
    assert "Longer training fits better" in printed
    for name in ("lower", "sharper", "goes-on"):
        assert f"\n{name} " in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_json_fits_the_schema_and_is_what_the_folder_holds(folder):
    done = run("longer", "--output", "out", "--json", "--quiet", home=folder)
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    assert document == json.loads((folder / "out" / "reproduce.json").read_text())


def test_csv_has_a_row_for_each_claim(folder):
    done = run("longer", "--output", "out", "--format", "csv", "--quiet", home=folder)
    head, *rows = done.stdout.splitlines()
    assert head.startswith("name,statistic,value,low,high,claim")
    assert len(rows) == 3


def test_the_list(folder):
    done = run()
    assert done.exit_code == 0
    assert "keskar-sharpness: " in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    listed = json.loads(run("--json").stdout)
    SCHEMA.validate(listed)
    assert listed["kind"] == "experiments"


def test_figures(folder):
    done = run("longer", "--output", "out", "--plot", "a.svg", "--plot", "b.npz", home=folder)
    assert done.exit_code == 0, done.output
    text = (folder / "a.svg").read_text()
    assert "loss over the rate" in text
    first = (folder / "a.svg").read_bytes()
    run("longer", "--output", "out", "--plot", "a.svg", home=folder)
    assert (folder / "a.svg").read_bytes() == first


def test_the_page_is_made_of_the_document_alone_without_torch(folder):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from sharpcli.cli.main import main\n"
        "sys.argv = ['sharp', 'reproduce', 'out', '--page', 'claims.md']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (folder / "claims.md").read_text()
    assert "| longer | A larger rate ends lower |" in page
    assert page.count("| longer |") == 1, "its other claims are below it"
    assert "\n- ratio: a number of some runs over that of others" in page
    assert "share within" not in page, "it has no such claim"
    assert "| and sharper | ratio of hessian.eigenvalues\\[0\\] | above 1; " in page
    assert "![Longer training fits better](claims/longer.svg)" in page
    assert (folder / "claims" / "longer.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no such experiment"),
        (["longer", "longer"], "one experiment is run at a time"),
        (["--seeds", "3"], "has no effect without an experiment"),
        (["longer", "--plot", "a.html"], "is not drawn as .html"),
        (["nowhere", "--page", "a.md"], "there is no such file"),
        (["out", "--page", "a.md", "--seeds", "3"], "--seeds: has no effect with --page"),
        (["out", "--page", "a.md", "--json"], "--json: has no effect with --page"),
        (["out", "--page", "out"], "--page out: is no page of markdown"),
    ],
)
def test_misuse(folder, arguments, message):
    done = run(*arguments, home=folder)
    assert done.exit_code == 2
    assert message in done.output


def test_two_results_of_one_experiment_have_a_figure_each(folder):
    shutil.copytree(folder / "out", folder / "copy")
    run("out", "copy", "--page", "both pages.md", home=folder)
    page = (folder / "both pages.md").read_text()
    for name in ("longer", "longer-2"):
        assert f"(both%20pages/{name}.svg)" in page
        assert (folder / "both pages" / f"{name}.svg").exists()


def test_a_document_writes_no_markup_and_leads_nowhere_else(folder):
    document = json.loads((folder / "out" / "reproduce.json").read_text())
    document["settings"]["experiment"] |= {
        "name": "../../`evil`",
        "source": "- nobody",
        "few_seeds": "<img src=x> [a](b)",
        "scale": "paper",
    }
    (folder / "evil.json").write_text(json.dumps(document))
    done = run("evil.json", "--page", "inner/evil.md", home=folder)
    assert done.exit_code == 0, done.output
    page = (folder / "inner" / "evil.md").read_text()
    assert [each.name for each in (folder / "inner" / "evil").iterdir()] == ["-..-evil-.svg"]
    assert r"\<img" in page
    assert "\n\\- nobody. " in page
    assert "<img" not in page.replace(r"\<img", "")
    assert "(paper scale)" in page.replace("\\", "")
    assert "`sharp reproduce ../../evil` runs it" in page


def test_a_page_in_a_folder_that_cannot_be_made(folder):
    (folder / "occupied").write_text("")
    done = run("out", "--page", "occupied/claims.md", home=folder)
    assert done.exit_code == 1
    assert "cannot be made for the figures" in done.output


def test_a_folder_of_a_built_in_name_is_said(folder, tmp_path):
    copy = tmp_path / "keskar-sharpness"
    copy.mkdir()
    shutil.copy(folder / "longer" / "experiment.toml", copy)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    done = run("keskar-sharpness", "--output", "out", home=tmp_path)
    assert "keskar-sharpness is the built-in experiment; ./keskar-sharpness is the folder" in (
        done.stderr
    )


def test_a_killed_run_goes_on_to_the_same_bytes(folder):
    for moment in (2.0, 3.0):
        kill(begin(folder, "killed", sleep=0.01), moment)
    last = begin(folder, "killed")
    _, error = last.communicate()
    assert last.returncode == 0, error
    expected = (folder / "out" / "reproduce.json").read_bytes()
    assert (folder / "killed" / "reproduce.json").read_bytes() == expected


def test_the_page_has_the_numbers_of_groups_at_the_same_settings(tmp_path):
    from sharpcli.render.files.claims_page import write_claims_page
    from sharpcli.runs.experiments import experiments, saved_results

    kept = [experiments()["keskar-remedies"] / "result.json"]
    write_claims_page(saved_results([*map(str, kept)]), tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text("utf-8")
    figure = json.loads(kept[0].read_text("utf-8"))["figures"][0]
    assert f"**{figure['title']}**" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| 16 | 0.")]
    assert len(row.split("|")) == 2 + 1 + len(figure["series"])
    assert f"| {figure['series'][0]['y'][0]:.3g} (" in row
