"""The images of a recipe: own ones, test images, and how their classes match the teacher's."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from db3kd.config.quick import most_images
from db3kd.config.recipe import DataConfig, Recipe
from db3kd.data import DataSet, Images, TensorImages, damaged, load, subset
from db3kd.data.content import white_of
from db3kd.data.digest import combined, of_tensor
from db3kd.data.names import places
from db3kd.errors import InputError, NoSplit, plain
from db3kd.seeds import derive_seed
from db3kd.stages.digests import Digests
from db3kd.student.networks import Shape
from db3kd.teachers.base import Teacher, known_of, met_of, names_of

Source = Literal["data.test", "split", "held back", "none"]
"""Where test images come from: a data set of their own, a split, the own images, or nowhere."""

PART, MOST_HELD, FEWEST = 5, 1000, 10  # one own image in five is held back, of ten at least
NAMED = 3  # damaged images in a message
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Sets:
    """The images of a recipe; `sets_of` opens them.

    - `own`: the own images; None if there are none.
    - `test`: the test images; None if there are none.
    - `source`: where the test images come from.
    - `shape`: channels, height and width of all of them.
    - `white`: the value that is white in grey images of more than 8 bits; None if there are none.
    - `pool`: the unlabelled images of something else; None if there are none.
    - `names`: what the teacher's classes are called, in its order; empty before `matched`.
    """

    own: DataSet | None
    test: DataSet | None
    source: Source
    shape: Shape
    names: tuple[str, ...] = ()
    white: float | None = None
    pool: Images | None = None

    @property
    def any(self) -> DataSet:
        """The own images, or else the test images, or else an empty set of the same shape."""
        nothing = DataSet(TensorImages(torch.zeros(0, *self.shape)), None, ())
        return self.own or self.test or nothing

    @property
    def known(self) -> DataSet:
        """Those whose classes are known, the own images first; or else as `any`."""
        some = (data for data in (self.own, self.test) if data is not None and data.classes)
        return next(some, self.any)

    @property
    def labelled(self) -> DataSet | None:
        """Those whose true classes are known, the own images first; None if there are none."""
        some = (self.own, self.test)
        return next((data for data in some if data is not None and data.labels is not None), None)

    @property
    def tests(self) -> int:
        """How many test images there are."""
        return 0 if self.test is None else len(self.test)


def sets_of(recipe: Recipe) -> Sets:
    """Open the images of a recipe; only labels are read yet.

    Test images are those of `data.test`, or else the split `data.test_split` of the own images'
    data set, or else, unless the recipe names that split, a fifth of the own images, a thousand at
    most. These are held back: no student learns from them. Random by the recipe's seed: which
    images are taken or held back.

    Raises:
        InputError: a data set is not there, or is smaller than wanted, or the images differ in
            shape.
    """
    wanted = recipe.data
    own = None if wanted.train is None else _load(recipe, wanted.train, wanted.train_split)
    test, source = _test_images(recipe)
    if test is not None:
        test = _some(recipe, test, wanted.test_samples, "test_samples")
    elif own is not None:
        own, test = _held_back(recipe, own)
        source = "held back"
    if own is not None:
        own = _some(recipe, own, wanted.samples, "samples")
    white = white_of([data.images for data in (own, test) if data is not None])
    return Sets(own, test, source, _shape(recipe, own, test), white=white)


def _load(recipe: Recipe, name: str, split: str) -> DataSet:
    wanted = recipe.data
    table = {"image": wanted.image, "label": wanted.label}
    return load(name, split, size=wanted.size, channels=wanted.channels, **table)


def pool_of(recipe: Recipe, shape: Shape) -> Images | None:
    """The images of `synthesis.images`, in their own size for way "public"; None without any.

    Raises:
        InputError: they are not there, or none of the first ones can be used.
    """
    named, (channels, height, width) = recipe.synthesis.images, shape
    if named is None:
        return None
    whole = recipe.synthesis.way == "public"
    size = None if whole else height if height == width else (height, width)
    return load(named, recipe.data.train_split, size=size, channels=channels).images


def _test_images(recipe: Recipe) -> tuple[DataSet | None, Source]:
    wanted = recipe.data
    if wanted.test is not None:
        return _load(recipe, wanted.test, wanted.test_split), "data.test"
    if wanted.train is None:
        return None, "none"
    try:
        return _load(recipe, wanted.train, wanted.test_split), "split"
    except NoSplit as error:
        if wanted.test_split != DataConfig().test_split:
            raise  # the user named it
        others = [name for name in error.splits if name != wanted.train_split]
        if others:
            _log.warning(
                "%s has no split 'test', so some of the own images are held back as test images;"
                ' to take those of %s instead, set data.test_split = "%s"',
                plain(wanted.train),
                plain(", ".join(others), 200),
                plain(others[0], 60),
            )
        return None, "none"


def _held_back(recipe: Recipe, own: DataSet) -> tuple[DataSet, DataSet]:
    """The own images without those that are held back, and these."""
    if len(own) < FEWEST:
        raise InputError(
            f"there are {len(own)} own images and no test images; give {FEWEST} or more, so that"
            " some can be held back, or set data.test"
        )
    count = recipe.data.test_samples or min(MOST_HELD, len(own) // PART)
    if count >= len(own):
        raise InputError(
            f"data.test_samples is {count:,}, but there are only {len(own):,} own images, of which"
            " these would be held back; take fewer, or set data.test"
        )
    rows = _drawn(recipe, len(own), "held back")
    return subset(own, rows[count:].sort().values), subset(own, rows[:count].sort().values)


def _some(recipe: Recipe, data: DataSet, wanted: int | None, key: str) -> DataSet:
    if wanted is None and recipe.quick:
        wanted = min(len(data), most_images(recipe))
    if wanted is None:
        return data
    if wanted > len(data):
        raise InputError(f"data.{key} is {wanted:,}, but there are only {len(data):,} images")
    return subset(data, _drawn(recipe, len(data), key)[:wanted].sort().values)


def _drawn(recipe: Recipe, count: int, key: str) -> Tensor:
    draw = torch.Generator().manual_seed(derive_seed(recipe.seed, key))
    return torch.randperm(count, generator=draw)


def _shape(recipe: Recipe, own: DataSet | None, test: DataSet | None) -> Shape:
    found = [data.images.shape for data in (own, test) if data is not None]
    if len(set(found)) == 2:
        raise InputError(
            f"the own images are {found[0]}, the test images {found[1]} (channels, height, width);"
            " set data.size or data.channels"
        )
    if found:
        return found[0]
    size, channels = recipe.data.size, recipe.data.channels
    if size is None or channels is None:
        raise InputError("without any images, data.size and data.channels say what to make")
    height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
    return channels, height, width


def sound(recipe: Recipe, sets: Sets, digests: Digests) -> Sets:
    """The same images without damaged ones, each of which is decoded once to find out.

    What was found is remembered, as long as the files stay as they are.

    Raises:
        InputError: an image is damaged, and the recipe does not say that such are left out.
    """
    own = None if sets.own is None else _sound(recipe, sets.own, digests, "own")
    test = None if sets.test is None else _sound(recipe, sets.test, digests, "test")
    return replace(sets, own=own, test=test)


def sound_pool(recipe: Recipe, sets: Sets, digests: Digests) -> Images | None:
    """The images of `synthesis.images` without damaged ones; None without any.

    Way "public" leaves damaged ones out as it decodes them, in their own size.

    Raises:
        InputError: they are not there; or as `sound`.
    """
    pool = pool_of(recipe, sets.shape)
    if pool is None or recipe.synthesis.way == "public":
        return pool
    return _sound(recipe, DataSet(pool, None, ()), digests, "unlabelled").images


def _sound(recipe: Recipe, data: DataSet, digests: Digests, which: str) -> DataSet:
    faults = digests.faults(data.images, damaged)
    if not faults:
        return data
    first = "; ".join(reason for _, reason in faults[:NAMED])
    more = f" (and {len(faults) - NAMED:,} more)" if len(faults) > NAMED else ""
    count = f"{len(faults):,} of {len(data):,} {which} images"
    if recipe.data.damaged == "refuse":
        raise InputError(
            f"{count} cannot be used: {first}{more}; mend or remove them, or set data.damaged ="
            ' "skip"'
        )
    _log.warning("%s cannot be used and are left out: %s%s", count, first, more)
    whole = torch.ones(len(data), dtype=torch.bool)
    whole[[row for row, _ in faults]] = False
    if not bool(whole.any()):
        raise InputError(f"all {len(data):,} {which} images are damaged: {first}{more}")
    return subset(data, whole.nonzero()[:, 0])


def matched(sets: Sets, teacher: Teacher) -> Sets:
    """The same images, with labels that are the teacher's classes.

    Classes match by name where the teacher's names are known, and otherwise as
    `db3kd.data.names.places` says. Test images match own ones by name.

    Where the teacher's classes are found, there are no names and no labels yet.

    Raises:
        InputError: a class that the teacher does not know, or more classes than it has.
    """
    if met_of(teacher) is not None:
        return sets
    count = known_of(teacher)
    theirs = names_of(teacher)
    theirs = None if theirs is None or _are_numbers(theirs) else theirs[:count]
    called = [str(number) for number in range(count)]
    if theirs is not None:
        called[: len(theirs)] = theirs
    first = sets.known
    if theirs is None and first.classes:
        which = "the own images" if first is sets.own else "the test images"
        mine = places(first.classes, None, count, which)
        for place, name in zip(mine, first.classes, strict=True):
            called[place] = name
        if mine == list(range(len(mine))) and not _are_numbers(first.classes):
            theirs = first.classes
    own = _matched(sets.own, theirs, count, "the own images")
    test = _matched(sets.test, theirs, count, "the test images")
    return replace(sets, own=own, test=test, names=_different(called))


def _different(names: list[str]) -> tuple[str, ...]:
    """Names with the number of the class where one is there twice."""
    twice = (
        {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    )
    return tuple(f"{name} ({at})" if name in twice else name for at, name in enumerate(names))


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether names are no more than the numbers of the classes."""
    return names == tuple(map(str, range(len(names))))


def _matched(
    data: DataSet | None, theirs: tuple[str, ...] | None, count: int, which: str
) -> DataSet | None:
    if data is None or not data.classes:
        return data
    found = places(data.classes, theirs, count, which)
    classes = tuple(map(str, range(count))) if theirs is None else theirs
    classes += tuple(map(str, range(len(classes), count)))
    labels = None if data.labels is None else torch.tensor(found)[data.labels]
    return DataSet(data.images, labels, classes)


def digest_of_labels(data: DataSet) -> str | None:
    """A digest of true labels by the names of their classes; None without labels."""
    if data.labels is None:
        return None
    return combined("labels", [*data.classes, of_tensor(data.labels)])
