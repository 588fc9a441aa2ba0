"""The built-in task `timm`, with a stand-in for the package: which images, classes and options."""

import json
import sys

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("PIL")

import image_folders

from sharpcli.cli.main import sharp
from sharpcli.errors import SharpError
from sharpcli.tasks import load_task
from sharpcli.tasks.builtin import timm as task_module


@pytest.fixture
def timm(monkeypatch):
    found = image_folders.stand_in()
    monkeypatch.setitem(sys.modules, "timm", found)
    task_module._transform.cache_clear()
    yield found
    task_module._transform.cache_clear()


def task_of(folder, **options):
    return load_task("timm", {"model": "small_net", "data": str(folder), **options})


def test_measured_loss_is_that_of_the_model_on_the_images(tmp_path, timm):
    image_folders.images(tmp_path / "images" / "train")
    image_folders.images(tmp_path / "images" / "val", each=4, seed=1)
    torch.manual_seed(1)
    model = image_folders.Small(2)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    given = ["-t", "timm", "-O", "model=small_net", "-O", f"data={tmp_path / 'images'}"]
    path = str(tmp_path / "model.pth")
    done = CliRunner().invoke(sharp, ["measure", path, *given, "-m", "loss", "--json"])
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)["results"][0]["measures"]["loss"]

    task = task_of(tmp_path / "images")
    for split, count in (("train", 20), ("test", 8)):
        rows = [task.data(split)[index] for index in range(count)]
        assert len(task.data(split)) == count
        images = torch.stack([image for image, _ in rows])
        classes = torch.tensor([number for _, number in rows])
        assert classes.tolist() == sorted([0, 1] * (count // 2))
        expected = torch.nn.functional.cross_entropy(model.double()(images.double()), classes)
        assert measured[split]["value"] == pytest.approx(expected.item(), rel=1e-6)


def test_one_folder_is_split_within_each_class(tmp_path, timm):
    image_folders.images(tmp_path / "all", each=20)
    task = task_of(tmp_path / "all")
    train, test = task.data("train"), task.data("test")
    assert (len(train), len(test)) == (36, 4)
    assert test.wrapped.targets == [0, 0, 1, 1]
    seen = {row.numpy().tobytes() for data in (train, test) for row, _ in data.wrapped}
    assert len(seen) == 40


def test_a_model_may_have_more_outputs_than_there_are_classes(tmp_path, timm):
    image_folders.images(tmp_path / "all")
    assert task_of(tmp_path / "all").model().head.out_features == 2
    assert task_of(tmp_path / "all", classes="5").model().head.out_features == 5
    with pytest.raises(SharpError, match="has 2 classes"):
        task_of(tmp_path / "all", classes="1").model()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-hub:someone/net", "only timm's own models are built, without downloads"),
        ("small", "has no model 'small'"),
    ],
)
def test_models_that_are_not_timms_own(tmp_path, timm, name, said):
    image_folders.images(tmp_path / "all")
    with pytest.raises(SharpError, match=said):
        load_task("timm", {"model": name, "data": str(tmp_path / "all")}).model()


def test_folders_without_what_is_needed(tmp_path, timm):
    with pytest.raises(SharpError, match="there is no folder"):
        task_of(tmp_path / "absent").model()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SharpError, match="has no folders of images"):
        task_of(tmp_path / "empty").model()
    (tmp_path / "empty" / "cat").mkdir()
    with pytest.raises(SharpError, match="holds no images"):
        task_of(tmp_path / "empty").data("train")
    image_folders.images(tmp_path / "no-train" / "val")
    with pytest.raises(SharpError, match="has the folder 'val', but none of the training images"):
        task_of(tmp_path / "no-train").model()
    image_folders.images(tmp_path / "other" / "train")
    image_folders.images(tmp_path / "other" / "test", classes=("cat", "horse"))
    with pytest.raises(SharpError, match="has the class 'horse', which the training images do not"):
        task_of(tmp_path / "other").data("test")
    image_folders.images(tmp_path / "damaged")
    (tmp_path / "damaged" / "cat" / "00.png").write_bytes(b"no image")
    with pytest.raises(SharpError, match=r"00\.png is no image"):
        task_of(tmp_path / "damaged").data("train")[0]


@pytest.mark.parametrize("failure", [ImportError, RuntimeError])
def test_a_timm_that_does_not_load_names_the_install_line(tmp_path, monkeypatch, failure):
    """torchvision beside another torch raises RuntimeError: operator torchvision::nms."""

    def absent(name):
        raise failure("operator torchvision::nms does not exist")

    image_folders.images(tmp_path / "all")
    monkeypatch.setattr(task_module.importlib, "import_module", absent)
    with pytest.raises(SharpError) as caught:
        task_of(tmp_path / "all").model()
    assert "timm: cannot be imported: operator torchvision::nms" in caught.value.message
    assert "pip install 'sharpcli[timm]'" in caught.value.hint
