"""The time left of the whole work, as a hand with a stopwatch would say it."""

from collections.abc import Mapping

import pytest

from db3kd.stages.clock import Clock, Part


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Told:
    """What was reported last."""

    def __init__(self) -> None:
        self.figures: Mapping[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        self.figures = figures

    @property
    def left(self) -> float:
        return self.figures["left"]


def made(parts: list[Part]) -> tuple[Clock, Told, Watch]:
    told, watch = Told(), Watch()
    clock = Clock(told, watch)
    clock.plan = lambda: list(parts)
    return clock, told, watch


def test_without_a_plan_reports_stay_as_they_are() -> None:
    told = Told()
    Clock(told)("answers", 1, 2, {"queries": 3.0})
    assert told.figures == {"queries": 3.0}


def test_a_run_as_forecast_counts_down() -> None:
    parts = [Part("answers", 10.0), Part("auto-0", 100.0, trains=True)]
    clock, told, watch = made(parts)
    for second in range(11):
        watch.now = 50.0 + second
        clock("answers", second, 10, {"queries": 1.0})
        assert told.left == pytest.approx(110 - second)
        assert told.figures["queries"] == 1.0
    del parts[0]
    for second in range(0, 101, 10):
        watch.now = 60.0 + second
        clock("auto-0", second, 100, {})
        assert told.left == pytest.approx(100 - second)


def test_slow_stages_correct_later_ones_of_their_kind_only() -> None:
    parts = [
        Part("trial/students", 100.0, trains=True),
        Part("grow", 50.0),
        Part("auto-0", 100.0, trains=True),
    ]
    clock, told, watch = made(parts)
    clock("trial/students", 0, 10, {})
    assert told.left == pytest.approx(250)
    watch.now += 200  # twice as long as forecast
    clock("trial/students", 10, 10, {})
    del parts[0]
    clock("grow", 0, 10, {})
    # 20 s count as forecast: (20 + 200) / (20 + 100) = 1.83 times 100 s, and 50 s as they are.
    assert told.left == pytest.approx(50 + 100 * 220 / 120)


def test_the_stage_that_runs_is_corrected_by_its_own_pace() -> None:
    clock, told, watch = made([Part("auto-0", 100.0, trains=True)])
    clock("auto-0", 0, 100, {})
    watch.now += 150
    clock("auto-0", 50, 100, {})
    # Half took 150 s. The forecast counts as a tenth of it: (10 + 150) / 0.6 s for all.
    assert told.left == pytest.approx(160 / 0.6 / 2)


def test_stages_in_another_order_and_unknown_ones() -> None:
    parts = [Part("surrogate", 10.0, trains=True), Part("surrogate", 30.0, trains=True)]
    parts.append(Part("rounds", 60.0))
    clock, told, _ = made(parts)
    clock("rounds", 0, 4, {})
    assert told.left == pytest.approx(100)
    clock("surrogate-2", 0, 4, {})  # the first that is not fitted
    assert told.left == pytest.approx(100)
    clock("digests", 0, 4, {})
    assert told.left == pytest.approx(100)


def test_a_lesson_that_is_over_is_not_ahead_until_the_books_say_so() -> None:
    parts = [Part("students", 10.0, trains=True), Part("students", 20.0, trains=True)]
    parts.append(Part("synthesis", 40.0))
    clock, told, watch = made(parts)
    clock("synthesis", 0, 8, {})
    assert told.left == pytest.approx(70)
    clock("students", 0, 5, {})
    watch.now += 10
    clock("students", 5, 5, {})
    assert told.left == pytest.approx(60)
    clock("synthesis", 2, 8, {})  # its shard is not on the books yet
    assert told.left == pytest.approx(60)
    del parts[0]
    clock("students", 0, 5, {})
    assert told.left == pytest.approx(60)


def test_a_training_that_is_continued_counts_from_where_it_was() -> None:
    clock, told, watch = made([Part("auto-0", 100.0, trains=True)])
    clock("auto-0", 60, 100, {})  # at once: it was done before
    first = told.left
    watch.now += 20
    clock("auto-0", 80, 100, {})
    assert told.left < first / 1.5
