"""Recipes: one TOML file says what a run is made of, and is checked whole before anything runs.

`read_recipe` gives a frozen record or an error that names file and line; `resolved` gives it back
as plain data with every default written out, which a run folder keeps.
"""

from typing import Annotated, Literal

import msgspec

from db3kd.config.methods import Method
from db3kd.config.remote import Noise, Price, Remote
from db3kd.config.settings import (
    Budget,
    Grow,
    Search,
    Spend,
    Synthesis,
    Training,
)
from db3kd.config.types import Above0, Count, Natural

_FACTORY = r"^\w+(\.\w+)*:\w+(\.\w+)*$"
_DEVICE = r"^[a-z]+(:[0-9]+)?$"
Text = Annotated[str, msgspec.Meta(min_length=1)]
Network = Literal["small", "lenet5", "alexnet", "resnet18", "resnet34", "resnet50"]


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The images of a run.

    `train`, `test`: names of data sets as `db3kd.data.load` takes them; without `test` the test
    images are those of `train`; without `train` there are no own images, and students learn from
    pseudo samples. `train_split`, `test_split`: their splits. `samples`: how many training images
    are taken, at random with the recipe's seed; all without it. `test_samples`: likewise of the
    test images, each of which costs an answer. `size`, `channels`: what images are made into.
    `labels`: whose labels the cross-entropy term of Eq. 1 uses.

    >>> DataConfig(train="mnist").test_split
    'test'
    """

    train: Text | None = None
    test: Text | None = None
    train_split: Text = "train"
    test_split: Text = "test"
    samples: Count | None = None
    test_samples: Count | None = None
    size: Count | None = None
    channels: Literal[1, 3] | None = None
    labels: Literal["truth", "teacher"] = "truth"


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classifier that is asked.

    `kind` says which of the others are needed: "network" a `network` of the paper and `weights` (a
    safetensors file; where it is missing, the network is trained by `training` and saved there);
    "torch", "sklearn" and "function" a `factory`, "module:function", that returns the model, the
    estimator or the function; "onnx" a `file`; "remote" the table `remote`. `width`: of the
    network. `data`: what a network is trained on, without it `data.train`. `batch`: most images in
    one question. `bounds`: lowest and highest value that the teacher takes; of a remote one, of
    your images. `classes`: how many a remote teacher knows, if not as many as the data set.
    `store`: a file in which each answer is kept, so that none is paid twice; a remote teacher has
    one beside the folder of the run, others none. `price`: what answers cost. `noise`: what is done
    where it does not always say the same.

    >>> TeacherConfig(kind="onnx", file="teacher.onnx").bounds
    (0.0, 1.0)
    """

    kind: Literal["network", "torch", "sklearn", "onnx", "function", "remote"]
    factory: Annotated[str, msgspec.Meta(pattern=_FACTORY)] | None = None
    file: Text | None = None
    network: Network | None = None
    width: Above0 = 1.0
    weights: Text | None = None
    training: Training | None = None
    data: Text | None = None
    batch: Count | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    remote: Remote | None = None
    classes: Annotated[int, msgspec.Meta(ge=2)] | None = None
    store: Text | None = None
    price: Price | None = None
    noise: Noise | None = None


class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The networks that are trained: one for each of `methods` and each of `seeds`.

    `methods`: what they learn from, and so what is bought. "ce": the images and their answers;
    "grown": grown images too (`Grow`); "sd", "bd", "mbd": soft labels by that metric (`Search`);
    "mixed": soft labels by "mbd", and grown images; "auto": "grown" or "mbd", as a trial decides
    (`Spend`); no other than "ce" goes with it. "bd" needs a search row by row,
    `label.strategy = "rows"`; a recipe with such a search has its metric as the default. Without
    own images: "pseudo", pseudo samples with their answers (`Synthesis`), which is the default
    there, or "pseudo_mbd", with soft labels by their distances.

    >>> StudentConfig(network="lenet5", width=0.5).methods
    ('auto',)
    """

    network: Network
    width: Above0 = 1.0
    methods: Annotated[tuple[Method, ...], msgspec.Meta(min_length=1)] = ("auto",)
    seeds: Annotated[tuple[Natural, ...], msgspec.Meta(min_length=1)] = (0,)
    training: Training = Training()


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a run is made of.

    `run`: the folder of the run. `seed`: of everything drawn but the students. `device`: "cpu",
    "cuda", "cuda:1" and the like. Paths stay as they are written: relative ones start at the
    current directory.

    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=DataConfig(train="mnist"),
    ...     teacher=TeacherConfig(kind="onnx", file="teacher.onnx"),
    ...     student=StudentConfig(network="lenet5"),
    ... )
    >>> recipe.student.methods, recipe.grow.acquisition, recipe.label.strategy
    (('auto',), 'margin', 'joint')
    """

    run: Text
    seed: Natural = 0
    device: Annotated[str, msgspec.Meta(pattern=_DEVICE)] = "cpu"
    data: DataConfig
    teacher: TeacherConfig
    budget: Budget = Budget()
    spend: Spend = Spend()
    grow: Grow = Grow()
    synthesis: Synthesis = Synthesis()
    label: Search = Search()
    student: StudentConfig
