"""`sharp report`: what is on the page, what it loads, and how it looks at the width of a phone."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import scenes
import schedule_documents
from browser import CHROMIUM, browser
from click.testing import CliRunner

from sharpcli.cli.main import sharp
from sharpcli.cli.saved_command import commands_of
from sharpcli.documents.results import dumps

_LONG = "a-very-long-name-of-a-run-with-all-of-its-settings,optimizer=adam,batch_size=16,seed=0"


@pytest.fixture(scope="module")
def measured(result, document, failed) -> dict[str, Any]:
    """Two checkpoints, one with a number that did not converge, and a third that failed."""
    results = [
        result("sgd.pt", {"optimizer": "sgd"}),
        result(_LONG, {"optimizer": "adam"}, converged=False),
        failed("<b>gone.pt"),
    ]
    made: dict[str, Any] = document(results, samples=300)
    made["environment"]["date"] = "2026-01-02T03:04:05Z"
    made["task"]["fingerprint"] = "f" * 64
    made["warnings"] = ["losses differ"]
    made["results"][0]["checkpoint"]["notes"] = ["a prefix was removed"]
    return made


def page_of(folder: Path, *documents: Any, options: tuple[str, ...] = ()) -> tuple[Any, str]:
    """The command's outcome and its page, for documents saved in this folder."""
    names = []
    for index, document in enumerate(documents):
        names.append(str(folder / f"{index}.json"))
        Path(names[-1]).write_text(dumps(document), "utf-8")
    output = folder / "page.html"
    done = CliRunner().invoke(sharp, ["report", *names, "-o", str(output), *options])
    return done, output.read_text("utf-8") if output.exists() else ""


