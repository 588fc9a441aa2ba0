"""Text from files is text: on terminals, in every format, and in pages that a browser opens."""

import json
import re
import time
from html.parser import HTMLParser

import pytest
import scenes
from mutations import TEXTS, run

from sharpcli.runtime.text import (
    csv_cell,
    figure_text,
    folded,
    json_text,
    markdown_text,
    plotly_text,
    visible,
    visible_lines,
)


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_that_steers_a_terminal_is_left(text):
    shown = (visible(text), markdown_text(text), figure_text(text), plotly_text(text))
    assert all(each.isprintable() for each in shown)
    assert all(line.isprintable() for line in visible_lines(text).split("\n"))


def test_json_is_indented_as_by_json():
    numbers = [1, 2.5, -0.0, 1e300, None, True, "a, b"]
    nest = {
        "a": numbers,
        "b": [{}, [], [numbers, {"c": [1]}], ()],
        "d": {1: [2], None: "x"},
        "e": 3,
    }
    for node in (nest, [nest], numbers, {}, [], "x", 1.5, (1, [2])):
        assert json_text(node) == json.dumps(node, indent=2, ensure_ascii=False)
    for bad in ([1.0, float("nan")], {"a": float("inf")}, [[], float("nan")]):
        with pytest.raises(ValueError, match="JSON"):
            json_text(bad)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_json_reads_back_the_same_and_is_printable(text, ascii_only):
    written = json_text({text: [text]}, ascii_only=ascii_only)
    assert json.loads(written) == {text: [text]}
    assert all(line.isprintable() for line in written.split("\n"))
    assert not ascii_only or written.isascii()


def test_the_time_for_a_text_grows_with_its_length():
    begun = time.process_time()
    assert csv_cell(f"-{'1' * 100_000}x").startswith("'-1")
    assert csv_cell("-" + "1" * 100_000).startswith("-1")
    assert time.process_time() - begun < 1


def test_escapes_are_those_of_python():
    assert visible("a\x1b[2J\x9b\u202e\udcff\n\u00a0é") == "a\\x1b[2J\\x9b\\u202e\\udcff\\n é"


def test_a_name_cannot_imitate_a_message():
    assert visible_lines("a\nError: b\n  hint: c") == "a\n  Error: b\n  hint: c"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1;x", "'+1;x"),
        ("-x", "'-x"),
        (" =1", "' =1"),
        ("＝1", "'＝1"),
        ("\t=1", "\\t=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("a=b", "a=b"),
        (-0.5, -0.5),
        (None, None),
    ],
)
def test_no_cell_is_a_formula(value, cell):
    assert csv_cell(value) == cell


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b", "a_b"),
        ("_a_", "\\_a\\_"),
        ("[a](http://b)", "\\[a\\](http\\://b)"),
        ("<b>|`", "\\<b\\>\\|\\`"),
        ("&lt; a & b", "\\&lt; a & b"),
        ("$x$ ~~y~~", "\\$x\\$ \\~\\~y\\~\\~"),
        ("# a", "\\# a"),
        ("12. a", "12\\. a"),
        ("12 of 13", "12 of 13"),
    ],
)
def test_markdown_is_text(text, written):
    assert markdown_text(text, begins_line=True) == written


def test_lines_are_wrapped_at_blanks_alone():
    text = "note: a long-hyphenated/path.safetensors of words"
    assert folded(text, 20) == "note: a\n  long-hyphenated/path.safetensors\n  of words"
    assert folded("short\n  kept", 20) == "short\n  kept"


class Elements(HTMLParser):
    """Names of a page's elements, and all of their attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *attrs))


def poisoned(document, text):
    """The document with `text` for every name and path that is drawn, and for a metric's name."""
    (result,) = document["results"]
    for each in result["checkpoints"]:
        each |= {"name": text, "path": text}
    for axis in result["axes"]:
        axis["meaning"] = text
    for curves in result["curves"].values():
        curves[text] = curves.pop("accuracy")
    for way in result.get("trajectories", ()):
        way["name"] = text
    return document


@pytest.mark.parametrize("make", [lambda: scenes.line(4), lambda: scenes.path_plane(4, 3)])
def test_no_element_of_a_page_comes_from_a_document(make, tmp_path):
    def elements(document):
        path, page = tmp_path / "a.json", tmp_path / "a.html"
        path.write_text(json.dumps(document), "utf-8")
        done = run(["plot", str(path), "--plot", str(page)])
        assert done.exit_code == 0, done.output
        text = page.read_text("utf-8")
        # The library's own script holds no text of the document, and is long to parse.
        text = re.sub(r"<script[^>]*>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)
        parser = Elements()
        parser.feed(text)
        return parser.found

    plain = elements(poisoned(make(), "name"))
    assert len(plain) > 5
    assert elements(poisoned(make(), "".join(TEXTS[:6]))) == plain
