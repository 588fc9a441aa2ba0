"""Which checkpoint of how many is measured, and how long the rest will take."""

from pathlib import Path

from sharpcli.runs.course import Course


def test_the_time_left_is_that_of_the_checkpoints_after_the_first():
    now = [0.0]
    course = Course([f"out/run-{index}/model.pt" for index in range(5)], lambda: now[0])
    titles = []
    for index, seconds in enumerate((100.0, 4.0, 6.0, 5.0, 5.0)):
        course.next(Path(f"out/run-{index}/model.pt"))
        now[0] += 1
        titles.append(course.title())
        now[0] += seconds - 1
        course.measured()
    assert titles == [
        "run-0, 1 of 5",
        "run-1, 2 of 5",
        "run-2, 3 of 5, 11 s left",  # three of 4 s, less the second that has passed
        "run-3, 4 of 5, 9 s left",
        "run-4, 5 of 5, 4 s left",
    ]


def test_what_an_earlier_run_finished_does_not_make_the_rest_seem_fast():
    now = [0.0]
    course = Course(["a.pt", "b.pt", "c.pt", "d.pt"], lambda: now[0])
    course.next(Path("a.pt"))  # finished before
    for name in ("b.pt", "c.pt"):
        course.next(Path(name))
        now[0] += 10
        course.measured()
    course.next(Path("d.pt"))
    assert course.title() == "d, 4 of 4, 10 s left"


def test_a_single_checkpoint_keeps_its_name_and_one_of_unknown_many_too():
    begun = []
    for paths in (["out/a.pt"], []):
        course = Course(paths)
        course.next(Path("out/a.pt"))
        course.titled(begun.append)("hessian")
    assert begun == ["a.pt: hessian"] * 2
