"""What a task's `model` and `data` return is checked when they are called."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sharpcli.errors import SharpError
from sharpcli.tasks.build import build_task
from sharpcli.tasks.source import Imports, Source


@pytest.fixture
def built(tmp_path):
    def build(model=lambda: nn.Linear(1, 1), data=lambda split: (torch.zeros(2),)):
        functions = {"model": model, "data": data}
        imports = Imports(tmp_path)
        return build_task(Source("task.py", functions, (), b"", __file__, imports), {})

    return build


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


ROWS = TensorDataset(torch.zeros(3, 1))


@pytest.mark.parametrize(
    "data",
    [ROWS, (torch.zeros(2, 1),), (torch.zeros(2), torch.ones(2)), [(torch.zeros(1), 0)]],
    ids=lambda data: type(data).__name__,
)
def test_good_data_are_passed_on(built, data):
    found = built(data=lambda split: data).data("train")
    if isinstance(data, tuple):
        assert found is data
    else:
        assert [found[i] for i in range(len(found))] == [data[i] for i in range(len(data))]


def test_test_data_may_be_none_and_training_data_may_not(built):
    task = built(data=lambda split: None)
    assert task.data("test") is None
    with pytest.raises(SharpError, match=r"data\('train'\) returned None \(is `return` missing"):
        task.data("train")


def test_a_row_that_raises_names_the_row(built):
    class Rows:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {0: 1.0}[index]

    data = built(data=lambda split: Rows()).data("train")
    assert data[0] == 1.0
    with pytest.raises(SharpError, match=r"row 2 of data\('train'\) raised KeyError: 2"):
        data[2]


def test_good_models_are_passed_on(built):
    assert isinstance(built().model(), nn.Linear)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "model() returned None, not a torch.nn.Module\n  hint: return the model"),
        (nn.ReLU, "model() returned the class ReLU, not a torch.nn.Module\n  hint: return ReLU(…)"),
        ({}, "model() returned a dict, not a torch.nn.Module"),
        (torch.zeros(2, 3), "model() returned a tensor of shape (2, 3)"),
    ],
)
def test_bad_models(built, returned, said):
    with pytest.raises(SharpError) as caught:
        built(model=lambda: returned).model()
    assert f"task.py: {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returned None (is `return` missing?)"),
        (DataLoader(ROWS), "returned a DataLoader\n  hint: return its dataset"),
        (Stream(), "returned an IterableDataset"),
        (iter([]), "returned a list_iterator"),
        ({"x": torch.zeros(2)}, "returned a dict"),
        (torch.zeros(2), "returned one tensor\n  hint: return a tuple: (inputs, targets)"),
        ((), "returned an empty tuple"),
        ((torch.zeros(2), [1, 2]), "returned a tuple whose item 1 is a list, not a tensor"),
        ((torch.tensor(1.0),), "returned a tuple whose item 0 is a single number"),
        ((torch.zeros(3), torch.zeros(2)), "returned tensors of unequal length: 3, 2"),
        ((torch.zeros(0, 4),), "is empty"),
        (TensorDataset(torch.zeros(0)), "is empty"),
        ([], "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_data(built, returned, said):
    with pytest.raises(SharpError) as caught:
        built(data=lambda split: returned).data("train")
    assert str(caught.value).startswith(f"task.py: data('train') {said}")
    assert caught.value.hint


def test_what_they_raise_names_the_line(built):
    def broken(*_):
        raise FileNotFoundError("images/train")

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(SharpError) as caught:
        built(model=broken).model()
    assert caught.value.message == (
        f"task.py, line {line}: model() raised FileNotFoundError: images/train"
    )
    with pytest.raises(SharpError, match=r"data\('train'\) raised FileNotFoundError"):
        built(data=broken).data("train")


def test_a_missing_package_is_named(built):
    def broken():
        import no_such_package

        return no_such_package

    with pytest.raises(SharpError) as caught:
        built(model=broken).model()
    assert "install 'no_such_package'" in caught.value.hint


def test_errors_of_sharp_and_interrupts_pass(built):
    def refuses():
        raise SharpError("said already")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SharpError, match=r"^said already$"):
        built(model=refuses).model()
    with pytest.raises(KeyboardInterrupt):
        built(model=interrupted).model()


def test_what_predict_and_loss_raise_names_them(built):
    task = built()
    with pytest.raises(SharpError) as caught:
        task.predict(task.model(), (torch.zeros(2, 3),))
    assert caught.value.message.startswith(
        "task.py: predict(model, batch) raised RuntimeError: mat1 and mat2 shapes cannot be"
    )


def test_running_out_of_memory_passes(built):
    def hungry():
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        built(model=hungry).model()


def test_every_function_runs_with_the_options_that_it_names(tmp_path):
    def predict(model, batch, scale: float = 1.0):
        return model(batch[0]) * scale

    def loss(outputs, batch, *, smoothing=0.0, scale=1):
        return outputs[:, 0] * 0 + smoothing + 100 * scale

    def metrics(outputs, batch, scale=0):
        return {"scale": outputs[:, 0] * 0 + scale}

    def collate(rows, pad=0):
        return torch.stack(rows), pad

    functions = {
        "model": lambda: nn.Linear(1, 1, bias=False),
        "data": lambda split: (torch.ones(2, 1),),
        "predict": predict,
        "loss": loss,
        "metrics": metrics,
        "collate": collate,
    }
    source = Source("task.py", functions, (), b"", __file__, Imports(tmp_path))
    task = build_task(source, {"scale": "3", "smoothing": "0.5", "pad": "7"})
    batch = task.collate([torch.ones(1), torch.ones(1)])
    assert batch[1] == 7
    model = task.model()
    outputs = task.predict(model, batch)
    assert torch.equal(outputs, 3 * model(batch[0]))
    assert task.loss(outputs, batch).tolist() == [300.5, 300.5]
    assert task.metrics(outputs, batch)["scale"].tolist() == [3, 3]
    assert task.options == {"pad": 7, "scale": 3, "smoothing": 0.5}
    other = build_task(source, {"scale": "3", "smoothing": "0.4", "pad": "7"})
    assert task.fingerprint != other.fingerprint
