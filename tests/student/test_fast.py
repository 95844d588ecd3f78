"""The form that trains fastest is the same function of the same weights, or the network itself."""

import random

import pytest
import torch
from torch import Tensor, nn

from db3kd.student.fast import fast_form, laid_out_plainly, plain_form, safe_channels_last
from db3kd.student.networks import NAMES, build


class Own(nn.Module):
    """A network of somebody else: what it does to its features is `change`."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change, self.seen = change, []
        self.first, self.last = nn.Conv2d(1, 5, 3), nn.Linear(180, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.first(images)).flatten(1)
        doubled = {
            "mode": lambda: self.training,
            "draw": lambda: bool(torch.rand(1) < 0.5),
            "python": lambda: random.random() < 0.5,
        }
        if self.change in doubled and doubled[self.change]():
            features = features * 2
        elif self.change == "dropout":
            features = nn.functional.dropout(features, training=self.training)
        elif self.change == "notes":
            self.seen.append(1)
        return self.last(features)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_function_of_the_same_weights(name: str) -> None:
    network = build(name, (1, 16, 16), 4, 0.3, seed=0).eval()
    fast, images = fast_form(network), torch.rand(5, 1, 16, 16)
    assert {id(weight) for weight in fast.parameters()} == {id(w) for w in network.parameters()}
    torch.testing.assert_close(fast.eval()(images), network(images), atol=1e-4, rtol=1e-4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert laid_out_plainly(plain_form(network))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_running_means_are_learned_by_the_network_itself() -> None:
    network = build("alexnet", (1, 16, 16), 4, 0.1, seed=0)
    fast = fast_form(network)
    assert fast is not network
    fast.train()(torch.rand(8, 1, 16, 16) + 3)
    means = [part.running_mean for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(bool(mean.abs().sum() > 0) for mean in means if mean is not None)


@pytest.mark.parametrize("change", ["mode", "draw", "python", "dropout", "notes"])
def test_a_network_that_is_not_the_same_at_every_call_is_left_alone(change: str) -> None:
    state = torch.get_rng_state()
    network = Own(change)
    network.first.eval()
    torch.set_rng_state(state)
    assert fast_form(network) is network
    assert network.training
    assert not network.first.training
    assert torch.equal(state, torch.get_rng_state())


def test_a_steady_network_of_somebody_else_is_made_fast() -> None:
    network, images = Own("nothing"), torch.rand(2, 1, 8, 8)
    fast = fast_form(network)
    assert fast is not network
    torch.testing.assert_close(fast(images), network(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stride", "channels"), [(2, 6), ((1, 2), 3), (3, 15)])
def test_what_would_write_beyond_its_memory_is_left_alone(
    stride: int | tuple[int, int], channels: int
) -> None:
    network = nn.Sequential(nn.Conv2d(channels, 12, 1, stride=stride), nn.Flatten())
    assert fast_form(network) is network
    assert laid_out_plainly(network)


def test_a_residual_network_is_fast_unless_it_is_very_narrow() -> None:
    wide, narrow = (build("resnet18", (1, 8, 8), 10, width, seed=0) for width in (0.25, 0.1))
    assert safe_channels_last(wide)
    assert not safe_channels_last(narrow)
    assert fast_form(narrow) is narrow
