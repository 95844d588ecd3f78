"""The rows that every competitor of `distance.py` searches, and their common starts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import common
import teachers
import white_box
from db3kd.config.settings import Search
from db3kd.search.boundary import per_row
from db3kd.search.robustness import References, choose_references
from db3kd.search.rows import boundary_distance
from db3kd.teachers import sklearn, torch_module
from db3kd.teachers.base import Teacher
from teachers import Lesson

POOL = 4_000  # images that references are drawn from
OWN = 2_000  # images after these that rows are drawn from
CHECKPOINTS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
CLASSES = 10
OUT = (1e-4, 1e-3, 1e-2)  # by which starts of rivals are moved out


@dataclass(frozen=True)
class Case:
    """A teacher and how it is trained; without a lesson it is the SVM on the digits."""

    name: str
    lesson: Lesson | None
    references: int  # of each class

    @property
    def folder(self) -> str:
        """The folder of its results; another teacher or other starts have another folder."""
        taught = f"-{self.lesson.train}-{self.lesson.epochs}" if self.lesson else ""
        return f"{self.name}{taught}-{self.references}"


@dataclass(frozen=True)
class Rows:
    """Every image with every other class, image by image, as tensors that are saved together.

    - `start`: the boundary-distance point of each row, made `firm`.
    - `start_spent`: what it cost.
    - `start_curve`: the best distance of that search within each of `CHECKPOINTS`.
    - `white`: the white-box distance, +inf if none was found.
    """

    number: Tensor  # image: its number in the data set
    images: Tensor
    own: Tensor  # image: what the teacher calls it
    sample: Tensor  # row: which of the images
    target: Tensor  # row: the class to reach
    start: Tensor
    start_spent: Tensor
    start_curve: Tensor
    white: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def origin(self) -> Tensor:
        """The image of each row."""
        return self.images[self.sample]

    @property
    def start_distance(self) -> Tensor:
        """The boundary distance of each row, which is what a failed search counts as."""
        return self.start_curve[:, -1]

    def key(self, row: int) -> str:
        """A name of a row that stays if more images are added: image number and class."""
        return f"{int(self.number[self.sample[row]])}:{int(self.target[row])}"

    def mixed(self) -> list[int]:
        """All rows in a random order, so that the first few cover many images and classes."""
        draw = torch.Generator().manual_seed(1)
        return [int(row) for row in torch.randperm(len(self), generator=draw)]


@dataclass(frozen=True)
class Task:
    """A case, with everything that competitors need."""

    case: Case
    teacher: Teacher
    references: References
    rows: Rows


@dataclass(frozen=True)
class Taught:
    """A teacher, its modules, whose gradients the white-box reference may use, and images.

    References are drawn from `pool`. Rows are drawn from `own`, with `labels`; the first image of
    `own` has the number `first` in the data set.
    """

    teacher: Teacher
    modules: tuple[nn.Module, ...]
    pool: Tensor
    own: Tensor
    labels: Tensor
    first: int


def prepare(case: Case, images: int, work: Path) -> Task:
    """Train the teacher, draw `images` images that it gets right, and find starts and reference."""
    source = taught(case)
    teacher = source.teacher
    pool_answers = teacher.labels(source.pool)
    chosen, rejected = choose_references(
        pool_answers,
        classes=teacher.classes,
        per_class=case.references,
        generator=torch.Generator().manual_seed(0),
    )
    references = References(source.pool[chosen], pool_answers[chosen], rejected)
    file = work / case.folder / f"rows-{images}.safetensors"
    if file.exists():
        return Task(case, teacher, references, Rows(**load_file(file)))
    answers = teacher.labels(source.own)
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(1))
    taken = order[(answers == source.labels)[order]][:images]
    common.say(f"{case.name}: starts and white-box reference of {len(taken)} images")
    rows = started(teacher, source.own[taken], answers[taken], references, taken + source.first)
    white, _ = white_box.reference(source.modules, teacher, rows.origin, rows.target)
    rows = replace(rows, white=white)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({f.name: getattr(rows, f.name).contiguous() for f in fields(Rows)}, file)
    return Task(case, teacher, references, rows)


def started(
    teacher: Teacher, images: Tensor, own: Tensor, references: References, number: Tensor
) -> Rows:
    """The rows of all other classes of each image; each starts at its boundary-distance point."""
    search = Search(metric="bd", references=len(references.answers), checkpoints=CHECKPOINTS)
    found = boundary_distance(teacher, images, own, references, search, keep_points=True)
    if found.points is None:
        raise RuntimeError("the points were asked for")
    sample, target = (torch.arange(teacher.classes) != own[:, None]).nonzero(as_tuple=True)
    start, origin, curve = found.points[sample, target], images[sample], found.curve[sample, target]
    return Rows(
        number,
        images,
        own,
        sample,
        target,
        firm(teacher, origin, start, target),
        found.queries[sample, target],
        curve,
        torch.full((len(sample),), torch.inf),
    )


def firm(teacher: Teacher, origin: Tensor, point: Tensor, target: Tensor) -> Tensor:
    """Move points out by a ten-thousandth, so that they are across in batches of any size.

    A rival asks one image at a time, and a point exactly on the boundary may then fall to the other
    side. Points that still do are moved out by a thousandth, then by a hundredth.
    """
    for share in OUT:
        further = (origin + (1 + share) * (point - origin)).clamp(*teacher.bounds)
        alone = torch.cat([teacher.labels(image[None]) for image in further])
        across = (alone == target) & (teacher.labels(further) == target)
        if bool(across.all()):
            return further
        point = torch.where(per_row(across, point), point, further)
    raise RuntimeError(f"{int((~across).sum())} starts are not across when they are asked again")


def taught(case: Case) -> Taught:
    """Train or load the teacher of a case."""
    if case.lesson is None:
        machine, images, labels = teachers.digits()
        half = len(images) // 2
        modules = tuple(white_box.SoftVotes(machine, sharp) for sharp in white_box.SHARPNESS)
        return Taught(sklearn(machine), modules, images[:half], images[half:], labels[half:], half)
    data = teachers.training_images(case.lesson, POOL + OWN)
    net = teachers.trained(case.lesson, data)
    pool = data.images.read(torch.arange(POOL))
    own = data.images.read(torch.arange(POOL, POOL + OWN))
    labels = data.labels[POOL : POOL + OWN]
    return Taught(torch_module(net, classes=CLASSES), (net,), pool, own, labels, POOL)


def checkpoints(most: int) -> Sequence[int]:
    """The checkpoints up to `most`."""
    return tuple(c for c in CHECKPOINTS if c <= most)
