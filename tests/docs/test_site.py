"""The site is built without a warning, shows what the pages say, and fetches nothing."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = {
    "index.md": ROOT / "README.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    **{str(p.relative_to(ROOT / "docs")): p for p in sorted((ROOT / "docs").rglob("*.md"))},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser loads with a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "video", "source") and values.get("src"):
            self.addresses.append(values["src"])
        if tag == "link" and values.get("href"):
            self.addresses.append(values["href"])


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for address in Fetched(page.read_text("utf-8")).addresses:
            outside = re.match(r"(?:[a-z]+:)?//", address)
            assert not outside, (page, address)
            if not address.startswith(("data:", "/")):  # 404.html names its own from the root
                assert (page.parent / address).exists(), (page, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?(?:https?:)?//", style.read_text("utf-8"))


def counted(html):
    """How many of each thing a page shows; a block of code is one, however it is coloured."""
    html = re.sub(r"<div class=\"[\w-]*highlight.*?</pre></div>", "<pre></pre>", html, flags=re.S)
    names = ("h2", "h3", "ul", "ol", "li", "table", "tr", "td", "pre", "img", "strong", "p")
    return {name: len(re.findall(rf"<{name}[ >]", html)) for name in names}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_lists_tables_and_code_as_markdown_means_them(site, name):
    html = (site / name).with_suffix(".html").read_text("utf-8")
    article = html[html.index("<article") : html.index("</article>")]
    expected = MarkdownIt("commonmark").enable("table").render(PAGES[name].read_text("utf-8"))
    shown, meant = counted(article), counted(expected)
    if name == "changelog.md":  # a list with blank lines between some of its items
        shown["p"] = meant["p"]
    assert shown == meant


def test_every_page_is_in_the_navigation(site):
    front = (site / "index.html").read_text("utf-8")
    for name in PAGES:
        address = name.removesuffix(".md") + ".html"
        listed = name.startswith("benchmarks/") or f'href="{address}"' in front
        assert listed, name


def test_the_schema_is_a_file_beside_the_pages(site):
    assert (site / "schema.json").read_bytes() == (ROOT / "docs" / "schema.json").read_bytes()
    assert not list(site.rglob("write_reference.py"))