class Links(HTMLParser):
    """Every address that a page names, and whether its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        given = dict(attrs)
        self.addresses += [str(given[k]) for k in ("href", "src", "xlink:href") if k in given]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag not in ("meta", "link", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def documents(measured) -> list[Any]:
    schedule = schedule_documents.scheduled()
    return [measured, scenes.line(9), scenes.path_plane(9, 9), schedule]


@pytest.fixture(scope="module")
def whole(documents, tmp_path_factory) -> Path:
    """A page with a table, a line, two planes with a path, and a schedule."""
    folder = tmp_path_factory.mktemp("report")
    done, _ = page_of(folder, *documents)
    assert done.exit_code == 0, done.output
    return folder / "page.html"


def test_the_page_has_tables_figures_settings_caveats_and_commands(whole):
    page = whole.read_text("utf-8")
    assert page.count("<svg") == 4, "the line, two splits of a plane, the schedule"
    for text in (
        "12.31(4)!",
        "raise --max-products",
        "losses differ",
        "a prefix was removed",
        "run.samples",
    ):
        assert text in page
    assert "failed: tensor" in page
    assert "sharp measure sgd.pt" in page
    assert "computed 2026-01-02" in page
    assert "fingerprint ffffffffffff" in page
    assert "torch 2.6" in page


def test_the_page_names_no_address_and_has_no_script(whole):
    page = whole.read_text("utf-8")
    found = Links()
    found.feed(page)
    assert found.open == []
    assert found.scripts == 0
    assert [a for a in found.addresses if not a.startswith("#") and a != "data:,"] == []
    assert not re.findall(r"url\((?!#)", page)
    assert len(found.ids) == len(set(found.ids)), "two figures must not share a name"
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)


def test_names_from_a_file_are_text(whole):
    page = whole.read_text("utf-8")
    assert "<b>gone" not in page
    assert "&lt;b&gt;gone.pt" in page


def test_the_same_documents_give_the_same_page(whole, documents, tmp_path):
    _, again = page_of(tmp_path, *documents)
    first = whole.read_text("utf-8")
    assert first.replace(str(whole.parent), "") == again.replace(str(tmp_path), "")


def test_a_bad_file_is_named_and_the_others_are_shown(measured, tmp_path):
    (tmp_path / "bad.json").write_text("{", "utf-8")
    good = tmp_path / "good.json"
    good.write_text(dumps(measured), "utf-8")
    output = tmp_path / "page.html"
    names = [str(tmp_path / "bad.json"), str(good), str(tmp_path / "none.json")]
    done = CliRunner().invoke(sharp, ["report", *names, "-o", str(output)])
    assert done.exit_code == 1
    assert "bad.json: is not JSON" in done.output
    assert "none.json: cannot be read" in done.output
    page = output.read_text("utf-8")
    assert "bad.json: is not JSON" in page
    assert "12.31(4)!" in page


def test_nothing_to_show_is_an_error_and_writes_nothing(tmp_path):
    (tmp_path / "package.json").write_text("{}", "utf-8")
    done = CliRunner().invoke(sharp, ["report", str(tmp_path), "-o", str(tmp_path / "p.html")])
    assert done.exit_code == 1
    assert "holds no result of sharp" in done.output
    assert not (tmp_path / "p.html").exists()


def test_a_folder_gives_its_results_in_order_and_names_other_files(measured, tmp_path):
    for name, document in (("a", scenes.line(5)), ("b", measured), ("c", {"name": "x"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(document), "utf-8")
    output = tmp_path / "page.html"
    done = CliRunner().invoke(sharp, ["report", str(tmp_path), "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "left out" in done.output
    assert "c.json" in done.output
    page = output.read_text("utf-8")
    assert page.index("<h2>Sharpness") < page.index("<h2>Between minima")
    assert f"<title>Results in {tmp_path.name}</title>" in page


def test_a_title_and_another_suffix(measured, tmp_path):
    done, page = page_of(tmp_path, measured, options=("--title", "Large <batches>"))
    assert done.exit_code == 0
    assert "<h1>Large &lt;batches&gt;</h1>" in page
    done = CliRunner().invoke(sharp, ["report", "x.json", "-o", str(tmp_path / "page.pdf")])
    assert done.exit_code == 2


def test_the_report_loads_no_torch(tmp_path):
    (tmp_path / "a.json").write_text(dumps(scenes.line(5)), "utf-8")
    code = (
        "import sys; from sharpcli.cli.main import sharp; "
        f"sharp(['report', {str(tmp_path / 'a.json')!r}, '-o', {str(tmp_path / 'p.html')!r}], "
        "standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "command",
    [
        "schedule 'TRI(k0=0.001, k1=0.1, l=20)' --steps 50 --batch-size 32 --examples 640",
        "train digits -O width=8 --steps 2 --optimizer adam --betas 0.8 0.9 --output m.safetensors",
        "measure m.safetensors -m loss -m hessian --samples 64 --top 2 --tol 0.5",
        "measure m.safetensors -m epsilon-sharpness --epsilon 0.01 --subspace 3 --draws 2",
        "interpolate m.safetensors n.safetensors --points 4 --range -1:2 --split train",
        "landscape m.safetensors --points 3x2 --normalize layer --mark n.safetensors",
        "inspect m.safetensors",
    ],
)
def test_the_commands_on_the_page_give_the_same_settings(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> dict[str, Any]:
        done = CliRunner().invoke(sharp, [*shlex.split(words), "--json", "--quiet"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    if "safetensors" in command and not command.startswith("train"):
        for seed, name in enumerate("mn"):
            words = f"train digits -O width=8 --steps 1 --seed {seed} --output {name}.safetensors"
            run(words)
    document = run(command)
    (again,) = commands_of(document)
    assert again.startswith("sharp ")
    repeated = run(again.removeprefix("sharp "))
    assert repeated["settings"] == document["settings"]
    assert repeated["task"] == document["task"]
    assert str(repeated["results"])[:500] == str(document["results"])[:500]


def test_a_document_without_what_a_command_needs_has_none():
    assert commands_of({"kind": "policies", "results": []}) == []
    assert commands_of({"kind": "interpolate", "settings": {}, "results": []}) == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_chromium_shows_it_without_errors_or_requests_and_without_scrolling_sideways(
    whole, tmp_path
):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<div style='width:500px'>x</div><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh')</script>",
        "utf-8",
    )
    with browser() as chromium:
        seen = chromium.look(bad, 360, wait=0.3)
        assert seen.width > 360
        assert any("oh" in error for error in seen.errors)
        assert seen.requests == ["http://127.0.0.1:9/x.png"]
        for width in (360, 1440):
            for dark in (False, True):
                seen = chromium.look(whole, width, dark=dark, script=_INSIDE)
                assert seen.errors == []
                assert seen.requests == []
                assert seen.width <= width
                assert seen.value == [], "only a table's own box may scroll"


# The elements that reach beyond the window, without those in a box that scrolls.
_INSIDE = """[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide, pre, svg'))
  .map(e => e.tagName + '.' + e.className)"""
