import pytest
import torch
from torch import nn

from db3kd.errors import InputError
from db3kd.student import networks


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# LeNet-5, 28x28: 28 -> 24 -> 12 -> 8 -> 4, so 16 positions reach the linear layer.
# full: 20 (25 + 1) + 50 (20 * 25 + 1) + 200 (50 * 16 + 1) + 10 (200 + 1)
#       = 520 + 25050 + 160200 + 2010 = 187780.
# half: 10 * 26 + 25 * 251 + 100 * 401 + 10 * 101 = 260 + 6275 + 40100 + 1010 = 47645.
# 1/5:  4 * 26 + 10 * 101 + 40 * 161 + 10 * 41 = 104 + 1010 + 6440 + 410 = 7964.
def test_the_networks_of_others_have_their_published_numbers_of_weights() -> None:
    assert size(networks.lenet5_classic()) == 61_706
    assert size(networks.lenet5_classic((1, 32, 32))) == 61_706
    assert round(size(networks.alexnet_small()) / 1e6, 2) == 1.66


@pytest.mark.parametrize(("width", "expected"), [(1.0, 187780), (0.5, 47645), (0.2, 7964)])
def test_lenet5_parameters_by_hand(width: float, expected: int) -> None:
    assert size(networks.lenet5(width=width)) == expected


# AlexNet quarter, 32x32: filters 16, 48, 96, 64, 64 and hidden 1024 on 64 * 2 * 2 = 256 features.
# convolutions 9 (3*16 + 16*48 + 48*96 + 96*64 + 64*64) = 9 * 15664 = 140976,
# their normalisations 2 (16 + 48 + 96 + 64 + 64) = 576,
# linear 256 * 1024 + 1024 * 1024 + 2 * 2 * 1024 = 1314816, last 10 * 1025 = 10250.
def test_alexnet_parameters_by_hand() -> None:
    assert size(networks.alexnet(width=0.25)) == 140976 + 576 + 1314816 + 10250


def test_alexnet_pools_after_convolutions_1_2_and_5() -> None:
    # 32 pixels: 16 after the stride and 8 after the first pool, 4 after the second, 2 at the end.
    seen: list[tuple[int, ...]] = []
    network = networks.alexnet().eval()
    for part in network:
        if isinstance(part, nn.Conv2d | nn.Flatten):
            part.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    network(torch.zeros(1, 3, 32, 32))
    assert [shape[1:] for shape in seen] == [
        (3, 32, 32), (64, 8, 8), (192, 4, 4), (384, 4, 4), (256, 4, 4), (256, 2, 2)
    ]  # fmt: skip


def test_small_parameters_by_hand() -> None:
    # 16 * 10 + 32 * 145 + 64 (32 * 4 + 1) + 10 * 65 = 160 + 4640 + 8256 + 650.
    assert size(networks.small()) == 13706


# Published sizes of the ImageNet models (torchvision's model table).
@pytest.mark.parametrize(("depth", "expected"), [(18, 11689512), (34, 21797672), (50, 25557032)])
def test_resnet_parameters_are_the_published_ones(depth: int, expected: int) -> None:
    with torch.device("meta"):
        network = networks.resnet(depth, (3, 224, 224), 1000, stem="imagenet")
    assert size(network) == expected


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("small", (1, 4, 4), 1.0),
        ("small", (3, 9, 5), 0.01),
        ("lenet5", (1, 16, 16), 1.0),
        ("lenet5", (3, 32, 28), 0.5),
        ("lenet5_classic", (1, 16, 16), 1.0),
        ("lenet5_classic", (3, 32, 32), 0.5),
        ("alexnet_small", (3, 15, 18), 0.5),
        ("alexnet", (1, 15, 16), 0.1),
        ("alexnet", (3, 33, 47), 0.1),
        ("alexnet", (3, 111, 32), 0.05),
        ("alexnet", (3, 112, 130), 0.05),
        ("resnet18", (1, 8, 8), 0.1),
        ("resnet34", (3, 33, 9), 0.1),
        ("resnet50", (3, 32, 32), 0.1),
        ("resnet50", (3, 112, 112), 0.1),
    ],
)
def test_any_shape_gives_logits_and_gradients(
    name: str, shape: tuple[int, int, int], width: float
) -> None:
    network = networks.build(name, shape, 7, width, seed=0)
    logits = network(torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = networks.build("lenet5", (1, 28, 28), 10, 0.5, seed=5)
    torch.manual_seed(2)
    again = networks.build("lenet5", (1, 28, 28), 10, 0.5, seed=5)
    other = networks.build("lenet5", (1, 28, 28), 10, 0.5, seed=6)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    for a, b, c in pairs:
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_build_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    networks.build("small", (1, 8, 8), 10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_resnet_stem_follows_the_image_size() -> None:
    with torch.device("meta"):
        tiny = networks.build("resnet18", (3, 111, 224), 10, seed=0)
        large = networks.build("resnet18", (3, 112, 224), 10, seed=0)
    assert isinstance(tiny, networks.ResNet)
    assert isinstance(large, networks.ResNet)
    assert (tiny.conv1.kernel_size, tiny.conv1.stride) == ((3, 3), (1, 1))
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))


def test_resnet_names_and_shapes_are_torchvisions() -> None:
    # From torchvision's ResNet-50: names of the first block and of the last layer.
    with torch.device("meta"):
        state = networks.resnet(50, (3, 224, 224), 1000, stem="imagenet").state_dict()
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer4.0.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["layer3.5.bn3.running_var"].shape == (1024,)
    assert state["fc.weight"].shape == (1000, 2048)
    # 53 convolutions, 53 normalisations with five tensors each, one linear layer with two.
    assert len(state) == 53 + 53 * 5 + 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("lenet", "did you mean lenet5"), ("ResNet18", "did you mean resnet18"), ("", "known are")],
)
def test_an_unknown_name_shows_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        networks.build(name, (1, 28, 28), 10, seed=0)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("small", 3),
        ("lenet5", 15),
        ("lenet5_classic", 15),
        ("alexnet", 14),
        ("alexnet_small", 14),
        ("resnet18", 7),
    ],
)
def test_images_too_small_are_refused(name: str, side: int) -> None:
    with pytest.raises(InputError, match=f"{name} needs images of at least {side + 1}x"):
        networks.build(name, (1, 64, side), 10, seed=0)


@pytest.mark.parametrize(
    ("shape", "classes", "width"),
    [
        ((0, 8, 8), 10, 1.0),
        ((1, 8, 8), 1, 1.0),
        ((1, 8, 8), 10, 0.0),
        ((1, 8, 8), 10, float("nan")),
    ],
)
def test_sizes_that_are_none_are_refused(
    shape: tuple[int, int, int], classes: int, width: float
) -> None:
    with pytest.raises(InputError, match="must be"):
        networks.build("small", shape, classes, width, seed=0)


def test_other_depths_are_refused() -> None:
    with pytest.raises(InputError, match="18, 34 or 50"):
        networks.resnet(101, (3, 32, 32), 10)
