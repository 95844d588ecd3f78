"""A teacher that the leading process asks for its workers.

A remote teacher, a store of answers and votes have one owner, so that limits hold over all workers
together and nothing is paid twice. Workers hand their questions to it (`db3kd.stages.hand.Ask`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import InputError
from db3kd.teachers.base import Teacher, names_of, unsure_of


@dataclass(frozen=True)
class Described:
    """What a worker has to know of a teacher that it may not ask itself; it can be pickled.

    - `keeps_books`: it is a `db3kd.teachers.parts.Ledger`.
    - `parts`: what it is known by.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> Described.of(bright, {}).classes
    2
    """

    classes: int
    bounds: tuple[float, float]
    names: tuple[str, ...] | None
    unsure: int | None
    keeps_books: bool
    parts: Mapping[str, str]

    @classmethod
    def of(cls, teacher: Teacher, parts: Mapping[str, str]) -> "Described":
        """Describe a teacher. Costs no query."""
        books = getattr(teacher, "ledger", None) is not None
        return cls(
            teacher.classes,
            teacher.bounds,
            names_of(teacher),
            unsure_of(teacher),
            books,
            dict(parts),
        )


class ThroughLeader:
    """A described teacher, as a worker asks it: `ask` hands images to the leading process.

    >>> teacher = ThroughLeader(Described(2, (0.0, 1.0), None, None, False, {}))
    >>> teacher.classes, teacher.ledger is None
    (2, True)
    """

    def __init__(self, described: Described) -> None:
        self.classes, self.bounds = described.classes, described.bounds
        self.names, self.unsure = described.names, described.unsure
        self.ledger = self if described.keeps_books else None
        self.ask: Callable[[Tensor], Tensor] = _nobody

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image, from the leading process."""
        return self.ask(images.cpu()).to(images.device)


def _nobody(images: Tensor) -> Tensor:
    raise InputError("this teacher is asked by the process that leads; there is none")
