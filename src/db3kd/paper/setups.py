"""Data sets and networks of the paper (sections 4.1 and 4.5), and what each scale makes of them.

What is smaller than in the paper is named in every table, by `Size.words`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from db3kd.config.settings import (
    PAPER_ASCENT_CIFAR10,
    AscentPlan,
    Search,
    Training,
    TrainingAugmentation,
    paper,
    paper_ascent,
    paper_training,
)
from db3kd.paper.task import Scale

Net = tuple[str, float]
"""A network of `db3kd.student.networks`, and its width."""


@dataclass(frozen=True)
class Size:
    """How much of a setup one scale does.

    - `samples`, `tests`: how many images are taken, at random; None: all.
    - `classes`: the first classes of the data set, whose images alone are taken; None: all.
    - `side`: what images are made into, in pixels; None: as they are.
    - `narrow`: by which every network's width is multiplied.
    - `lesson`: how the teacher is trained. `training`: how students are.
    - `queries`: of a search row by row, at most, for each image and other class.
    - `references`: images of each class from which it starts.
    - `per_image`, `surrogate`: queries of a joint search, at most, for all classes of an image; and
      the network that proposes.
    - `ascent`: how pseudo samples are made by ZSDB3KD.
    - `checkpoints`, `curved`: the numbers of queries of Fig. 4 and 5, and how many images they are
      measured on.
    - `seeds`: students of each cell by default.
    """

    samples: int | None = None
    tests: int | None = None
    classes: int | None = None
    side: int | None = None
    narrow: float = 1.0
    lesson: Training = field(default_factory=Training)
    training: Training = field(default_factory=Training)
    queries: int = 1_000
    references: int = 100
    per_image: int = 300
    surrogate: str = "auto"
    ascent: AscentPlan = field(default_factory=AscentPlan)
    checkpoints: tuple[int, ...] = (1_000, 2_000, 5_000, 10_000, 20_000)
    curved: int = 300
    seeds: int = 5

    def search(self, metric: str, *, checkpoints: tuple[int, ...] = ()) -> Search:
        """The paper's search for a metric, row by row."""
        most = max((self.queries, *checkpoints))
        return paper(
            metric=metric, references=self.references, queries=most, checkpoints=checkpoints
        )

    @property
    def words(self) -> str:
        """What is smaller than in the paper; "" if nothing is.

        >>> Size(samples=300, narrow=0.25).words
        '300 images, networks a quarter as wide'
        """
        shares = {0.5: "half", 0.25: "a quarter", 0.125: "an eighth"}
        found = []
        if self.samples is not None:
            found.append(f"{self.samples:,} images")
        if self.tests is not None:
            found.append(f"{self.tests:,} test images")
        if self.classes is not None:
            found.append(f"{self.classes} classes")
        if self.side is not None:
            found.append(f"{self.side} pixels")
        if self.narrow != 1:
            found.append(f"networks {shares.get(self.narrow, f'{self.narrow:g} times')} as wide")
        return ", ".join(found)


@dataclass(frozen=True)
class Setup:
    """A data set, a teacher and students of the paper.

    - `data`, `split`: as `db3kd.data.load` takes them.
    - `students`: by the name that the paper's tables give them.
    - `sizes`: what each scale makes of it.
    - `effort`: how long a step of its networks takes, in steps of LeNet-5; only the order matters.
    """

    name: str
    title: str
    data: str
    teacher: Net
    students: Mapping[str, Net]
    sizes: Mapping[Scale, Size]
    effort: int
    split: str = "train"


_TINY = Training(steps=12, batch=16, optimiser="adam")
_SMOKE_ASCENT = AscentPlan(
    samples=10, noise=30, every=1, copies=1, shard=10, iterations=2, queries=60, search=20, starts=2
)
_TURNED: tuple[TrainingAugmentation, ...] = ("crop", "flip")


def _smoke(classes: int, **changes: object) -> Size:
    """Enough to run every line of code once."""
    size = {
        "samples": 40,
        "tests": 40,
        "classes": classes,
        "narrow": 0.125,
        "lesson": Training(steps=60, batch=16),
        "training": _TINY,
        "queries": 30,
        "references": 2,
        "per_image": 20,
        "surrogate": "none",
        "ascent": _SMOKE_ASCENT,
        "checkpoints": (30,),
        "seeds": 1,
    }
    return Size(**{**size, **changes})  # type: ignore[arg-type]


_LENETS: Mapping[str, Net] = {"LeNet-5-half": ("lenet5", 0.5), "LeNet-5-1/5": ("lenet5", 0.2)}
_ALEXNETS: Mapping[str, Net] = {
    "AlexNet-half": ("alexnet", 0.5),
    "AlexNet-quarter": ("alexnet", 0.25),
}
_RESNET: Mapping[str, Net] = {"ResNet-18": ("resnet18", 1.0)}
_GREY: Mapping[Scale, Size] = {
    "smoke": _smoke(4),
    "cpu": Size(ascent=AscentPlan(every=10), seeds=3),
    "full": Size(training=paper_training(), ascent=paper_ascent(every=10), curved=60_000),
}
_CIFAR100: Mapping[Scale, Size] = {
    "smoke": _smoke(4, side=16),
    "cpu": Size(
        samples=10_000,
        narrow=0.25,
        lesson=Training(steps=8_000, augment=_TURNED),
        training=Training(augment=_TURNED),
        seeds=3,
    ),
    "full": Size(lesson=Training(epochs=100, augment=_TURNED), training=paper_training()),
}
SETUPS: Mapping[str, Setup] = {
    each.name: each
    for each in (
        Setup("mnist", "MNIST", "mnist", ("lenet5", 1.0), _LENETS, _GREY, 1),
        Setup(
            "fashion_mnist", "Fashion-MNIST", "fashion_mnist", ("lenet5", 1.0), _LENETS, _GREY, 1
        ),
        Setup(
            "cifar10",
            "CIFAR-10",
            "cifar10",
            ("alexnet", 1.0),
            _ALEXNETS,
            {
                "smoke": _smoke(4),
                "cpu": Size(samples=10_000, lesson=Training(steps=6_000, augment=_TURNED), seeds=3),
                "full": Size(
                    lesson=Training(epochs=60, augment=_TURNED),
                    training=paper_training(),
                    ascent=AscentPlan(**PAPER_ASCENT_CIFAR10),
                ),
            },
            12,
        ),
        Setup("cifar100", "CIFAR-100", "cifar100", ("resnet34", 1.0), _RESNET, _CIFAR100, 30),
        Setup(
            "cifar100_resnet50",
            "CIFAR-100, ResNet-50",
            "cifar100",
            ("resnet50", 1.0),
            _RESNET,
            _CIFAR100,
            40,
        ),
        Setup(
            "flowers102",
            "Flowers-102",
            "flowers102",
            ("resnet34", 1.0),
            _RESNET,
            {
                "smoke": _smoke(4, side=16),
                "cpu": Size(
                    side=64,
                    narrow=0.25,
                    lesson=Training(steps=6_000, augment=(*_TURNED, "cutmix")),
                    training=Training(augment=_TURNED),
                    references=20,
                    seeds=3,
                ),
                "full": Size(
                    side=224,
                    lesson=Training(epochs=200, augment=(*_TURNED, "cutmix")),
                    training=paper_training(epochs=200, batch=64),
                    references=20,
                ),
            },
            40,
            split="train+validation",
        ),
    )
}
