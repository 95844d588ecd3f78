"""Students that are not of the table of networks: the user's own, and those of the package timm."""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from db3kd.config.factories import Factory, call_factory, factory_text
from db3kd.config.recipe import StudentConfig
from db3kd.data import TensorImages
from db3kd.errors import InputError, described, hint, plain
from db3kd.student.evaluate import check_trainable, classes_of
from db3kd.student.networks import MOST_WEIGHTS, Shape, build, check_network, seeded

_TIMM = re.compile(r"^\w[\w.]*$")  # other names make timm ask the network for code or weights


def build_wanted(wanted: StudentConfig, shape: Shape, classes: int, *, seed: int) -> nn.Module:
    """Make the student that a recipe names, with weights that depend on the seed alone.

    `shape` is (channels, height, width). Costs no query.

    Raises:
        InputError: as `build`, `build_own` and `build_timm`.

    >>> build_wanted(StudentConfig(network="small"), (1, 8, 8), 10, seed=0)[-1]
    Linear(in_features=64, out_features=10, bias=True)
    """
    if wanted.factory is not None:
        return build_own(wanted.factory, shape, classes, seed=seed)
    if wanted.timm is not None:
        return build_timm(wanted.timm, shape, classes, seed=seed)
    return build(str(wanted.network), shape, classes, wanted.width, seed=seed)


def check_wanted(wanted: StudentConfig, shape: Shape, classes: int) -> None:
    """Refuse a student that cannot work, before a teacher is asked; costs no query.

    `classes`: how many there are at least. The teacher may have more, and so may the student.

    Raises:
        InputError: as `build_wanted`.

    >>> check_wanted(StudentConfig(factory="torch.nn:Flatten"), (1, 2, 2), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: what the factory 'torch.nn:Flatten' made has 0 weights; ...
    """
    if wanted.factory is None and wanted.timm is None:
        check_network(str(wanted.network), shape, classes, wanted.width)
        return
    if wanted.timm is not None:
        build_timm(wanted.timm, shape, classes, seed=0)
        return
    factory = str(wanted.factory)
    _, found = _made(factory, shape, classes, seed=0)
    if found < classes:
        raise InputError(_wrong_count(factory, found, f"at least {classes:,}"))


def build_own(factory: Factory, shape: Shape, classes: int, *, seed: int) -> nn.Module:
    """Make a student by the user's own code, with weights that depend on the seed alone.

    The function is called with the keywords `shape` (channels, height, width) and `classes`, if it
    takes them, and returns a torch module that gives one row of scores for each image. It is shown
    one black image. PyTorch's global generator is left as it was. Costs no query.

    Raises:
        InputError: the function fails, or what it made is no such module.

    >>> def make(classes):
    ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    >>> first, again = (build_own(make, (1, 2, 2), 10, seed=3) for _ in range(2))
    >>> first[1].weight.shape, torch.equal(first[1].weight, again[1].weight)
    (torch.Size([10, 4]), True)
    """
    made, found = _made(factory, shape, classes, seed)
    if found != classes:
        raise InputError(_wrong_count(factory, found, f"{classes:,}"))
    return made


def build_timm(name: str, shape: Shape, classes: int, *, seed: int) -> nn.Module:
    """Make a model of the package timm, with weights that depend on the seed alone.

    No weights are downloaded. Models of one image size are made for `shape`. Costs no query.

    Raises:
        InputError: timm is not installed, does not know the name, or its model does not fit.

    >>> build_timm("hf-hub:owner/model", (3, 32, 32), 10, seed=0)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: 'hf-hub:owner/model' is no name of a timm model; give one such as ...
    """
    if not _TIMM.match(name):
        raise InputError(
            f"{plain(name, 60)!r} is no name of a timm model; give one such as 'resnet18'"
        )
    try:
        from timm import create_model
    except Exception as error:  # it needs torchvision, whose compiled parts may not fit
        raise InputError(
            f"the timm model {name!r} cannot be made ({described(error, 120)}); it needs the extra:"
            f" {hint('timm')}"
        ) from None
    given: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}

    def make() -> Any:
        made = create_model(name, pretrained=False, **given)
        try:
            classes_of(made, _black(shape))
        except InputError:
            made = create_model(name, pretrained=False, **given, img_size=shape[1:])
        return made

    try:
        with seeded(seed):
            made: nn.Module = make()
    except Exception as error:  # of another library
        raise InputError(
            f"the timm model {name!r} cannot be made for images of {shape} and {classes:,} classes:"
            f" {described(error, 200)}"
        ) from None
    found = classes_of(made, _black(shape))
    if found != classes:
        raise InputError(f"the timm model {name!r} has {found:,} classes, not {classes:,}")
    return made


def _made(factory: Factory, shape: Shape, classes: int, seed: int) -> tuple[nn.Module, int]:
    """What a factory makes, shown one image, and how many classes it tells apart."""
    with seeded(seed):
        made = call_factory(factory, {"shape": shape, "classes": classes})
        if not isinstance(made, nn.Module):
            raise InputError(
                f"{factory_text(factory)} made a {plain(type(made).__name__, 60)}; a torch module"
                " that gives scores is expected"
            )
        try:
            found = classes_of(made, _black(shape))  # lazy layers draw their weights now
        except InputError as error:
            raise InputError(f"what {factory_text(factory)} made is no student: {error}") from None
    made = _copied(made, factory)
    others = [name for name, held in made.state_dict().items() if not isinstance(held, Tensor)]
    if others:
        raise InputError(
            f"what {factory_text(factory)} made keeps {plain(others[0], 60)!r}, which is no tensor"
            " and cannot be saved; keep tensors alone"
        )
    weights = sum(part.numel() for part in made.parameters())
    if not 0 < weights <= MOST_WEIGHTS:
        raise InputError(
            f"what {factory_text(factory)} made has {weights:,} weights; give one that can learn,"
            f" of at most {MOST_WEIGHTS:,}"
        )
    try:
        check_trainable(made, shape)
    except InputError as error:
        raise InputError(f"what {factory_text(factory)} made is no student: {error}") from None
    return made, found


def _copied(made: nn.Module, factory: Factory) -> nn.Module:
    """A copy, so that students share no weights where a factory keeps what it made."""
    try:
        return copy.deepcopy(made)
    except Exception as error:  # of the user's own module
        raise InputError(
            f"what {factory_text(factory)} made cannot be copied: {described(error, 200)}"
        ) from None


def _black(shape: Shape) -> TensorImages:
    return TensorImages(torch.zeros(1, *shape))


def _wrong_count(factory: Factory, found: int, wanted: str) -> str:
    return (
        f"what {factory_text(factory)} made tells {found:,} classes apart; {wanted} are needed, so"
        " take them from its keyword `classes`"
    )
