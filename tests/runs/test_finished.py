"""Finished checkpoints on disk: what a later run takes from them, and when it does not."""

import json
from dataclasses import replace

import pytest
import torch
from networks import CASES
from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError
from sharpcli.runs.finished import Finished
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runs.spectrum import spectra_of_checkpoints
from sharpcli.runtime.progress import Notes

OF = CASES["tanh"]
SETTINGS = MeasureSettings(measures=("loss", "gradient"))
RUN = RunSettings(device="cpu")


@pytest.fixture
def paths(tmp_path):
    """Three checkpoints of one task."""
    found = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for seed, path in enumerate(found):
        write(path, seed)
    return found


def write(path, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in OF.model().state_dict().items()
    }
    save_checkpoint(path, tensors, {"seed": seed})


class Run:
    """One run with an output: its document, notes, and which checkpoints it measured."""

    def __init__(self, paths, settings=SETTINGS, run=RUN, of=OF, *, stop_at=None, resume=True):
        self.notes, self.measured = [], []
        self.output = paths[0].with_name("r.json")
        self.finished = Finished(self.output, resume=resume, notes=Notes(self.notes.append))

        def begin(title):
            name = title.partition(",")[0].partition(":")[0]
            if name == stop_at:
                raise KeyboardInterrupt
            if not name.startswith("reading"):
                self.measured.append(name)
            return lambda done, total: None

        self.document = to_document(
            measure_checkpoints(
                paths, of, run=run, settings=settings, begin=begin, finished=self.finished
            )
        )
        self.measured = list(dict.fromkeys(self.measured))

    @property
    def partial(self):
        return self.output.with_name("r.json.partial")


def test_a_run_goes_on_where_another_was_stopped_and_gives_the_same_document(paths):
    first = Run(paths, stop_at="c")
    assert first.measured == ["a", "b"]
    second = Run(paths)
    assert second.measured == ["c"]
    assert second.notes == [f"{second.partial}: 2 checkpoints finished by a former run"]
    undisturbed = to_document(measure_checkpoints(paths, OF, run=RUN, settings=SETTINGS))
    for document in (second.document, undisturbed):
        del document["environment"]["date"]
        for result in document["results"]:
            for measure in result["measures"].values():
                measure.pop("seconds", None)
    assert second.document == undisturbed
    second.finished.discard()
    assert not second.partial.exists()


def test_an_unfinished_last_line_is_cut_off(paths):
    Run(paths, stop_at="c")
    partial = paths[0].with_name("r.json.partial")
    whole = partial.read_bytes()
    partial.write_bytes(whole[:-100])
    assert Run(paths).measured == ["b", "c"]
    assert all(json.loads(line) for line in partial.read_bytes().splitlines())


def test_other_settings_are_named_and_do_not_take_the_results_of_others(paths):
    Run(paths, stop_at="c")
    other = Run(paths, replace(SETTINGS, measures=("loss",)), stop_at="b")
    assert other.measured == ["a"]
    (note,) = other.notes
    assert "not used: 2 checkpoints finished by a run with other settings" in note
    assert "measures" in note
    assert Run(paths).measured == ["c"]  # both runs' results are still there


@pytest.mark.parametrize(
    "run", [replace(RUN, batch_size=3), replace(RUN, dtype="float64"), replace(RUN, samples=20)]
)
def test_only_what_changes_a_number_counts(paths, run):
    Run(paths, stop_at="c")
    expected = ["c"] if run.batch_size else ["a", "b", "c"]
    assert Run(paths, run=run).measured == expected


def test_memory_may_be_limited_after_a_run_ran_out_of_it(paths):
    Run(paths, stop_at="c")
    limited = replace(SETTINGS, curvature=CurvatureSettings(memory=10**8))
    assert Run(paths, limited).measured == ["c"]


def test_a_checkpoint_that_has_changed_is_measured_again(paths):
    Run(paths, stop_at="c")
    write(paths[1], 7)
    again = Run(paths)
    assert again.measured == ["b", "c"]
    assert f"{paths[1]} is measured again" in again.notes[1]
    assert "has changed" in again.notes[1]


def test_another_task_or_other_data_count(paths):
    Run(paths, stop_at="c")
    inputs, targets = OF.data("train")

    def data(split):
        return (inputs + 1, targets) if split == "train" else OF.data(split)

    for of in (replace(OF, fingerprint="other"), replace(OF, data=data)):
        again = Run(paths, of=of, stop_at="c")
        assert again.measured == ["a", "b"]
        assert len([note for note in again.notes if "is measured again" in note]) == 1


