"""Recipes: the records that one TOML file fills in.

`reading.read_recipe` makes one from a file, or an error that names file and line.
"""

from typing import Annotated, Literal

import msgspec

from db3kd.config.cluster import Cluster
from db3kd.config.methods import Method
from db3kd.config.remote import Encoding, Noise, Price, Remote
from db3kd.config.settings import (
    Budget,
    Grow,
    Search,
    Spend,
    Synthesis,
    Training,
)
from db3kd.config.stopping import Rule
from db3kd.config.types import MOST_CLASSES, Above0, Count, Natural

_FACTORY = r"^\w+(\.\w+)*:\w+(\.\w+)*$"
_DEVICE = r"^[a-z]+(:[0-9]+)?$"
_NAME = r"^[^\x00]*$"
Text = Annotated[str, msgspec.Meta(min_length=1, pattern=_NAME)]
Pair = Annotated[tuple[Count, ...], msgspec.Meta(min_length=2, max_length=2)]
Network = Literal[
    "small", "lenet5", "lenet5_classic", "alexnet", "alexnet_small",
    "resnet18", "resnet34", "resnet50",
]  # fmt: skip


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The images of a run.

    - `train`: the data set of the own images, as `db3kd.load` takes it. Without it there are no own
      images, and students learn from pseudo samples.
    - `test`: the data set of the test images; without it the one that `train` names.
    - `train_split`, `test_split`: their splits.
    - `samples`: how many own images are taken, at random by the recipe's seed; without it all.
    - `test_samples`: how many test images are taken likewise. Each costs an answer.
    - `size`, `channels`: what the images are made into: a side, or [height, width]; 1 for grey, 3
      for colour.
    - `labels`: whose labels the cross-entropy term of Eq. 1 uses. Own images without labels use the
      teacher's.
    - `image`, `label`: the columns of a parquet or CSV table, if they have other names than usual.
    - `damaged`: whether images that cannot be decoded are an error ("refuse") or left out ("skip").

    >>> DataConfig(train="mnist").test_split
    'test'
    """

    train: Text | None = None
    test: Text | None = None
    train_split: Text = "train"
    test_split: Text = "test"
    samples: Count | None = None
    test_samples: Count | None = None
    size: Count | Pair | None = None
    channels: Literal[1, 3] | None = None
    labels: Literal["truth", "teacher"] = "truth"
    image: Text | None = None
    label: Text | None = None
    damaged: Literal["refuse", "skip"] = "refuse"


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classifier that is asked.

    - `kind`: what it is, and so which of the next settings it needs.
    - `factory`: "module:function" that returns the model ("torch"), the estimator ("sklearn") or
      the function ("function").
    - `arguments`: keywords that this function is called with: texts, numbers, true or false.
    - `file`: of an "onnx" teacher.
    - `remote`: the table that says how a "remote" teacher is asked.
    - `network`, `width`, `weights`: of a "network" teacher, with its weights in a safetensors file.
    - `training`, `data`: how, and on which data set, such a network is trained if the file of its
      weights is missing; without `data` on `data.train`.
    - `classes`: what the teacher's classes are called, in its order: a list of names, or a file of
      them (`db3kd.data.names.read_names`). Or only how many there are. Without it they are those
      that the model itself tells of, or else those of the own images. Where nobody knows them, a
      "remote" teacher or a "function" names them by its answers.
    - `most_classes`: how many classes are found so at most; what is called otherwise then teaches
      nothing.
    - `encoding`: what the model expects, if images of 0 to 1 in the order (channels, height, width)
      are not right. A "remote" teacher has one in `remote`.
    - `output`: which output of the model holds scores or labels, if it has several.
    - `unknown`: what it means when the teacher answers -1, or a name that is none of `classes`.
      "refuse" is an error, "drop" leaves such images out of what students learn, "other" is one
      class more, the last. A "remote" teacher has this in `remote.names`.
    - `bounds`: the lowest and highest value of a pixel that the model takes. Images, of 0 to 1, are
      scaled to them.
    - `batch`: the most images in one question.
    - `store`: a file that keeps every answer, so that none is paid twice. A remote teacher has one
      next to the folder of the run; others have none unless it is named.
    - `price`: what answers cost.
    - `noise`: what is done where the teacher does not always say the same.

    >>> TeacherConfig(kind="onnx", file="teacher.onnx").bounds
    (0.0, 1.0)
    """

    kind: Literal["network", "torch", "sklearn", "onnx", "function", "remote"]
    factory: Annotated[str, msgspec.Meta(pattern=_FACTORY)] | None = None
    arguments: dict[str, str | int | float | bool] = {}
    file: Text | None = None
    network: Network | None = None
    width: Above0 = 1.0
    weights: Text | None = None
    training: Training | None = None
    data: Text | None = None
    batch: Count | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    remote: Remote | None = None
    classes: Annotated[int, msgspec.Meta(ge=2)] | Text | tuple[Text, ...] | None = None
    most_classes: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = MOST_CLASSES
    encoding: Encoding | None = None
    output: Text | None = None
    unknown: Literal["refuse", "drop", "other"] = "refuse"
    store: Text | None = None
    price: Price | None = None
    noise: Noise | None = None


