"""`hf-sequence-classification`: the loss of every kind of label is that of the unpadded model."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

transformers = pytest.importorskip("transformers")

import tiny_transformers as tiny  # noqa: E402 (needs transformers)

from sharpcli.cli.main import sharp  # noqa: E402

TEXTS = ["good " * (number % 5 + 1) + "end"[: number % 3 + 1] for number in range(20)]
NAMES = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
TASK = ["-t", "hf-sequence-classification"]


def measured(folder, path, *words):
    given = ["measure", str(folder), *TASK, "-O", f"data={path}", *words]
    done = CliRunner().invoke(sharp, [*given, "-m", "loss", "--dtype", "float64", "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    return result


@torch.no_grad()
def scores(model, words, texts, *others):
    """The outputs of the live model, one text at a time and without padding."""
    rows = []
    for text in zip(texts, *others, strict=True):
        rows.append(model(**words(*text, return_tensors="pt")).logits[0])
    return torch.stack(rows)


def train(rows):
    return [row for number, row in enumerate(rows) if number % 10 != 9]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_classes(tmp_path, kind, side):
    config = {"bert": tiny.bert, "gpt2": tiny.gpt2, "llama": tiny.llama}[kind](**NAMES)
    of = {
        "bert": transformers.BertForSequenceClassification,
        "gpt2": transformers.GPT2ForSequenceClassification,  # without a padding token
        "llama": transformers.LlamaForSequenceClassification,
    }[kind]
    words = tiny.tokenizer(padding=kind != "gpt2", side=side)
    words.model_input_names = ["input_ids", "attention_mask"]
    model = tiny.saved(tmp_path / "run", of, config, words)
    labels = [number % 3 for number in range(20)]
    names = [list(NAMES["label2id"])[label] for label in labels]
    rows = [{"sentence": text, "label": label} for text, label in zip(TEXTS, names, strict=True)]
    found = measured(tmp_path / "run", tiny.records(tmp_path / "a.jsonl", rows))
    outputs = scores(model, words, train(TEXTS))
    expected = functional.cross_entropy(outputs, torch.tensor(train(labels))).item()
    exact = 1e-8 if kind == "llama" else 1e-12  # its norms compute in float32
    loss = found["measures"]
    assert loss["loss"]["train"]["value"] == pytest.approx(expected, rel=exact)
    right = (outputs.argmax(1) == torch.tensor(train(labels))).double().mean().item()
    assert loss["accuracy"]["train"]["value"] == pytest.approx(right)
    notes = " ".join(found["checkpoint"]["notes"])
    assert "texts from sentence, labels from label" in notes
    assert "every tenth of the 20 records" in notes


def test_pairs_of_texts_of_a_csv_file(tmp_path):
    words = tiny.of_bert(tmp_path / "vocab.txt")
    model = tiny.saved(
        tmp_path / "run", transformers.BertForSequenceClassification, tiny.bert(), words
    )
    others = [f"other {number}" for number in range(20)]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["premise", "hypothesis", "label"])
        writer.writerows(zip(TEXTS, others, [n % 2 for n in range(20)], strict=True))
    assert 1 in words(TEXTS[0], others[0])["token_type_ids"]
    found = measured(tmp_path / "run", tmp_path / "a.csv")
    outputs = scores(model, words, train(TEXTS), train(others))
    expected = functional.cross_entropy(outputs, torch.tensor(train([n % 2 for n in range(20)])))
    value = found["measures"]["loss"]["train"]["value"]
    assert value == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("as_names", [True, False])
def test_several_labels_at_once(tmp_path, as_names):
    config = tiny.bert(problem_type="multi_label_classification", **NAMES)
    words = tiny.tokenizer(padding=True)
    model = tiny.saved(tmp_path / "run", transformers.BertForSequenceClassification, config, words)
    labels = [[number % 2, 0, int(number % 3 == 0)] for number in range(20)]
    named = [
        [name for name, held in zip(NAMES["label2id"], row, strict=True) if held] for row in labels
    ]
    given = named if as_names else labels
    rows = [{"text": text, "labels": each} for text, each in zip(TEXTS, given, strict=True)]
    found = measured(tmp_path / "run", tiny.records(tmp_path / "a.jsonl", rows))
    outputs, targets = scores(model, words, train(TEXTS)), torch.tensor(train(labels)).double()
    expected = functional.binary_cross_entropy_with_logits(outputs, targets).item()
    loss = found["measures"]
    assert loss["loss"]["train"]["value"] == pytest.approx(expected, rel=1e-12)
    right = ((outputs > 0) == targets.bool()).double().mean().item()
    assert loss["accuracy"]["train"]["value"] == pytest.approx(right)


def test_a_regression(tmp_path):
    words = tiny.tokenizer(padding=True)
    of = transformers.BertForSequenceClassification
    model = tiny.saved(tmp_path / "run", of, tiny.bert(num_labels=1), words)
    targets = [0.5 * number - 3 for number in range(20)]
    rows = [{"text": text, "label": each} for text, each in zip(TEXTS, targets, strict=True)]
    found = measured(tmp_path / "run", tiny.records(tmp_path / "a.jsonl", rows))
    outputs = scores(model, words, train(TEXTS))[:, 0]
    expected = functional.mse_loss(outputs, torch.tensor(train(targets)).double()).item()
    value = found["measures"]["loss"]["train"]["value"]
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def run(tmp_path):
    of = transformers.BertForSequenceClassification
    tiny.saved(tmp_path / "run", of, tiny.bert(**NAMES), tiny.tokenizer(padding=True))
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "label": "goood"}], "label 'goood' is not a label"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 3}], "record 2: label '3' is not in 0"),
        ([{"text": "a", "label": 1.5}], "label '1.5' is no whole number"),
        ([{"text": "a", "label": None}], "record 1 has no 'label'"),
        ([{"text": "a", "sentence": "b", "label": 1}], "have both text and sentence"),
        ([{"body": "a", "label": 1}], "have none of text, sentence, content"),
        ([{"text": "a", "target": 1}], "have none of label, labels (columns: text, target)"),
        ([{"text": "a", "label": [1, 0]}], "is no list of names, nor of 3 zeros and ones"),
        ([["a", 1]], "record 1 is no JSON object"),
        ([], "holds no records"),
    ],
)
def test_records_that_are_no_data(run, rows, said):
    path = tiny.records(run / "a.jsonl", rows)
    done = CliRunner().invoke(sharp, ["measure", str(run / "run"), *TASK, "-O", f"data={path}"])
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_texts_longer_than_the_model_are_cut_and_said(run):
    rows = [{"text": "long " * 30, "label": 1}, {"text": "short", "label": 0}] * 5
    found = measured(run / "run", tiny.records(run / "a.jsonl", rows))
    notes = " ".join(found["checkpoint"]["notes"])
    assert "5 texts of 10 cut to 64 tokens" in notes


def test_texts_that_end_in_what_would_be_padding_are_refused(tmp_path):
    of, words = transformers.GPT2ForSequenceClassification, tiny.tokenizer()
    tiny.saved(tmp_path / "run", of, tiny.gpt2(**NAMES), words)
    rows = [{"text": "a<end>", "label": 1}, {"text": "b", "label": 0}]
    path = tiny.records(tmp_path / "a.jsonl", rows)
    done = CliRunner().invoke(
        sharp, ["measure", str(tmp_path / "run"), *TASK, "-O", f"data={path}"]
    )
    assert done.exit_code == 1
    assert "end in the token 256, which would serve as one" in " ".join(done.output.split())


def test_names_that_are_the_numbers_of_other_classes(tmp_path):
    stars = {"label2id": {"1": 0, "2": 1, "3": 2}, "id2label": {0: "1", 1: "2", 2: "3"}}
    words = tiny.tokenizer(padding=True)
    words.model_input_names = ["input_ids", "attention_mask"]
    kind = transformers.BertForSequenceClassification
    model = tiny.saved(tmp_path / "run", kind, tiny.bert(**stars), words)
    outputs = scores(model, words, train(TEXTS))
    classes = [number % 3 for number in range(20)]
    expected = functional.cross_entropy(outputs, torch.tensor(train(classes))).item()
    for first in (0, 1):  # numbers, then names: 0 is no name, and 3 is no number
        lines = [f"{text},{first + each}" for text, each in zip(TEXTS, classes, strict=True)]
        path = tmp_path / "a.csv"
        path.write_text("\n".join(["text,label", *lines]), "utf-8")
        loss = measured(tmp_path / "run", path)["measures"]["loss"]
        assert loss["train"]["value"] == pytest.approx(expected, rel=1e-12)
    path.write_text("text,label\ngood,1\nbad,2\n", "utf-8")
    done = CliRunner().invoke(
        sharp, ["measure", str(tmp_path / "run"), *TASK, "-O", f"data={path}"]
    )
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "the label '1' may be the number of a class or its name" in said
    assert '{"label": 0}' in said
