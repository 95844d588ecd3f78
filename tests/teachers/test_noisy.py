"""Teachers that do not always say the same: flip rate, votes, noisy bisection, canaries."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from closed_form import Watched
from db3kd.config.settings import Budget
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.search.boundary import Asks, Bracket, bisect, bisect_noisy, questions
from db3kd.stages.taped import ReplayTeacher
from db3kd.storage.tape import Tape
from db3kd.teachers import function
from db3kd.teachers.base import Bounds, Teacher
from db3kd.teachers.cached import Account, CachedTeacher, Store
from db3kd.teachers.meter import Meter
from db3kd.teachers.noisy import Canary, FlipRate, Voting, canaries, flip_rate, margin_for
from db3kd.teachers.noisy.flips import wilson
from db3kd.teachers.noisy.voting import tally

FLIPS = st.sampled_from([0.01, 0.05, 0.1, 0.3])
SEEDS = st.integers(0, 10_000)


def images_of(count: int) -> Tensor:
    """Images whose value is their number."""
    return torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1)


def mixed(numbers: Tensor) -> Tensor:
    """Whole numbers made to look random, always alike."""
    for factor in (0x2C1B3C6D, 0x297A2D39, 0x165667B1):
        numbers = (numbers ^ (numbers >> 15)) * factor & 0x7FFFFFFF
    return numbers ^ (numbers >> 16)


class Flipping:
    """Says `value % classes`, but with a chance another class.

    A flip depends on the image, on how often it was asked before, and on the seed: not on what
    else is asked. With `fixed`, an image is answered alike each time. `names` renames the classes.
    """

    bounds = (0.0, 1e6)

    def __init__(
        self, flips: float, *, classes: int = 3, seed: int = 0, fixed: bool = False,
        names: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.flips, self.classes, self.seed, self.fixed = flips, classes, seed, fixed
        self.names = torch.arange(classes) if names is None else names
        self.asked, self.times = 0, torch.zeros(10_000, dtype=torch.int64)

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image; each image may be in a question once."""
        self.asked += len(images)
        number = images.flatten().long()
        again = 0 if self.fixed else self.times[number]
        self.times[number] += 1
        chance = mixed(number * 100_003 + again * 1_009 + self.seed * 7)
        wrong = chance.double() / 2**31 < self.flips
        other = 1 + mixed(chance + 5) % (self.classes - 1)
        return self.names[(number + torch.where(wrong, other, 0)) % self.classes]


# The flip rate


def test_flip_rate_by_hand() -> None:
    # Three answers each: 0 0 0, 0 1 0 and 0 1 2 have 0, 2 and 3 unlike pairs of 3.
    said = iter([[0, 0, 0], [0, 1, 1], [0, 0, 2]])
    teacher = function(lambda images: next(said), classes=3)
    rate = flip_rate(teacher, torch.zeros(3, 1, 2, 2), 3)
    assert rate.differs == pytest.approx(5 / 9)
    assert (rate.images, rate.queries) == (3, 9)
    assert (rate.low, rate.high) == wilson(rate.differs, 3, 0.95)


def test_flips_belong_to_the_rate() -> None:
    for flips in (0.0, 0.01, 0.2, 0.5):
        differs = 2 * flips * (1 - flips)
        rate = FlipRate(differs=differs, low=0.0, high=1.0, images=1, queries=2)
        assert rate.flips == pytest.approx(flips, abs=1e-7)
        assert rate.most_flips == 0.5