class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The networks that are trained: one for each of `methods` and each of `seeds`.

    - `network`, `width`: what is trained, and how wide it is. Or else:
    - `factory`: "module:function" of your own that makes it. It is called with the keywords `shape`
      (channels, height, width) and `classes`, if it takes them, and returns a torch module that
      gives scores.
    - `timm`: the name of a model of the package timm.
    - `methods`: what they learn from, and so what is bought. With own images:
      "ce", the images and their answers; "grown", new images as well (`Grow`);
      "sd", "bd", "mbd", soft labels by that distance (`Search`); "mixed", soft labels by "mbd" and
      new images; "auto", whichever of "grown" and "mbd" a trial finds better (`Spend`).
      "auto" goes with "ce" only, and "bd" needs `label.strategy = "rows"`. Without own images:
      "pseudo", pseudo samples and their answers (`Synthesis`); "pseudo_mbd", these with soft labels
      by distance.
    - `seeds`: of the first weights and of the training.
    - `training`: how they are trained.

    Without `methods` they are "auto"; without own images "pseudo"; and where [label] asks for a
    search row by row, its metric. Where they want no distances but "sd", which are free, and
    [label] asks for no search, no others are measured.

    >>> StudentConfig(network="lenet5", width=0.5).methods
    ('auto',)
    """

    network: Network | None = None
    factory: Annotated[str, msgspec.Meta(pattern=_FACTORY)] | None = None
    timm: Text | None = None
    width: Above0 = 1.0
    methods: Annotated[tuple[Method, ...], msgspec.Meta(min_length=1)] = ("auto",)
    seeds: Annotated[tuple[Natural, ...], msgspec.Meta(min_length=1)] = (0,)
    training: Training = Training()


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a run is made of.

    Paths stay as they are written, and "~" is no home folder; relative ones start at the current
    directory.

    - `run`: the folder of the run.
    - `seed`: of everything that is drawn, except what a student draws.
    - `device`: "cpu", "cuda", "cuda:1", "mps" and the like; "auto" takes a GPU if there is one.
    - `data`, `teacher`, `student`: the images, the classifier that is asked, what is trained.
    - `budget`: the most that may be spent.
    - `stop`: when to stop buying new images or pseudo samples before that. A table with the
      `agreement` of students on samples held back that is enough, or "flat", once the last two
      rounds taught nothing more.
    - `label`: how distances are measured.
    - `grow`: how new images are made of own ones.
    - `spend`: what a trial may spend.
    - `synthesis`: how pseudo samples are made.
    - `cluster`: where the shards of the run are done.
    - `quick`: a first look within minutes: few images, short trainings, and "-quick" added to the
      name of `run` (`db3kd.config.quick.quick`). `db3kd run --quick` sets it.

    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=DataConfig(train="mnist"),
    ...     teacher=TeacherConfig(kind="onnx", file="teacher.onnx"),
    ...     student=StudentConfig(network="lenet5"),
    ... )
    >>> recipe.student.methods, recipe.grow.choose, recipe.label.strategy
    (('auto',), 'margin', 'joint')
    """

    run: Text
    seed: Natural = 0
    device: Annotated[str, msgspec.Meta(pattern=_DEVICE)] = "cpu"
    data: DataConfig
    teacher: TeacherConfig
    budget: Budget = Budget()
    stop: Rule | None = None
    spend: Spend = Spend()
    grow: Grow = Grow()
    synthesis: Synthesis = Synthesis()
    label: Search = Search()
    student: StudentConfig
    cluster: Cluster = Cluster()
    quick: bool = False
