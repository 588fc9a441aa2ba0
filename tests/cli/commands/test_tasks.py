"""`sharp tasks`: the built-in tasks and their options."""

import json

from click.testing import CliRunner

from sharpcli.cli.main import sharp


def test_the_list():
    done = CliRunner().invoke(sharp, ["tasks"])
    assert done.exit_code == 0
    assert "digits: 8x8 images" in done.stdout
    assert "-O model: mlp|cnn = mlp" in done.stdout
    assert "-O batch_norm: bool = false" in done.stdout


def test_json():
    document = json.loads(CliRunner().invoke(sharp, ["tasks", "--json"]).stdout)
    assert document["kind"] == "tasks"
    (task,) = document["tasks"]
    assert task["name"] == "digits"
    assert {"name": "width", "type": "int", "default": 64} in task["options"]