def test_wilson_against_a_table() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, trials, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        assert wilson(hits / trials, trials, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("repeats", [2, 4])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_interval_holds_the_truth_as_often_as_it_says(repeats: int, uneven: bool) -> None:
    draw = torch.Generator().manual_seed(3)

    def ask(images: Tensor) -> Tensor:
        chance = torch.where(images.flatten() % 10 == 0, 0.5, 0.0) if uneven else 0.05
        return torch.rand(len(images), generator=draw) < chance

    truth = 0.1 * 0.5 if uneven else 2 * 0.05 * 0.95
    teacher, held = function(ask, classes=2, bounds=(0.0, 1e6)), 0
    for _ in range(400):
        rate = flip_rate(teacher, images_of(200), repeats)
        held += rate.low <= truth <= rate.high
    assert held / 400 >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5  # three standard errors


def test_repeats_are_not_asked_in_one_question_and_are_metered() -> None:
    watched = Watched(function(lambda images: images.flatten() > 9, classes=2, bounds=(0.0, 1e6)))
    meter = Meter(watched, Budget(queries=30))
    assert flip_rate(meter, images_of(10), 3).differs == 0
    assert [len(shown) for shown in watched.shown] == [10, 10, 10]
    assert meter.spent == 30
    with pytest.raises(BudgetExhausted):
        flip_rate(meter, images_of(10), 3)


def test_images_that_are_always_wrong_do_not_flip() -> None:
    assert flip_rate(Flipping(0.3, fixed=True), images_of(100)).differs == 0


def test_flip_rate_refuses_what_says_nothing(tmp_path: Path) -> None:
    teacher = Flipping(0.1)
    for images, repeats, level in ((0, 2, 0.95), (3, 1, 0.95), (3, 2, 1.0), (3, 2, 0.0)):
        with pytest.raises(InputError):
            flip_rate(teacher, images_of(images), repeats, level=level)
    with Store(tmp_path / "answers") as store:
        for ask in (
            lambda stored: flip_rate(stored, images_of(3)),
            lambda stored: Voting(stored, most=3, margin=2),
            lambda stored: Canary(stored, images_of(1), torch.tensor([0]), every=1),
        ):
            with pytest.raises(InputError, match="beneath"):
                ask(CachedTeacher(teacher, store, "t"))


# Votes


def test_the_margin_is_the_least_that_is_enough() -> None:
    for flips in (0.001, 0.01, 0.05, 0.1, 0.3, 0.49):
        for error in (0.2, 0.01, 1e-3, 1e-6):
            margin = margin_for(flips, error)
            odds = flips / (1 - flips)
            assert 1 / (1 + odds**-margin) <= error * (1 + 1e-9)
            assert margin == 1 or 1 / (1 + odds ** -(margin - 1)) > error
    for flips, error in ((0.5, 0.01), (-0.1, 0.01), (0.1, 0.0), (0.1, 0.5)):
        with pytest.raises(InputError):
            margin_for(flips, error)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_tally_against_counting(votes: list[int]) -> None:
    winner, lead = tally(torch.tensor([votes]))
    count = {vote: votes.count(vote) for vote in votes}
    best = max(count.values())
    expected = next(vote for vote in votes if count[vote] == best)  # the first of the best
    others = [number for vote, number in count.items() if vote != expected]
    assert (winner.item(), lead.item()) == (expected, best - max(others, default=0))


def test_no_image_is_asked_longer_than_it_takes() -> None:
    said = iter([[0, 1, 2], [0, 0, 1], [0, 0], [1]])
    # 0 0; 1 0 0 1 (undecided, the first wins); 2 1 0 ... has no leader
    asked: list[int] = []

    def ask(images: Tensor) -> list[int]:
        asked.append(len(images))
        return next(said)

    vote = Voting(function(ask, classes=3), most=3, margin=2)
    assert vote.labels(torch.zeros(3, 1, 1, 1)).tolist() == [0, 0, 2]
    assert (asked, vote.repeats, vote.undecided) == ([3, 3, 2], 5, 2)


def test_a_margin_of_one_asks_once() -> None:
    teacher = Flipping(0.3)
    vote = Voting(teacher, most=9, margin=1)
    assert vote.labels(images_of(50)).tolist() == Flipping(0.3).labels(images_of(50)).tolist()
    assert (teacher.asked, vote.repeats, vote.undecided) == (50, 0, 0)


@given(SEEDS, FLIPS, st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_vote_does_not_depend_on_neighbours(
    seed: int, flips: float, margin: int, more: int
) -> None:
    images = images_of(40)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:11]

    def voted(some: Tensor) -> Tensor:
        return Voting(Flipping(flips, seed=seed), most=margin + more, margin=margin).labels(some)

    assert torch.equal(voted(images)[rows], voted(images[rows]))


@given(SEEDS, FLIPS, st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_vote_knows_no_names(seed: int, flips: float, margin: int, more: int) -> None:
    names = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    plain = Voting(Flipping(flips, seed=seed), most=margin + more, margin=margin)
    renamed = Voting(Flipping(flips, seed=seed, names=names), most=margin + more, margin=margin)
    assert torch.equal(names[plain.labels(images_of(60))], renamed.labels(images_of(60)))
    assert (plain.repeats, plain.undecided) == (renamed.repeats, renamed.undecided)


@given(SEEDS, FLIPS, st.integers(1, 4), st.integers(0, 5), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_every_repeat_is_counted_and_the_budget_is_not_exceeded_by_one(
    seed: int, flips: float, margin: int, more: int, budget: int
) -> None:
    teacher = Flipping(flips, seed=seed)
    vote = Voting(teacher, most=margin + more, margin=margin, budget=budget, spent=5)
    meter = Meter(vote)
    stopped: BudgetExhausted | None = None
    try:
        meter.labels(images_of(20))
    except BudgetExhausted as error:
        stopped = error
    if stopped is not None:
        assert (stopped.stage, stopped.budget, stopped.spent) == ("repeats", budget, vote.repeats)
        assert vote.repeats + stopped.asked > budget
    assert meter.spent == 20
    assert vote.repeats == 5 or vote.repeats <= budget
    assert teacher.asked == 20 + vote.repeats - 5


@given(SEEDS, st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_a_vote_over_a_steady_teacher_changes_nothing(seed: int, margin: int) -> None:
    vote = Voting(Flipping(0.0, seed=seed), most=9, margin=margin)
    images = images_of(30)
    assert torch.equal(vote.labels(images), Flipping(0.0).labels(images))
    assert (vote.repeats, vote.undecided) == (30 * (margin - 1), 0)


def test_a_vote_is_wrong_as_seldom_as_wanted() -> None:
    draw, count = torch.Generator().manual_seed(0), 50_000
    for flips, error in ((0.05, 0.01), (0.1, 0.02), (0.3, 0.05)):
        teacher = function(
            lambda x, p=flips: torch.rand(len(x), generator=draw) < p, classes=2, batch=count
        )
        margin = margin_for(flips, error)
        vote = Voting(teacher, most=40 * margin, margin=margin)
        wrong = vote.labels(torch.zeros(count, 1, 1, 1)).sum().item()
        assert wrong / count <= error + 3 * (error / count) ** 0.5
        expected = margin / (1 - 2 * flips)
        assert 0.8 * expected <= 1 + vote.repeats / count <= expected


def test_a_vote_cannot_help_where_an_image_is_always_wrong() -> None:
    fixed, images = Flipping(0.1, fixed=True), images_of(200)
    assert torch.equal(Voting(fixed, most=9, margin=3).labels(images), fixed.labels(images))


def test_impossible_votes_are_refused() -> None:
    for most, margin, budget, spent in (
        (3, 0, None, 0),
        (2, 3, None, 0),
        (3, 2, -1, 0),
        (3, 2, 9, -1),
    ):
        with pytest.raises(InputError):
            Voting(Flipping(0.1), most=most, margin=margin, budget=budget, spent=spent)
    with pytest.raises(TeacherError):
        Voting(Watched(Wrong()), most=3, margin=2).labels(images_of(2))


class Wrong:
    """Answers a class that does not exist."""

    classes, bounds = 2, (0.0, 1.0)

    def labels(self, images: Tensor, /) -> Tensor:
        """Class 2 of two."""
        return torch.full((len(images),), 2)


def test_no_images_are_no_question() -> None:
    teacher = Flipping(0.1)
    assert Voting(teacher, most=3, margin=2).labels(images_of(0)).shape == (0,)


def stored_votes(teacher: Teacher, store: Store, **more: int) -> Voting:
    """One identity for each question to an image, as docs/noisy.md has it."""

    def again(number: int) -> Teacher:
        name = f"t repeat {number}" if number else "t"
        return CachedTeacher(teacher, store, name, account=Account("r"))

    return Voting(again(0), most=7, margin=2, again=again, **more)


def test_stored_votes_are_paid_once_and_survive_a_death(tmp_path: Path) -> None:
    images = images_of(30)
    teacher, whole = Flipping(0.2), Flipping(0.2)
    with Store(tmp_path / "whole") as store:
        vote = stored_votes(whole, store)
        expected = vote.labels(images)
        assert torch.equal(vote.labels(images), expected)  # from memory
        assert whole.asked == store.books(run="r")["answered"]
        wanted = vote.repeats // 2
        paid = sum(store.books(f"t repeat {k}", run="r")["answered"] for k in range(1, 7))
        assert paid == wanted  # what `spent` is to be after a restart
    with Store(tmp_path / "dying") as store:
        with pytest.raises(KeyboardInterrupt):
            stored_votes(Dying(teacher, at=2), store).labels(images)
        assert torch.equal(stored_votes(teacher, store).labels(images), expected)
    assert teacher.asked == whole.asked


class Dying:
    """A teacher whose process dies before a question."""

    def __init__(self, teacher: Teacher, at: int) -> None:
        self.teacher, self.at, self.classes, self.bounds = teacher, at, 3, teacher.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image, or death."""
        self.at -= 1
        if self.at < 0:
            raise KeyboardInterrupt
        return self.teacher.labels(images)


def test_rows_still_add_up_to_the_meter_over_a_vote(tmp_path: Path) -> None:
    vote = Voting(Flipping(0.2), most=5, margin=2)
    meter, tape = Meter(vote), Tape(tmp_path / "0.tape", classes=3)
    taped = ReplayTeacher(meter, tape)
    taped.labels(images_of(20))
    assert taped.used == meter.spent == 20
    tape.close()


# Bisection


def flipped(truth: Tensor, flips: float, *, fixed: bool = False, seed: int = 0) -> Asks:
    """Row r is across beyond its truth; some answers are flipped, independent of neighbours."""
    times = torch.zeros(len(truth), dtype=torch.int64)

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        places = points.flatten()
        salt = places.view(torch.int32).long() if fixed else times[rows]
        times[rows] += 1
        chance = mixed(salt * 7_919 + rows * 104_729 + seed * 31).double() / 2**31
        return (places > truth[rows]) ^ (chance < flips)

    return asks


def found_by(
    find: Callable[..., Bracket], asks: Asks, rows: Tensor, times: Tensor, near: Tensor,
    **more: float,
) -> Bracket:  # fmt: skip
    start = torch.zeros(len(rows), 1, 1, 1)
    return find(
        asks, start, start + 1, near=near, rows=rows, times=times, bounds=(0.0, 1.0), **more
    )


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_without_flips_not_one_bit_changes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    truth, rows = torch.rand(9, generator=draw), torch.arange(9)
    times, near = torch.randint(0, 25, (9,), generator=draw), torch.rand(9, generator=draw) * truth
    plain = found_by(bisect, flipped(truth, 0.0), rows, times, near)
    noisy = found_by(bisect_noisy, flipped(truth, 0.0), rows, times, near, flips=0.0)
    assert torch.equal(plain.point, noisy.point)
    assert torch.equal(plain.near, noisy.near)
    assert torch.equal(plain.asked, noisy.asked)


@given(SEEDS, FLIPS)
@settings(deadline=None, max_examples=60)
def test_noisy_rows_do_not_depend_on_neighbours(seed: int, flips: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(12, generator=draw)
    times = torch.randint(0, 40, (12,), generator=draw)
    near = torch.rand(12, generator=draw) * truth
    rows = torch.randperm(12, generator=draw)[:5]

    def found(some: Tensor) -> Bracket:
        asks = flipped(truth, flips, seed=seed)
        return found_by(bisect_noisy, asks, some, times[some], near[some], flips=flips)

    whole, part = found(torch.arange(12)), found(rows)
    for name in ("point", "near", "asked"):
        assert torch.equal(getattr(whole, name)[rows], getattr(part, name))


@given(SEEDS, FLIPS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_point_was_shown_and_across_and_near_was_not(
    seed: int, flips: float, fixed: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    truth, near = torch.rand(6, generator=draw), torch.zeros(6)
    times = torch.randint(0, 40, (6,), generator=draw)
    said: list[dict[float, set[bool]]] = [{1.0: {True}, 0.0: {False}} for _ in range(6)]
    inner, asked = flipped(truth, flips, fixed=fixed, seed=seed), torch.zeros(6).long()

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        across = inner(points, rows)
        asked[rows] += 1
        for row, place, is_ in zip(rows.tolist(), points.flatten().tolist(), across, strict=True):
            said[row].setdefault(place, set()).add(bool(is_))
        return across

    found = found_by(bisect_noisy, asks, torch.arange(6), times, near, flips=flips)
    assert torch.equal(asked, times)
    assert torch.equal(found.asked, times)
    for row in range(6):
        point = found.point.flatten()[row].item()
        assert True in said[row][point]
        below = found.near[row].item()
        assert 0 <= below < 1 or times[row] > 20  # floats may meet where it is asked for long
        assert min(abs(below * point - place) for place in said[row]) < 1e-6


def test_the_point_is_shown_to_the_last_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    start, far = torch.rand(2, 7, 1, 3, 3, generator=draw)
    shown: list[Tensor] = []

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        shown.append(points.clone())
        return points.flatten(1).mean(1) > start[rows].flatten(1).mean(1).lerp(
            far[rows].flatten(1).mean(1), 0.4
        )

    found = bisect_noisy(
        asks, start, far, near=torch.zeros(7), rows=torch.arange(7),
        times=torch.tensor([1, 3, 9, 9, 20, 0, 5]), bounds=(0.0, 1.0), flips=0.1,
    )  # fmt: skip
    every = torch.cat([*shown, far]).flatten(1)
    for point in found.point.flatten(1):
        assert bool((every == point).all(1).any())
    assert torch.equal(found.point[5], far[5])


def test_noisy_bisection_of_rounded_points_asks_what_it_returns() -> None:
    bounds = Bounds(0.0, 8.0, seen=torch.round, level=1.0)
    asks = flipped(torch.tensor([2.5, 6.5]), 0.0)
    start = torch.zeros(2, 1, 1, 1)
    found = bisect_noisy(
        asks, start, start + 8, near=torch.zeros(2), rows=torch.arange(2),
        times=torch.tensor([12, 12]), bounds=bounds, flips=0.05,
    )  # fmt: skip
    assert found.point.flatten().tolist() == [3.0, 7.0]


def test_noisy_bisection_of_nothing_asks_nothing() -> None:
    none = torch.zeros(0, dtype=torch.long)
    found = found_by(
        bisect_noisy, flipped(torch.zeros(1), 0.1), none, none, torch.zeros(0), flips=0.1
    )
    assert (found.point.shape, found.asked.shape) == ((0, 1, 1, 1), (0,))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("flips", [0.01, 0.05, 0.1])
def test_noisy_bisection_is_closer_to_the_truth_at_equal_queries(flips: float, fixed: bool) -> None:
    truth = torch.rand(4_000, generator=torch.Generator().manual_seed(1))
    rows, near = torch.arange(4_000), torch.zeros(4_000)
    for queries, factor in ((12, 2), (24, 10)):
        times = torch.full_like(rows, queries)

        def error(find: Callable[..., Bracket], times: Tensor = times, **more: float) -> float:
            found = found_by(find, flipped(truth, flips, fixed=fixed), rows, times, near, **more)
            return float((found.point.flatten() - truth).abs().mean())

        assert factor * error(bisect_noisy, flips=flips) < error(bisect)


def test_questions_carry_as_many_bits() -> None:
    times = torch.tensor([0, 1, 10, 17])
    assert torch.equal(questions(times, 0.0), times)
    assert questions(times, 0.11).tolist() == [0, 2, 20, 34]  # H(0.11) is 0.4999
    for flips in (0.5, -0.1, 1.0):
        with pytest.raises(InputError):
            questions(times, flips)
        with pytest.raises(InputError):
            found_by(bisect_noisy, flipped(torch.zeros(1), 0.1), times[:1], times[:1],
                     torch.zeros(1), flips=flips)  # fmt: skip


# Canaries


class Model:
    """Class `value % classes`, a share of the answers flipped at random; its `shift` may change."""

    bounds, classes = (0.0, 1e6), 5

    def __init__(self, flips: float, seed: int = 0) -> None:
        self.flips, self.shift, self.asked = flips, 0.0, 0
        self.draw = torch.Generator().manual_seed(seed)

    def labels(self, images: Tensor, /) -> Tensor:
        """A share `shift` of the answers is of the next class."""
        self.asked += len(images)
        wrong = torch.rand(len(images), generator=self.draw) < self.flips + self.shift
        return (images.flatten().long() + wrong) % self.classes


KNOWN = images_of(60)
ANSWERS = KNOWN.flatten().long() % 5


def stops(model: Model, most: int, false_alarm: float, flips: float) -> bool:
    canary = Canary(model, KNOWN, ANSWERS, every=1, flips=flips, false_alarm=false_alarm)
    return stops_within(canary, most)


def stops_within(canary: Canary, most: int) -> bool:
    try:
        for _ in range(most):
            canary.check()
    except TeacherError:
        return True
    return False


def test_canaries_are_asked_first_and_after_every_so_many_queries() -> None:
    model = Model(0.0)
    canary = Canary(model, KNOWN, ANSWERS, every=100)
    meter = Meter(canary)
    for _ in range(10):
        meter.labels(images_of(40))
    assert (canary.checks, canary.asked) == (4, 240)  # at 0, 120, 240, 360
    assert meter.spent == 400
    assert model.asked == 640
    assert torch.equal(canary.labels(images_of(7)), images_of(7).flatten().long() % 5)


def test_one_other_answer_of_a_steady_teacher_stops_for_good() -> None:
    model = Model(0.0)
    canary = Canary(model, KNOWN, ANSWERS, every=50)
    canary.labels(images_of(49))
    model.shift = 0.05
    with pytest.raises(TeacherError, match=r"has changed: it answered \d of 60 known images"):
        canary.labels(images_of(49))
    asked = model.asked
    with pytest.raises(TeacherError, match="has changed"):
        canary.labels(images_of(1))
    assert model.asked == asked


@pytest.mark.parametrize("flips", [0.01, 0.1, 0.3])
def test_flips_alone_stop_it_no_more_often_than_stated(flips: float) -> None:
    stopped = sum(stops(Model(flips, seed), 100, 0.2, flips) for seed in range(50))
    assert stopped <= 50 * 0.2


def test_uneven_flips_stop_it_no_more_often_either() -> None:
    class Uneven(Model):
        def labels(self, images: Tensor, /) -> Tensor:
            chance = torch.where(images.flatten() % 10 == 0, 0.5, 0.0)
            wrong = torch.rand(len(images), generator=self.draw) < chance
            return (images.flatten().long() + wrong) % self.classes

    stopped = sum(stops(Uneven(0.0, seed), 100, 0.2, 0.05) for seed in range(50))
    assert stopped <= 50 * 0.2


@pytest.mark.parametrize(
    ("flips", "shift", "most"), [(0.01, 0.1, 5), (0.05, 0.2, 5), (0.1, 0.1, 25)]
)
def test_a_change_is_noticed_soon_however_late_it_comes(
    flips: float, shift: float, most: int
) -> None:
    for seed in range(10):
        model = Model(flips, seed)
        canary = Canary(model, KNOWN, ANSWERS, every=1, flips=flips)
        for _ in range(200):
            canary.check()
        model.shift = shift
        assert stops_within(canary, most)


def test_the_evidence_is_a_fair_bet() -> None:
    # Under flips alone its mean over all outcomes stays 1: by enumeration, two images, two checks.
    flips, total = 0.2, 0.0
    for first in range(3):
        for second in range(3):
            canary = Canary(Model(flips), KNOWN[:2], ANSWERS[:2], every=1, flips=flips)
            canary.checks = 1
            canary._evidence(first)
            canary.checks = 2
            chance = [0.64, 0.32, 0.04]
            total += chance[first] * chance[second] * canary._evidence(second)
    assert total == pytest.approx(1.0)


def test_known_images_live_in_a_plain_file() -> None:
    images, answers = canaries(Model(0.0), KNOWN, 3)
    file = Path(tempfile.mkdtemp()) / "known.safetensors"
    safetensors.torch.save_file({"images": images, "answers": answers}, file)
    canary = Canary(Model(0.0), **safetensors.torch.load_file(file), every=10)
    assert canary.labels(images_of(3)).tolist() == [0, 1, 2]


def test_canaries_are_images_that_are_answered_alike() -> None:
    model = Flipping(0.3)
    images, answers = canaries(model, images_of(100), 6)
    assert 0 < len(images) < 40  # 0.7^6 is 0.12, and some are always wrong
    assert model.asked == 600
    assert (answers == images.flatten().long() % 3).double().mean() > 0.9


def test_canaries_past_a_store(tmp_path: Path) -> None:
    model = Model(0.0)
    with Store(tmp_path / "answers") as store:

        def again(check: int) -> Teacher:
            return CachedTeacher(model, store, f"m canary {check}", account=Account("r"))

        canary = Canary(
            CachedTeacher(model, store, "m", account=Account("r")),
            KNOWN,
            ANSWERS,
            every=10,
            again=again,
        )
        canary.labels(images_of(10))
        assert store.books(run="r")["answered"] == model.asked == 130
        model.shift = 1.0
        with pytest.raises(TeacherError, match="60 of 60"):
            canary.labels(images_of(10))


def test_impossible_canaries_are_refused() -> None:
    for images, answers, every, flips, alarm in (
        (KNOWN[:0], ANSWERS[:0], 1, 0.0, 0.1),
        (KNOWN, ANSWERS, 0, 0.0, 0.1),
        (KNOWN, ANSWERS, 1, 0.5, 0.1),
        (KNOWN, ANSWERS, 1, 0.0, 0.0),
        (KNOWN, ANSWERS + 1, 1, 0.0, 0.1),
    ):
        with pytest.raises(InputError):
            Canary(Model(0.0), images, answers, every=every, flips=flips, false_alarm=alarm)
    with pytest.raises(InputError):
        canaries(Model(0.0), KNOWN, 0)
