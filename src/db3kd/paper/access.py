"""What a system may see of a teacher: the column "Model" of the paper's Tables 3 and 4.

db3kd itself sees labels alone (Black-D), through `db3kd.teachers.base.Teacher`. Some systems that
the paper compares with see scores (Black-S), and some see the whole network (White). Their types
share no method with `Teacher` and with each other, so none can be passed for another.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.errors import InputError
from db3kd.student.evaluate import device_of
from db3kd.student.networks import inference_batch


class ScoreTeacher:
    """A teacher that tells its scores for every class, and counts how often it was asked (Black-S).

    `network` gives scores before softmax. It is moved to the device, and is in evaluation mode
    whenever it is asked.

    >>> teacher = ScoreTeacher(nn.Flatten())
    >>> teacher.scores(torch.tensor([[[[0.2, 0.7]]]])), teacher.asked
    (tensor([[0.2000, 0.7000]]), 1)
    """

    def __init__(self, network: nn.Module, *, device: str | torch.device = "cpu") -> None:
        self._device = device_of(device)
        self._network = network.to(self._device).eval()
        self.asked = 0

    def scores(self, images: Float[Tensor, "row *image"]) -> Float[Tensor, "row classes"]:
        """The scores before softmax, on the images' device; costs one query an image.

        No gradient flows through them.
        """
        self.asked += len(images)
        with torch.no_grad():
            parts = torch.split(images, inference_batch(images.shape[1:]))
            found = [self._network(part.to(self._device)).to(images.device) for part in parts]
        return torch.cat(found)


class OpenNetwork:
    """A teacher of which everything is known: weights, features and gradients (White).

    `network` is moved to the device and stays as it is: evaluation mode, and no gradient for its
    weights. Gradients flow to the images. Features are what its last `torch.nn.Linear` gets, which
    makes the scores of them.

    Raises:
        InputError: the network has no `torch.nn.Linear` at its end.

    >>> teacher = OpenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    >>> features, scores = teacher.features_and_scores(torch.ones(2, 1, 2, 2))
    >>> features.shape, scores.shape, teacher.last.weight.requires_grad
    (torch.Size([2, 4]), torch.Size([2, 3]), False)
    """

    def __init__(self, network: nn.Module, *, device: str | torch.device = "cpu") -> None:
        self.device = device_of(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.last = last_layer(network)

    def features_and_scores(
        self, images: Float[Tensor, "row *image"]
    ) -> tuple[Float[Tensor, "row feature"], Float[Tensor, "row classes"]]:
        """What the last layer gets, and the scores before softmax, with gradients to the images."""
        return features_and_scores(self.network, images)


def last_layer(network: nn.Module) -> nn.Linear:
    """The linear layer that gives a network's scores: the last one that it registered.

    Raises:
        InputError: there is none.

    >>> last_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    Linear(in_features=3, out_features=2, bias=True)
    """
    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise InputError("this network has no torch.nn.Linear that gives its scores")
    return layers[-1]


def features_and_scores(
    network: nn.Module, images: Float[Tensor, "row *image"]
) -> tuple[Float[Tensor, "row feature"], Float[Tensor, "row classes"]]:
    """What a network's last layer gets, and its scores before softmax, both with gradients.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [found.shape[1] for found in features_and_scores(net, torch.ones(5, 1, 2, 2))]
    [3, 2]
    """
    with _heard(last_layer(network)) as heard:
        scores = network(images)
    return heard[-1], scores


@contextmanager
def _heard(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer is given from now on."""
    heard: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    try:
        yield heard
    finally:
        handle.remove()
