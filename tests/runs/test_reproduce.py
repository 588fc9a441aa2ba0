"""An experiment from its files to its verdicts."""

import dataclasses
import json
import shutil

import pytest
from tiny_experiments import write

from sharpcli.documents.claims.conclusions import conclude
from sharpcli.documents.claims.experiment import read_experiment
from sharpcli.documents.reading import load_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import experiments as kept_experiments
from sharpcli.runs import reproduce as module
from sharpcli.runs import sweep_measures
from sharpcli.runs.experiments import (
    experiments,
    find_experiment,
    judged,
    list_experiments,
    saved_results,
)
from sharpcli.runs.reproduce import Asked, reproduce
from sharpcli.runtime.reservations import InUseError
from sharpcli.training.sweep_file import read_sweep


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The experiment and the folder of its run."""
    folder = tmp_path_factory.mktemp("reproduce")
    experiment, output = read_experiment(write(folder)), folder / "out"
    reproduce(experiment, output)
    return experiment, output


def final_loss(output, stage, run):
    document = load_document(output / stage / "sweep.json")
    (found,) = [each for each in document["results"] if each["run"] == run]
    return found["loss"]["train"]["value"]


def test_a_statistic_is_of_the_runs(ran):
    _, output = ran
    document = load_document(output / "reproduce.json")
    lower, sharper, goes_on = document["results"]
    for seed in range(3):
        a, b = (final_loss(output, "first", f"lr={lr},seed={seed}") for lr in (0.1, 0.5))
        assert lower["statistic"]["by_seed"][str(seed)] == pytest.approx(b - a)
        last = final_loss(output, "second", f"seed={seed}")
        assert goes_on["statistic"]["by_seed"][str(seed)] == pytest.approx(last - a)
    measured = load_document(output / "first" / "measures.json")["results"]
    eigenvalues = {
        each["checkpoint"]["path"].rpartition("/first/")[2].partition("/")[0]: each["measures"][
            "hessian"
        ]["eigenvalues"][0]["value"]
        for each in measured
    }
    ratio = eigenvalues["lr=0.5,seed=1"] / eigenvalues["lr=0.1,seed=1"]
    assert sharper["statistic"]["by_seed"]["1"] == pytest.approx(ratio)
    assert document["settings"]["experiment"]["seeds"] == 3


def test_a_second_stage_starts_from_the_first(ran):
    _, output = ran
    curves = load_document(output / "second" / "seed=1" / "curves.json")["results"][0]
    init = "first/lr=0.1,seed=1/model.safetensors"
    assert curves["checkpoint"]["metadata"]["init"] == init


def test_the_folder_alone_gives_the_same_bytes(ran):
    experiment, output = ran
    again = judged(experiment, output, "small")
    assert json.loads(json.dumps(again)) == json.loads((output / "reproduce.json").read_text())
    before = (output / "reproduce.json").read_bytes()
    reproduce(experiment, output)
    assert (output / "reproduce.json").read_bytes() == before


def test_figures_hold_means_and_intervals(ran):
    _, output = ran
    levels, courses, lines = load_document(output / "reproduce.json")["figures"]
    (series,) = levels["series"]
    assert series["x"] == [0.1, 0.5]
    losses = [final_loss(output, "first", f"lr=0.1,seed={seed}") for seed in range(3)]
    assert series["y"][0] == pytest.approx(sum(losses) / 3)
    assert series["low"][0] < series["y"][0] < series["high"][0]
    assert [each["name"] for each in courses["series"]] == ["lr 0.1", "lr 0.5"]
    assert courses["series"][0]["x"][0] == 0
    assert [each["x"] for each in lines["series"]] == [[0.0, 0.5, 1.0]] * 2


def test_a_folder_of_another_number_of_seeds_is_refused(ran):
    experiment, output = ran
    with pytest.raises(UsageError, match="differs from what longer asks for now"):
        reproduce(experiment, output, Asked(seeds=2))


@pytest.mark.parametrize("name", ["experiment.toml", "first.toml", "task.py"])
def test_a_folder_whose_files_were_changed_is_refused(ran, tmp_path, name):
    experiment, output = ran
    shutil.copytree(output, tmp_path / "changed")
    with (tmp_path / "changed" / name).open("a") as file:
        file.write("# changed\n")
    with pytest.raises(UsageError, match=f"{name}: differs .* one of them was changed since"):
        reproduce(experiment, tmp_path / "changed")


def test_few_seeds_are_explained_only_where_they_are_few(ran):
    experiment, output = ran
    few = dataclasses.replace(experiment, few_seeds="Each takes a day.")
    about = judged(few, output, "small")["settings"]["experiment"]
    assert (about["seeds"], about["few_seeds"]) == (3, "Each takes a day.")
    bare = dataclasses.replace(few, claims=[], figures=[])
    many = conclude(bare, "small", 5, {}, {})
    assert many.settings["experiment"].few_seeds is None


def test_a_folder_with_something_else_is_refused(ran, tmp_path):
    experiment, _ = ran
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no experiment"):
        reproduce(experiment, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["other.txt"]


def test_a_failed_run_ends_it_with_its_reason(ran, tmp_path):
    home = write(tmp_path)
    task = (home / "task.py").read_text().replace("torch.randn", "torch.rendn")
    (home / "task.py").write_text(task)
    with pytest.raises(SharpError, match=r"stage first: 6 runs of 6 failed.*rendn"):
        reproduce(read_experiment(home), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('statistic = "ratio"', 'statistic = "rato"', "claim sharper: statistic rato: did you"),
        ("null = 1\n", "", "claim sharper: null = 0: the ratio is above 0 always"),
        ("to = { lr = 0.1 }", "to = { lr = 0.2 }", "claim goes-on: stage first: no run has lr"),
        ('kind = "levels"', 'kind = "level"', "figure level: did you mean 'levels'"),
        ('over = "lr"', "", "figure levels: needs 'over'"),
        (
            'statistic = "ratio"\nvalue = "hessian.eigenvalues[0]"',
            'statistic = "rank_correlation"\nvalue = "train.loss"\nother = "setting.lrr"',
            "claim sharper: lrr: is no setting of these runs: did you mean 'lr'",
        ),
        ("a = { lr", "a = { batch_size", "stage between: several runs of a seed in first have"),
    ],
)
def test_a_mistake_in_a_claim_is_found_before_anything_runs(tmp_path, old, new, message):
    home, output = write(tmp_path), tmp_path / "out"
    text = (home / "experiment.toml").read_text()
    (home / "experiment.toml").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(UsageError, match=message):
        reproduce(read_experiment(home), output)
    assert not (output / "first").exists()
    # It can be corrected, because nothing has run.
    (home / "experiment.toml").write_text(text, "utf-8")
    (home / "first.small.toml").write_text("task = 1")
    with pytest.raises(UsageError, match='task = "…" is missing'):
        reproduce(read_experiment(home), output)
    assert (output / "experiment.toml").read_text() == text


def diverging(folder):
    """The experiment with a rate at which all runs diverge, from which its second stage starts."""
    home = write(folder)
    loss = "\ndef loss(outputs, batch):\n    return (outputs**2).sum(1)\n"
    for name, old, new in (
        ("task.py", "\ndef data", loss + "\ndef data"),
        ("first.small.toml", "0.5]", "1e6]"),
        ("first.small.toml", "epochs = 2", "epochs = 20"),
        ("second.small.toml", "lr=0.1,", "lr=1000000.0,"),
    ):
        text = (home / name).read_text()
        assert old in text
        (home / name).write_text(text.replace(old, new), "utf-8")
    return home


def test_runs_that_diverge_are_judged_as_lost(tmp_path):
    document = reproduce(read_experiment(diverging(tmp_path)), tmp_path / "out")
    assert [each["verdict"] for each in document["results"]] == ["undecided"] * 3
    assert document["settings"]["experiment"]["seeds"] == 3
    assert document["results"][0]["notes"] == [
        "seeds 0, 1, 2: a run (diverged) has no train.loss, and is left out"
    ]
    assert document["notes"][0].startswith("stage first: 3 runs of 6 ended without weights")
    assert document["notes"][1].startswith("stage second: 3 runs of 3 ended without weights")


def test_nothing_is_judged_while_another_process_measures(ran, tmp_path, monkeypatch):
    experiment, output = ran
    shutil.copytree(output, tmp_path / "busy")
    for left in (tmp_path / "busy" / "reproduce.json", tmp_path / "busy" / "first/measures.json"):
        left.unlink()

    def reserved(path):
        raise InUseError(f"{path}: another run is writing to it")

    monkeypatch.setattr(sweep_measures, "reserved", reserved)
    with pytest.raises(SharpError, match="stage first: another process is at work on it"):
        reproduce(experiment, tmp_path / "busy")
    assert not (tmp_path / "busy" / "reproduce.json").exists()


def test_its_own_folder_is_no_place_for_runs(tmp_path):
    home = write(tmp_path)
    with pytest.raises(UsageError, match="is the experiment itself"):
        reproduce(read_experiment(home), home)


def test_seeds_are_those_asked_for(ran, tmp_path):
    experiment, _ = ran
    document = reproduce(experiment, tmp_path / "two", Asked(seeds=2))
    assert document["results"][0]["seeds"] == 2


def test_a_task_file_in_another_folder_is_refused(tmp_path):
    home = write(tmp_path)
    text = (home / "second.small.toml").read_text()
    (home / "second.small.toml").write_text(text.replace("task.py", "tasks/task.py"))
    with pytest.raises(UsageError, match=r'task = "tasks/task.py": only the \.py files beside'):
        reproduce(read_experiment(home), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scale_without_files_is_refused(ran, tmp_path):
    experiment, _ = ran
    with pytest.raises(UsageError, match=r"longer: has no first\.paper\.toml"):
        reproduce(experiment, tmp_path / "paper", Asked(scale="paper"))


def test_the_design_and_limits_are_those_of_the_scale(ran):
    experiment, output = ran
    experiment = dataclasses.replace(experiment, limits="small", paper="a large network")
    small, paper = (
        judged(experiment, output, scale)["settings"]["experiment"] for scale in ("small", "paper")
    )
    assert (small["design"], small["limits"]) == (experiment.design, "small")
    assert (paper["design"], paper.get("limits")) == ("a large network", None)


def test_an_unfinished_stage_is_named(ran, tmp_path):
    experiment, output = ran
    shutil.copytree(output, tmp_path / "part")
    (tmp_path / "part" / "second" / "sweep.json").unlink()
    with pytest.raises(SharpError, match="this stage has not run yet"):
        judged(experiment, tmp_path / "part", "small")


def test_names(tmp_path):
    assert find_experiment("keskar-sharpness").name == "keskar-sharpness"
    assert find_experiment(str(write(tmp_path))).name == "longer"
    with pytest.raises(UsageError, match="did you mean 'keskar-sharpness'"):
        find_experiment("keskar-sharpnes")


def test_the_list_has_every_claim():
    listed = list_experiments()["results"]
    assert "keskar-sharpness" in [each["name"] for each in listed]
    assert all(each["claims"] for each in listed)


def test_a_verdict_is_listed_of_the_claim_that_it_judged(ran, tmp_path, monkeypatch):
    _, output = ran
    home = write(tmp_path)
    shutil.copy(output / "reproduce.json", home / "result.json")
    monkeypatch.setattr(kept_experiments, "experiments", lambda: {"longer": home})

    def verdicts():
        (listed,) = list_experiments()["results"]
        return [each["verdict"] for each in listed["claims"]]

    assert None not in verdicts()
    text = (home / "experiment.toml").read_text()
    (home / "experiment.toml").write_text(text.replace("least = 2", "least = 3"), "utf-8")
    assert [verdict is None for verdict in verdicts()] == [False, True, False]


KEPT = {
    name: file
    for name, folder in experiments().items()
    if (file := folder / "result.json").exists()
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_results_say_what_their_experiments_say(name):
    document, experiment = json.loads(KEPT[name].read_text("utf-8")), find_experiment(name)
    said = {(each["name"], each["claim"], each["source"]) for each in document["results"]}
    assert said == {(each.name, each.claim, each.source) for each in experiment.claims}
    titles = [figure["title"] for figure in document["figures"]]
    assert titles == [figure.title for figure in experiment.figures]
    stage = next(each for each in experiment.stages if each.is_sweep)
    sweep = read_sweep(experiment.sweep_file(stage, "small"))
    ran = {seed for each in document["results"] for seed in each["statistic"]["by_seed"]}
    if ran <= {str(run.settings.seed) for run in sweep.runs}:  # else it is of an earlier design
        about = document["settings"]["experiment"]
        for text in ("title", "source", "design", "limits"):
            assert about.get(text) == getattr(experiment, text)


@pytest.mark.parametrize("name", experiments())
def test_an_experiment_at_the_papers_size_is_described_and_takes_a_gpu(name):
    experiment = find_experiment(name)
    assert experiment.paper
    for stage in experiment.stages:
        if stage.is_sweep:
            sweep = read_sweep(experiment.sweep_file(stage, "paper"))
            assert {run.settings.device for run in sweep.runs} == {"auto"}


def test_results_of_another_kind_are_named(ran):
    _, output = ran
    with pytest.raises(UsageError, match='holds a result of kind "sweep", not of an experiment'):
        saved_results([str(output / "first" / "sweep.json")])


def test_what_a_run_left_is_no_experiment(ran, tmp_path):
    _, output = ran
    with pytest.raises(UsageError, match=r"out: has no first\.small\.toml"):
        reproduce(find_experiment(str(output)), tmp_path / "again")


def test_results_without_a_file_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"reproduce\.json: there is no such file"):
        saved_results([str(tmp_path)])


@pytest.mark.parametrize("name", experiments())
def test_the_claims_of_every_built_in_experiment_can_be_judged(name, tmp_path):
    """Of runs that have not run, as `sharp reproduce` checks before it trains."""
    experiment = find_experiment(name)
    module._prepare(experiment, tmp_path / "out", Asked())
    module._check(experiment, tmp_path / "out")


def test_a_run_that_starts_from_a_file_that_is_not_there_says_what_to_do(tmp_path):
    home = write(tmp_path)
    file = home / "second.small.toml"
    file.write_text(file.read_text().replace("model.safetensors", "modle.safetensors"))
    with pytest.raises(SharpError) as refused:
        reproduce(read_experiment(home), tmp_path / "out")
    assert "stage second: 3 runs of 3 failed" in refused.value.message
    assert refused.value.hint == "did you mean 'model.safetensors'? Then the same command goes on"