def test_no_resume_starts_over(paths):
    Run(paths, stop_at="c")
    over = Run(paths, stop_at="b", resume=False)
    assert over.measured == ["a"]
    assert not over.notes
    assert Run(paths).measured == ["b", "c"]


@pytest.mark.parametrize("content", [b"mine", b'{"format":"sharpcli-points/1"}\n', b"\x00\n"])
def test_a_file_that_is_not_ours_is_left_alone(paths, content):
    partial = paths[0].with_name("r.json.partial")
    partial.write_bytes(content)
    with pytest.raises(SharpError, match="does not hold the finished checkpoints") as caught:
        Run(paths)
    assert str(partial) in caught.value.message
    assert partial.read_bytes() == content


def test_layers_come_back_and_a_checkpoint_that_was_interrupted_in_one_does_not(paths):
    settings = replace(SETTINGS, by="layer")
    Run(paths[:2], settings, stop_at="b")
    again = Run(paths[:2], settings)
    assert again.measured == ["b"]
    layers = [len(result["layers"]) for result in again.document["results"]]
    assert layers[0] == layers[1] > 0


def test_without_an_output_nothing_is_written(paths):
    measure_checkpoints(paths, OF, run=RUN, settings=SETTINGS, finished=Finished(None))
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)


def test_spectra_come_back_too(paths):
    output, settings = paths[0].with_name("s.json"), SpectrumSettings(probes=2, steps=5)
    documents = [
        to_document(
            spectra_of_checkpoints(
                paths[:count], OF, run=RUN, settings=settings, finished=Finished(output)
            )
        )
        for count in (2, 3)
    ]
    assert documents[0]["results"] == documents[1]["results"][:2]  # seconds too
    assert len(output.with_name("s.json.partial").read_text("utf-8").splitlines()) == 5


def test_a_checkpoint_whose_settings_file_changed_is_measured_again(paths):
    config = paths[0].with_name("config.json")
    config.write_text(json.dumps({"dropout": 0.1}))
    Run(paths, stop_at="c")
    config.write_text(json.dumps({"dropout": 0.2}))
    second = Run(paths)
    assert second.measured == ["a", "b", "c"]
    assert "dropout" in second.notes[-1]
    assert {str(r["checkpoint"]["metadata"]) for r in second.document["results"]} == {
        str(r["checkpoint"]["metadata"] | {"seed": seed})
        for seed, r in enumerate(second.document["results"])
    }


def test_a_part_is_measured_again_where_the_rest_of_the_model_changed(paths):
    whole = OF.model().state_dict()
    for seed, path in enumerate(paths):
        name = next(iter(whole))
        save_checkpoint(path, {name: whole[name] + seed}, {})

    def of(shift):
        def model():
            made = OF.model()
            made.load_state_dict({name: each + shift for name, each in whole.items()})
            return made

        return replace(OF, model=model)

    run = replace(RUN, partial=True)
    Run(paths, run=run, of=of(0), stop_at="c")
    assert Run(paths, run=run, of=of(0), stop_at="c").measured == []
    second = Run(paths, run=run, of=of(1))
    assert second.measured == ["a", "b", "c"]
    assert "measured again" in second.notes[-1]


@pytest.mark.parametrize(
    "form",
    [
        lambda tensor: tensor,
        torch.Tensor.to_sparse,
        lambda tensor: tensor.to(torch.complex64).conj(),
        lambda tensor: tensor[0],
    ],
    ids=["dense", "sparse", "conjugated", "scalar"],
)
def test_another_buffer_that_no_checkpoint_has_is_another_model(paths, form):
    def of(value):
        def model():
            made = OF.model()
            made.register_buffer("scale", form(torch.full((2000,), value)), persistent=False)
            return made

        return replace(OF, model=model)

    Run(paths, of=of(1.0), stop_at="c")
    assert Run(paths, of=of(1.0), stop_at="c").measured == []
    assert Run(paths, of=of(2.0)).measured == ["a", "b", "c"]


def test_another_state_of_the_optimizer_is_read_again(paths):
    state = paths[0].with_name("optimizer.pt")
    model = OF.model()

    def save(scale):
        optimizer = torch.optim.Adam(model.parameters())
        for parameter in model.parameters():
            parameter.grad = scale * torch.ones_like(parameter)
        optimizer.step()
        torch.save(optimizer.state_dict(), state)

    settings = replace(
        SETTINGS, measures=("preconditioned-sharpness",), options={"optimizer_state": str(state)}
    )
    save(1.0)
    Run(paths, settings, stop_at="c")
    assert Run(paths, settings, stop_at="c").measured == []
    save(2.0)
    second = Run(paths, settings)
    assert second.measured == ["a", "b", "c"]
    assert "optimizer_state was" in second.notes[-1]
