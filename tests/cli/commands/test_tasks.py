"""`sharp tasks`: the built-in tasks and their options."""

import json

from click.testing import CliRunner

from sharpcli.cli.main import sharp


def test_the_list():
    done = CliRunner().invoke(sharp, ["tasks"])
    assert done.exit_code == 0
    assert "digits: 8x8 images" in done.stdout
    assert "data from scikit-learn; pip install 'sharpcli[demo]'" in done.stdout
    assert "-O model: mlp|cnn|resnet = mlp" in done.stdout
    assert "mnist: 28x28 images" in done.stdout
    assert "text: the language reference" in done.stdout
    assert "data are part of Python" in done.stdout
    assert "-O batch_norm: bool = false" in done.stdout
    assert "  sharp train digits\n" in done.stdout
    assert "needs transformers; pip install 'sharpcli[hf]'" in done.stdout
    assert "  sharp measure checkpoint-500 -t hf-causal-lm -O text=FILE\n" in done.stdout
    assert "sharp train hf" not in done.stdout
    assert "  sharp train text --optimizer adam --lr 0.003 --batch-size 16\n" in done.stdout


def test_json():
    document = json.loads(CliRunner().invoke(sharp, ["tasks", "--json"]).stdout)
    assert document["kind"] == "tasks"
    tasks = {task["name"]: task for task in document["tasks"]}
    assert list(tasks)[:3] == ["digits", "mnist", "text"]
    assert {"name": "width", "type": "int", "default": 64} in tasks["digits"]["options"]
    packages = [task["package"] for task in tasks.values()]
    assert packages == ["scikit-learn", "mlxtend", None, "transformers", "transformers", "timm"]
    text = {"name": "text", "type": "str", "default": None, "required": True}
    assert text in tasks["hf-causal-lm"]["options"]
