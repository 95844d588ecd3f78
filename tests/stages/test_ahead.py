"""What is ahead of a stage: worked by hand, and without what is done."""

import pytest

from db3kd.config.settings import Grow, Search, Synthesis, Training
from db3kd.stages import ahead
from db3kd.stages.ahead import Done, Images

OWN = Images(300, (1, 28, 28), 10)


def sums(tasks: list[ahead.Task]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for task in tasks:
        answers, steps = found.get(task.name, (0, 0))
        found[task.name] = answers + task.answers, steps + task.steps
    return found


def test_growing_counts_its_lessons_and_continues() -> None:
    # 4 rounds of 2,250: students of 300, 2,550, 4,800 and 7,050 answers; 6 roots of these are
    # 104, 303, 416 and 504 steps, 300 at least.
    grow = Grow(per_image=30)
    assert sums(list(ahead.growth(OWN, grow, Done()))) == {
        "surrogate": (0, 2 * (300 + 303 + 416 + 504)),
        "grow": (9000, 0),
    }
    # The fit of 200,000 answers has 6 roots of it: 2,683, at most 1,500.
    many = ahead.growth(OWN, grow, Done(), earlier=200_000)
    assert next(many).steps == 2 * 1500
    done = Done({"grow": [0, 1]}, {"grow": [0, 1, 2]})
    assert sums(list(ahead.growth(OWN, grow, done))) == {
        "surrogate": (0, 2 * 504),
        "grow": (4500, 0),
    }
    assert not list(ahead.growth(OWN, grow, Done({"grow": [0, 1, 2, 3]})))
    random = ahead.growth(OWN, Grow(choose="random", per_image=2), Done(), place="trial/")
    assert [(task.name, task.drawn, task.looked) for task in random] == [("trial/grow", 600, 0)]


def test_a_joint_search_counts_fits_and_rounds() -> None:
    # 300 queries for 9 other classes are 8 rounds; 2 shards of at most 200. Probes before round k:
    # 300 * 300 * k / 8, so the last fit has 6 roots of 78,750: 1,684, at most 1,500.
    found = list(ahead.distances(OWN, Search(), Done()))
    assert sums(found)["rounds"][0] == 300 * 300
    fits = [task.steps for task in found if task.name == "surrogate"]
    assert (len(fits), fits[0], fits[-1]) == (8, 3 * 300, 3 * 1500)
    done = Done({"rounds": range(8)}, {"rounds": range(5)})  # half of the 16 shards of rounds
    left = sums(list(ahead.distances(OWN, Search(), done)))
    assert left["rounds"][0] == 300 * 300 / 2
    assert not list(ahead.distances(OWN, Search(), Done({"distances": [0, 1]})))
    rows = list(ahead.distances(OWN, Search(strategy="rows", queries=50), Done()))
    assert [task.answers for task in rows] == [300 * 9 * 50]


def test_pseudo_samples_count_lessons_between_shards_and_the_ensemble() -> None:
    # 5,000 in 8 shards of 625: 7 lessons of 2 students, 4 sqrt(n) steps each, at least 200.
    whole = list(ahead.synthesis((1, 28, 28), Synthesis(), 5000, 55_000, Done()))
    assert sums(whole) == {
        "students": (0, 2 * (4 * 200 + 224 + 245 + 265)),
        "synthesis": (5000, 0),
        "ensemble": (0, 3 * 707),
        "unasked": (0, 0),
    }
    assert whole[-1].drawn == 4 * 55_000
    done = Done({"synthesis": range(8)}, {"unasked": [0]})
    left = list(ahead.synthesis((1, 28, 28), Synthesis(), 5000, 55_000, done))
    assert [task.name for task in left] == ["unasked"]


@pytest.mark.parametrize("way", ["shapes", "noise", "dip_kd", "ideal", "qedg", "dfms", "disguide"])
def test_every_other_way_has_something_ahead(way: str) -> None:
    settings = Synthesis(way=way)  # type: ignore[arg-type]
    tasks = list(ahead.synthesis((1, 28, 28), settings, 500, 0, Done()))
    assert sum(task.answers for task in tasks) == 500
    assert all(task.learner is not None for task in tasks if task.steps)


def test_a_student_has_the_steps_of_its_training() -> None:
    assert ahead.training("ce", 0, Training(epochs=3, batch=10), 25, 4).steps == 9
    assert ahead.training("ce", 0, Training(steps=7), 25, 4).looked == 4
