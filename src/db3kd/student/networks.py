"""The networks of the paper, one definition with a width for each family, and a small network.

Inputs are images in [0, 1], without normalisation; `forward` returns logits. Weights are PyTorch's
defaults, drawn from the global generator. `build` draws them from a seed instead, and leaves the
global generator alone. Shapes are (channels, height, width).
"""

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.errors import InputError, plain

NAMES = (
    "small", "lenet5", "lenet5_classic", "alexnet", "alexnet_small",
    "resnet18", "resnet34", "resnet50",
)  # fmt: skip
"""The names that `build` knows."""

RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
LARGE_IMAGE = 112
"""From this many pixels on the shorter side, `build` gives a ResNet the 224-pixel stem."""

MOST_WIDTH, MOST_WEIGHTS = 1000, 2**31  # more weights than 8 GiB hold are a slip of the pen
SHOWN, NUMBERS = 512, 2**22  # images, and values, shown to a network at once, at most

Shape = tuple[int, int, int]
SMALLEST, SMALLEST_LENET = 4, 16  # pixels


def inference_batch(shape: tuple[int, ...]) -> int:
    """How many images of one shape to show to a network at once: 512, or fewer large ones.

    A network's activations grow with the image: for 512 images of 224 pixels they would take
    gigabytes.

    >>> inference_batch((1, 28, 28)), inference_batch((3, 224, 224))
    (512, 27)
    """
    return max(1, min(SHOWN, NUMBERS // math.prod(shape)))


def lenet5(shape: Shape = (1, 28, 28), classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Make LeNet-5 as in the authors' release: convolutions 20 and 50 (5x5), one layer of 200.

    Section 4.1. `width` 0.5 is the paper's "half" (10, 25, 100), 0.2 its "1/5" (4, 10, 40). Each
    convolution has no padding and is followed by ReLU and a 2x2 max-pool. The numbers are those of
    the release, from which the paper's students are made, and not those of the works that the paper
    cites (6, 16, 120, 84).

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: an image side is below 16 pixels, or a size is not positive.

    >>> sum(p.numel() for p in lenet5().parameters())
    187780
    """
    channels, height, side = _checked("lenet5", shape, classes, width, smallest=16)
    first, second, hidden = (_scaled(count, width) for count in (20, 50, 200))
    rows, columns = (((length - 4) // 2 - 4) // 2 for length in (height, side))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def lenet5_classic(
    shape: Shape = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Sequential:
    """Make LeNet-5 as most of the field has it: convolutions 6 and 16 (5x5), layers of 120 and 84.

    LeCun et al. (1998), with ReLU and max-pools. Images below 32 pixels get a margin of 2 pixels
    in the first convolution, so that 28 and 32 pixels end alike, in 16 maps of 5x5.

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: an image side is below 16 pixels, or a size is not positive.

    >>> sum(p.numel() for p in lenet5_classic().parameters())
    61706
    """
    channels, height, side = _checked("lenet5_classic", shape, classes, width, smallest=16)
    first, second, wide, narrow = (_scaled(count, width) for count in (6, 16, 120, 84))
    margin = 2 if min(height, side) < 32 else 0
    rows, columns = (((n + 2 * margin - 4) // 2 - 4) // 2 for n in (height, side))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=margin),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, wide),
        nn.ReLU(),
        nn.Linear(wide, narrow),
        nn.ReLU(),
        nn.Linear(narrow, classes),
    )


def alexnet_small(
    shape: Shape = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Sequential:
    """Make the "AlexNet" of 1.66 million weights that others distil on CIFAR-10 and SVHN.

    Convolutions of 48 and 128 filters (5x5), 192, 192 and 128 (3x3), each with batch normalisation
    and ReLU; 3x3 max-pools of stride 2 after the first, second and fifth bring 32x32 pixels to 15,
    7 and 3; then layers of 512 and 256. Filters and layers are as published; the sizes of kernels
    and pools are those that give the published number of weights.

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: an image side is below 15 pixels, or a size is not positive.

    >>> sum(p.numel() for p in alexnet_small().parameters())
    1656954
    """
    channels, height, side = _checked("alexnet_small", shape, classes, width, smallest=15)
    layers: list[nn.Module] = []
    sizes = [height, side]
    for index, (filters, kernel) in enumerate(((48, 5), (128, 5), (192, 3), (192, 3), (128, 3))):
        out = _scaled(filters, width)
        layers += [*_convolution(channels, out, kernel), nn.ReLU()]
        if index in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
            sizes = [(size - 3) // 2 + 1 for size in sizes]
        channels = out
    wide, narrow = _scaled(512, width), _scaled(256, width)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * sizes[0] * sizes[1], wide),
        nn.ReLU(),
        nn.Linear(wide, narrow),
        nn.ReLU(),
        nn.Linear(narrow, classes),
    )


def alexnet(shape: Shape = (3, 32, 32), classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Make the paper's small-image "AlexNet": five 3x3 convolutions, two layers of 4096.

    Section 4.1. The convolutions have 64, 192, 384, 256 and 256 filters and padding 1, the first
    has stride 2, and each is followed by batch normalisation and ReLU. 2x2 max-pools after the
    first, second and fifth reduce 32x32 pixels to 16, 8, 4 and 2x2. Then come, twice, dropout 0.5,
    a linear layer of 4096, batch normalisation and ReLU.

    `width` 0.5 and 0.25 are the paper's "half" and "quarter"; it scales all of these layers. Layers
    before a batch normalisation have no bias, since it would be subtracted again. From 111 pixels
    on, a mean over a 6x6 grid (as in the original AlexNet) keeps the first linear layer from
    growing with the image.

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: an image side is below 15 pixels, or a size is not positive.

    >>> sum(p.numel() for p in alexnet(width=0.25).parameters())
    1466618
    """
    channels, height, side = _checked("alexnet", shape, classes, width, smallest=15)
    layers: list[nn.Module] = []
    for index, filters in enumerate((64, 192, 384, 256, 256)):
        out = _scaled(filters, width)
        stride = 2 if index == 0 else 1
        layers += [*_convolution(channels, out, 3, stride=stride), nn.ReLU()]
        if index in (0, 1, 4):
            layers.append(nn.MaxPool2d(2))
        channels = out
    # Stride 2 with padding 1 rounds up; each of the three pools rounds down.
    rows, columns = (((length + 1) // 2) // 8 for length in (height, side))
    if max(rows, columns) > 6:
        rows, columns = min(rows, 6), min(columns, 6)
        layers.append(nn.AdaptiveAvgPool2d((rows, columns)))
    layers.append(nn.Flatten())
    features, hidden = channels * rows * columns, _scaled(4096, width)
    for inputs in (features, hidden):
        layers += [
            nn.Dropout(0.5),
            nn.Linear(inputs, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def small(shape: Shape = (1, 8, 8), classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Make a small network for tiny images: convolutions 16 and 32 (3x3), one layer of 64.

    Not in the paper. Each convolution has padding 1 and is followed by ReLU and a 2x2 max-pool. It
    suits images as small as 4x4 pixels, such as the 8x8 digits.

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: an image side is below 4 pixels, or a size is not positive.

    >>> sum(p.numel() for p in small().parameters())
    13706
    """
    channels, height, side = _checked("small", shape, classes, width, smallest=4)
    first, second, hidden = (_scaled(count, width) for count in (16, 32, 64))
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (side // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


class ResNet(nn.Module):
    """A residual network; `resnet` makes one.

    Layers are named as in torchvision, so that weights saved there fit by name.

    >>> [name for name, _ in resnet(18, (3, 32, 32), 10, width=0.125).named_children()]
    ['conv1', 'bn1', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4', 'fc']
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        classes: int,
        width: float,
        stem: Literal["cifar", "imagenet"],
    ) -> None:
        super().__init__()
        first = _scaled(64, width)
        large = stem == "imagenet"
        self.conv1, self.bn1 = _convolution(channels, first, 7 if large else 3, 2 if large else 1)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        stages, inputs = [], first
        for stage, blocks in enumerate(RESNET_BLOCKS[depth]):
            planes = _scaled(64 * 2**stage, width)
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Block(inputs, planes, stride, bottleneck=depth >= 50))
                inputs = planes * (4 if depth >= 50 else 1)
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)

    def forward(
        self, images: Float[Tensor, "row channels height width"]
    ) -> Float[Tensor, "row classes"]:
        """Return logits."""
        hidden = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        logits: Tensor = self.fc(hidden.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the planes, and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1, self.bn1 = _convolution(inputs, planes, 1)
            self.conv2, self.bn2 = _convolution(planes, planes, 3, stride)
            self.conv3, self.bn3 = _convolution(planes, outputs, 1)
        else:
            self.conv1, self.bn1 = _convolution(inputs, planes, 3, stride)
            self.conv2, self.bn2 = _convolution(planes, planes, 3)
        self.bottleneck = bottleneck
        self.downsample = (
            nn.Sequential(*_convolution(inputs, outputs, 1, stride))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, hidden: Tensor) -> Tensor:
        change = torch.relu(self.bn1(self.conv1(hidden)))
        change = self.bn2(self.conv2(change))
        if self.bottleneck:
            change = self.bn3(self.conv3(torch.relu(change)))
        return torch.relu(change + self.downsample(hidden))


def resnet(
    depth: int,
    shape: Shape,
    classes: int,
    width: float = 1.0,
    stem: Literal["cifar", "imagenet"] = "cifar",
) -> ResNet:
    """Make a ResNet of 18, 34 or 50 layers (He et al., 2016), with a stem for the image size.

    `stem` "cifar" is one 3x3 convolution with stride 1 and no pool, for images of about 32 pixels.
    "imagenet" is the original 7x7 with stride 2 and a max-pool, for about 224 pixels. `width`
    scales all convolutions.

    Weights are drawn from PyTorch's global generator.

    Raises:
        InputError: the depth or the stem is unknown; an image side is below 8 ("cifar") or 32
            ("imagenet") pixels, so that the last stage would see nothing but padding; or a size is
            not positive.

    >>> sum(p.numel() for p in resnet(18, (3, 224, 224), 1000, stem="imagenet").parameters())
    11689512
    """
    if depth not in RESNET_BLOCKS:
        raise InputError(f"a ResNet has 18, 34 or 50 layers here, got {depth}")
    if stem not in ("cifar", "imagenet"):
        raise InputError(f'stem must be "cifar" or "imagenet", got {stem!r}')
    smallest = 32 if stem == "imagenet" else 8
    channels, _, _ = _checked(f"resnet{depth}", shape, classes, width, smallest=smallest)
    return ResNet(depth, channels, classes, width, stem)


def build(name: str, shape: Shape, classes: int, width: float = 1.0, *, seed: int) -> nn.Module:
    """Make a network by name, with weights that depend on the seed alone.

    `name` is one of `NAMES`. A ResNet gets the 3x3 stem if the shorter side is below 112 pixels,
    and the 224-pixel stem otherwise; call `resnet` to choose. PyTorch's global generator is left as
    it was.

    Raises:
        InputError: the name is unknown (the text shows the nearest one), the function of that
            name raises it, or the network has more than 2^31 weights.

    >>> first, again = (build("small", (1, 8, 8), 10, seed=3) for _ in range(2))
    >>> torch.equal(first[0].weight, again[0].weight)
    True
    """
    check_network(name, shape, classes, width)
    with seeded(seed):
        return _named(name, shape, classes, width)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw weights from a seed, and leave PyTorch's global generator as it was.

    >>> with seeded(3):
    ...     first = torch.rand(1)
    >>> with seeded(3):
    ...     bool(torch.rand(1) == first)
    True
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed the generators of all GPUs.
        torch.default_generator.manual_seed(seed)
        yield


def _named(name: str, shape: Shape, classes: int, width: float) -> nn.Module:
    if name.startswith("resnet"):
        stem: Literal["cifar", "imagenet"] = (
            "imagenet" if min(shape[1:]) >= LARGE_IMAGE else "cifar"
        )
        return resnet(int(name.removeprefix("resnet")), shape, classes, width, stem)
    plain = {
        "small": small,
        "lenet5": lenet5,
        "lenet5_classic": lenet5_classic,
        "alexnet": alexnet,
        "alexnet_small": alexnet_small,
    }
    return plain[name](shape, classes, width)


def network_of(name: str, shape: Shape) -> str:
    """Return the name of a surrogate's network; "auto" chooses by the size of the images.

    >>> network_of("auto", (1, 28, 28)), network_of("auto", (1, 8, 8))
    ('lenet5', 'small')
    """
    if name != "auto":
        return name
    return "lenet5" if min(shape[1:]) >= SMALLEST_LENET else "small"


def check_network(name: str, shape: Shape, classes: int, width: float = 1.0) -> None:
    """Refuse what `build` would refuse, without drawing weights.

    Raises:
        InputError: as in `build`.

    >>> check_network("lenet5", (1, 8, 8), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: lenet5 needs images of at least 16x16 pixels, got 8x8; ...
    """
    blueprint(name, shape, classes, width)


def blueprint(name: str, shape: Shape, classes: int, width: float = 1.0) -> nn.Module:
    """Make a network by name without weights, on the device "meta"; takes no memory.

    Raises:
        InputError: as in `build`.

    >>> blueprint("small", (1, 8, 8), 10)[0].weight.device
    device(type='meta')
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMES)}"
        raise InputError(f"unknown network {plain(name, 60)!r}; {advice}")
    with torch.device("meta"):
        network = _named(name, shape, classes, width)
    weights = sum(part.numel() for part in network.parameters())
    if weights > MOST_WEIGHTS:
        raise InputError(
            f"{name} of width {width:g} has {weights:,} weights for images of {shape} and"
            f" {classes:,} classes, more than {MOST_WEIGHTS:,}; make it narrower, or the images"
            " smaller"
        )
    return network


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Make a convolution that changes the size only by its stride, and a batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def _scaled(count: int, width: float) -> int:
    """Scale a number of filters or units; the result is at least one."""
    return max(1, round(count * width))


def _checked(name: str, shape: Shape, classes: int, width: float, *, smallest: int) -> Shape:
    """Return the shape; refuse it if no network can be made for it."""
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape must be (channels, height, width), each at least 1, got {shape}")
    if min(shape[1:]) < smallest:
        raise InputError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, got"
            f' {shape[1]}x{shape[2]}; enlarge them, or choose "small" (from 4x4)'
        )
    if classes < 2:
        raise InputError(f"classes must be at least 2, got {classes}")
    if not 0 < width <= MOST_WIDTH:
        raise InputError(
            f"width must be a number above 0, and at most {MOST_WIDTH:,}, got {width:g}"
        )
    return shape
