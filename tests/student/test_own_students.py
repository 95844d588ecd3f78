"""Students of the user's own, and of timm."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from db3kd.config.recipe import StudentConfig
from db3kd.errors import InputError
from db3kd.student.evaluate import check_trainable
from db3kd.student.own import build_own, build_timm, build_wanted, check_wanted

SHAPE = (1, 4, 4)


def plain(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def of_shape(*, shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2] * shape[0], classes))


def of_anything(*arguments: Any, **more: Any) -> nn.Module:
    assert not arguments
    assert more == {"shape": SHAPE, "classes": 3}
    return plain()


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last = nn.LazyLinear(classes)

    def forward(self, images: torch.Tensor) -> Any:
        return self.last(images.flatten(1))


@pytest.mark.parametrize("factory", [lambda: plain(), plain, of_shape, of_anything, Net])
def test_weights_depend_on_the_seed_alone(factory: Callable[..., nn.Module]) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = build_own(factory, SHAPE, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    again, other = (build_own(factory, SHAPE, 3, seed=seed) for seed in (1, 2))
    for a, b, c in zip(*(n.parameters() for n in (first, again, other)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_students_share_no_weights_though_their_factory_keeps_some() -> None:
    kept = plain()
    before = copy.deepcopy(kept.state_dict())
    first, second = (build_own(lambda: kept, SHAPE, 3, seed=seed) for seed in (1, 2))
    torch.nn.init.zeros_(first[1].weight)
    for name, weight in before.items():
        assert torch.equal(second.state_dict()[name], weight)
        assert torch.equal(kept.state_dict()[name], weight)


class Wrong(nn.Module):
    """A module that returns anything, or fails."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.answer, self.weight = answer, nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(images)


class Stateful(Net):
    def get_extra_state(self) -> Any:
        return {"not": "a tensor"}

    def set_extra_state(self, state: Any) -> None: ...


def fails(*_: Any) -> Any:
    raise KeyError("weights\nand more\x1b[31m")


def leaves(*_: Any) -> Any:
    sys.exit("bye")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (lambda: "net", "made a str; a torch module that gives scores is expected"),
        (lambda depth: plain(), "failed: TypeError: .*depth"),
        (fails, "the factory 'fails' failed: KeyError: 'weights"),
        (leaves, "failed: SystemExit: bye"),
        (lambda: plain(4), "tells 4 classes apart; 3 are needed"),
        (lambda: nn.Flatten(), "has 0 weights"),
        (lambda: Wrong(lambda images: (images,)), "must return a tensor .*, got tuple"),
        (lambda: Wrong(lambda images: images), r"must return \(images, classes\), got \(1, 1, 4"),
        (lambda: Wrong(fails), "fails on an image of shape .*KeyError"),
        (lambda: Wrong(leaves), "fails on an image of shape .*SystemExit: bye"),
        (lambda: Stateful(3), "keeps '_extra_state', which is no tensor"),
    ],
)
def test_what_is_no_student_is_refused_in_one_sentence(factory: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build_own(factory, SHAPE, 3, seed=0)
    assert str(caught.value).isprintable()
    assert "the factory '" in str(caught.value)


def test_a_name_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_student_net.py").write_text(
        "from torch import nn\ndef make(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    wanted = StudentConfig(factory="my_student_net:make")
    check_wanted(wanted, SHAPE, 3)
    assert build_wanted(wanted, SHAPE, 3, seed=0)[1].weight.shape == (3, 16)
    for name, said in (
        ("my_student_net:nope", "no attribute 'nope'"),
        ("no_such_x:make", "No mod"),
    ):
        with pytest.raises(InputError, match=said):
            check_wanted(StudentConfig(factory=name), SHAPE, 3)


def test_a_check_lets_pass_more_classes_than_are_known_yet() -> None:
    wanted = StudentConfig(factory="test_own_students:plain")
    sys.modules.setdefault("test_own_students", sys.modules[__name__])
    check_wanted(wanted, SHAPE, 2)
    with pytest.raises(InputError, match="at least 4 are needed"):
        check_wanted(StudentConfig(factory="test_own_students:three"), SHAPE, 4)


def three() -> nn.Module:
    return plain(3)


TIMM = """
import torch
from torch import nn
def create_model(name, pretrained, num_classes, in_chans, img_size=(2, 2)):
    assert not pretrained
    if name == "unknown":
        raise RuntimeError("Unknown model (unknown)")
    side = img_size[0] * img_size[1] * in_chans
    return nn.Sequential(nn.Flatten(), nn.Linear(side, num_classes))
"""


def test_a_timm_model_is_made_for_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself needs compiled parts of torchvision; this one has its signature."""
    (tmp_path / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    first, again = (build_timm("vit_tiny", (3, 4, 5), 7, seed=1) for _ in range(2))
    assert first[1].weight.shape == (7, 60)
    assert torch.equal(first[1].weight, again[1].weight)
    with pytest.raises(
        InputError, match=r"the timm model 'unknown' cannot be made .*Unknown model"
    ):
        build_timm("unknown", (3, 4, 5), 7, seed=1)
    sys.modules.pop("timm")


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:/tmp", "a/b", "", "a\x00", "é:"])
def test_timm_is_not_asked_for_what_lies_elsewhere(name: str) -> None:
    with pytest.raises(InputError, match="is no name of a timm model"):
        build_timm(name, SHAPE, 3, seed=0)


def test_timm_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"it needs the extra: .*\[timm\]"):
        build_timm("resnet18", SHAPE, 3, seed=0)


class Auxiliary(nn.Module):
    """Two outputs in training, as Inception has them, and one otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> Any:
        scores = self.layer(images.flatten(1))
        return (scores, scores) if self.training else scores


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Auxiliary(), "in training mode the network Auxiliary must return a tensor .*, got tuple"),
        (nn.Linear(16, 3), "fails in training mode on two images of shape .1, 4, 4.: mat1 and"),
        (nn.Linear, "the network is the class Linear; give a torch module"),
        (None, "the network is a NoneType; give a torch module"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "layers whose weights are not made yet"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False), "no weights that ca"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to("meta"), "on the device meta"),
    ],
)
def test_what_cannot_be_trained_is_found_before_anything_is_asked(network: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_trainable(network, (1, 4, 4))


def test_a_student_of_two_outputs_in_training_is_refused_as_a_factory_too() -> None:
    with pytest.raises(InputError, match="is no student: in training mode the network Auxiliary"):
        build_own(Auxiliary, (1, 4, 4), 3, seed=0)


def test_the_network_that_is_looked_at_stays_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)).eval()
    before, state = torch.get_rng_state(), copy.deepcopy(network.state_dict())
    check_trainable(network, (1, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert not network.training
