"""The commands of docs/tools.md run on files as the tools leave them."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

transformers = pytest.importorskip("transformers")

import tiny_transformers as tiny  # noqa: E402 (needs transformers)

from sharpcli.cli.main import sharp  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text("utf-8")


def commands(tool):
    """The commands below a heading that begins with `tool`."""
    section = re.search(rf"^## {tool}.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[0]
    lines = re.findall(r"^(?:    )?(sharp .*)$", section, re.MULTILINE)
    assert lines
    return [shlex.split(line)[1:] for line in lines]


def python(tool):
    section = re.search(rf"^## {tool}.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[0]
    return re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]


def run(words):
    done = CliRunner().invoke(sharp, [*words, "-m", "loss", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["results"]


def test_language_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (500, 1000):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        tiny.saved(folder, transformers.GPT2LMHeadModel, tiny.gpt2(), tiny.tokenizer(), seed=step)
    (tmp_path / "corpus.txt").write_text("A flat minimum is wide. " * 40, "utf-8")
    for words in commands("Hugging Face: language models"):
        first, second = run(words)
        assert first["measures"]["loss"]["train"] != second["measures"]["loss"]["train"]


def test_text_classifiers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of = transformers.BertForSequenceClassification
    tiny.saved(Path("run/checkpoint-500"), of, tiny.bert(), tiny.tokenizer(padding=True))
    rows = [{"text": "fine " * (n % 4 + 1), "label": n % 2} for n in range(20)]
    tiny.records(Path("reviews.jsonl"), rows)
    for words in commands("Hugging Face: text classifiers"):
        assert run(words)[0]["status"] == "ok"


def test_a_plain_file_needs_six_lines_and_lightning_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = python("A plain")
    assert len(text.splitlines()) <= 6
    assert len(python("Lightning").splitlines()) == 1
    Path("task.py").write_text(text, "utf-8")
    Path("my_project.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(3, 2)\n"
        "train_set = test_set = (torch.randn(8, 3), torch.arange(8) % 2)\n",
        "utf-8",
    )
    torch.save(torch.nn.Linear(3, 2).state_dict(), "model.pt")
    for words in commands("A plain"):
        assert run(words)[0]["status"] == "ok"
