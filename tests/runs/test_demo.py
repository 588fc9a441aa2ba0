"""`sharp demo`: what it trains, and what it says of the numbers."""

from dataclasses import replace

import pytest

from sharpcli.checkpoint import load_checkpoint
from sharpcli.runs import demo as module
from sharpcli.runs.demo import LARGE, SETUPS, SMALL, sentence, train_all
from sharpcli.tasks import task_from_metadata


def test_the_setups_differ_by_batch_size_within_an_optimizer():
    by_optimizer = {}
    for setup in SETUPS:
        by_optimizer.setdefault(setup.optimizer, []).append(setup)
    assert set(by_optimizer) == {"sgd", "adam"}
    for small, large in by_optimizer.values():
        assert (small.batch_size, large.batch_size) == (SMALL, LARGE)
        assert replace(small, batch_size=LARGE) == large
        assert small.until_loss == SETUPS[0].until_loss


def test_training_saves_four_checkpoints_that_name_their_task(monkeypatch, tmp_path):
    setups = tuple(replace(setup, epochs=1) for setup in SETUPS)
    monkeypatch.setattr(module, "SETUPS", setups)
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    train_all(paths, seed=5)
    assert len({load_checkpoint(path).sha256 for path in paths}) == 4
    for path, setup in zip(paths, SETUPS, strict=True):
        metadata = load_checkpoint(path).metadata
        assert metadata["optimizer"] == setup.optimizer
        assert metadata["batch_size"] == setup.batch_size
        assert metadata["seed"] == 5
        name, options = task_from_metadata(metadata)
        assert name == "digits"
        assert options["depth"] == "4"


def results(phi, eigenvalue):
    """A measure document's results, with a small- and a large-batch value for each optimizer."""
    found = []
    for optimizer in ("sgd", "adam"):
        for index, batch_size in enumerate((SMALL, LARGE)):
            entry = {"epsilon": 1e-3, "subspace": None, "value": phi[index]}
            others = [{**entry, "subspace": 100, "value": 7.0}, {**entry, "epsilon": 5e-4}]
            found.append(
                {
                    "checkpoint": {"metadata": {"optimizer": optimizer, "batch_size": batch_size}},
                    "status": "ok",
                    "measures": {
                        "epsilon_sharpness": [*others, entry],
                        "hessian": {"eigenvalues": [{"value": eigenvalue[index]}]},
                    },
                }
            )
    return found


def test_the_sentence_when_large_batches_are_sharper():
    assert sentence(results((1.0, 12.0), (2.0, 10.0))) == (
        "The large-batch (1,442) minima are sharper than the small-batch (8) ones: "
        "φ is 12× (SGD) and 12× (Adam) as high, λ1 is 5× (SGD) and 5× (Adam) as high."
    )


def test_the_sentence_when_small_batches_are_sharper():
    said = sentence(results((12.0, 1.0), (10.0, 2.0)))
    assert said.startswith("The small-batch (8) minima are sharper than")
    assert "φ is 12× (SGD)" in said


@pytest.mark.parametrize("numbers", [((1.0, 1.2), (1.0, 1.1)), ((1.0, 5.0), (5.0, 1.0))])
def test_the_sentence_when_it_is_not_clear(numbers):
    said = sentence(results(*numbers))
    assert said.startswith("No clear difference between the large-batch (1,442) and")


@pytest.mark.parametrize("value", [None, -1.0])
def test_the_sentence_when_a_number_is_missing(value):
    said = sentence(results((1.0, 2.0), (1.0, value)))
    assert said == "No comparison: λ1 could not be measured for both batch sizes of SGD."
    failed = results((1.0, 2.0), (1.0, 2.0))
    failed[3]["status"] = "failed"
    assert "φ could not be measured for both batch sizes of Adam" in sentence(failed)
