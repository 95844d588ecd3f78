"""A module asked faster is the same function, and the module itself is left alone."""

import logging
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

from db3kd.student import networks
from db3kd.teachers import faster, torch_module
from db3kd.teachers.faster import AsWritten, agree, probes
from db3kd.teachers.rewrites import Maxima, channels_last, pool_before_relu

BOUNDS = (0.0, 1.0)


def noisy(net: nn.Module) -> nn.Module:
    """Batch normalisations that do something."""
    draw = torch.Generator().manual_seed(5)
    for part in net.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.1, generator=draw)
            part.running_var.uniform_(0.5, 1.5, generator=draw)
    return net.eval()


def lenet() -> nn.Module:
    return networks.build("lenet5", (1, 28, 28), 10, seed=1).eval()


def conv_net(*head: nn.Module, filters: int = 5) -> nn.Sequential:
    """For images of 1x8x8: 4 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        parts = head or (nn.Conv2d(1, filters, 3), nn.ReLU(), nn.MaxPool2d(2))
        flat = nn.Sequential(*parts, nn.Flatten())(torch.zeros(1, 1, 8, 8)).shape[1]
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(flat, 4)).eval()


def scores(net: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(images)


# The same function


@pytest.mark.parametrize(
    ("name", "shape", "width"), [("small", (1, 8, 8), 1.0), ("alexnet", (3, 32, 32), 0.25)]
)
def test_pools_alone_leave_every_bit_of_the_scores(
    name: str, shape: tuple[int, int, int], width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    net = noisy(networks.build(name, shape, 10, width, seed=0))
    way = faster.faster(net, shape, BOUNDS)
    assert way.what == "pool before ReLU, 2x2 pools as maxima"
    images = torch.rand(64, *shape, generator=torch.Generator().manual_seed(9))
    assert torch.equal(scores(way.net, images), scores(net, images))


def test_channels_last_leaves_all_but_rounding() -> None:
    net = lenet()
    way = faster.faster(net, (1, 28, 28), BOUNDS)
    assert way.what == "pool before ReLU, 2x2 pools as maxima, channels_last"
    images = torch.rand(300, 1, 28, 28, generator=torch.Generator().manual_seed(9))
    fast, written = scores(way.net, images), scores(net, images)
    torch.testing.assert_close(fast, written, rtol=0, atol=1e-6)
    assert torch.equal(fast.argmax(1), written.argmax(1))
    convolutions = [part for part in way.net.modules() if isinstance(part, nn.Conv2d)]
    assert [c.weight.stride()[1] for c in convolutions] == [1, 1]  # or it was not channels_last


@pytest.mark.parametrize("name", ["alexnet", "small"])
def test_with_avx2_whole_blocks_of_filters_are_channels_last_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    net = noisy(networks.build(name, (3, 32, 32), 10, 0.25, seed=0))
    way = faster.faster(net, (3, 32, 32), BOUNDS)
    assert way.what.endswith("channels_last")
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    fast, written = scores(way.net, images), scores(net, images)
    torch.testing.assert_close(fast, written, rtol=1e-4, atol=1e-5)
    assert torch.equal(fast.argmax(1), written.argmax(1))


def test_a_network_without_convolutions_is_left_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not channels_last(fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))))


def test_scores_do_not_depend_on_the_batch_but_for_rounding() -> None:
    way = faster.faster(lenet(), (1, 28, 28), BOUNDS)
    images = torch.rand(480, 1, 28, 28, generator=torch.Generator().manual_seed(9))
    whole = scores(way.net, images)
    for batch in (1, 16, 96, 240):
        parts = torch.cat([scores(way.net, part) for part in images.split(batch)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99)
)
def test_maxima_are_the_pool(rows: int, columns: int, channels: int, count: int, seed: int) -> None:
    images = torch.randn(
        count, channels, rows, columns, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(Maxima()(images), functional.max_pool2d(images, 2))
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(Maxima()(last), functional.max_pool2d(images, 2))


def test_maxima_let_numbers_that_are_none_through() -> None:
    images = torch.tensor([float("nan"), 1, 2, 3, 4, 5, 6, 7]).reshape(1, 1, 2, 4)
    assert Maxima()(images).isnan().tolist() == [[[[True, False]]]]


@settings(deadline=None)
@given(
    size=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    ceil=st.booleans(),
    dilation=st.integers(1, 2),
    inplace=st.booleans(),
)
def test_pool_and_relu_change_places(
    size: int, stride: int, padding: int, ceil: bool, dilation: int, inplace: bool
) -> None:
    pool = nn.MaxPool2d(size, stride, min(padding, size // 2), dilation, ceil_mode=ceil)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace), pool)
    graph = fx.symbolic_trace(net)
    assert pool_before_relu(graph) is not ceil  # rounding up is left alone
    graph.recompile()
    images = torch.randn(3, 1, 9, 7, generator=torch.Generator().manual_seed(size))
    assert torch.equal(scores(graph, images), scores(net, images))


class Functional(nn.Module):
    """As people write it: no modules for what has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 7, 3)
        self.last = nn.Linear(7, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.max_pool2d(functional.relu(self.first(images)), 2)
        hidden = functional.max_pool2d(self.second(hidden).relu(), kernel_size=(1, 1), stride=1)
        return functional.log_softmax(self.last(hidden.view(hidden.size(0), -1)), dim=1)


def test_functions_are_rewritten_as_modules_are() -> None:
    net = Functional().eval()
    images = torch.rand(40, 1, 8, 8)[:, :, :8, :8]
    net.second = nn.Conv2d(6, 7, 3)
    way = faster.faster(net, (1, 8, 8), BOUNDS)
    # 8x8 -> 6x6 -> 3x3 -> 1x1, so that `view` must cope with channels_last
    assert way.what == "pool before ReLU, 2x2 pools as maxima, channels_last"
    torch.testing.assert_close(scores(way.net, images), scores(net, images), rtol=0, atol=1e-6)
    order = [n.name for n in way.net.graph.nodes if "relu" in n.name or "max" in n.name]
    assert order == ["max_pool2d_maxima", "relu", "max_pool2d_1", "relu_1", "log_softmax"]


# What is left as written


class Counts(nn.Module):
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images


class Branches(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.mean() > 0.5 else -images


class Draws(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + torch.rand(1)


class DrawsByHand(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * random.uniform(-5, 5)


class DrawsAlike(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + torch.rand_like(images)


def hooked() -> nn.Module:
    net = conv_net()
    net[1].register_forward_hook(lambda *_: None)
    return net


def patched() -> nn.Module:
    net = conv_net()
    net[1].forward = lambda images: images  # type: ignore[method-assign]
    return net


def of_the_batch() -> nn.Module:
    return conv_net(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.ReLU())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (hooked, "hook"),
        (patched, "hook"),
        (of_the_batch, "may not be traced"),
        (lambda: conv_net().double(), "float32"),
        (lambda: nn.Sequential(Counts(), conv_net()).eval(), "notes"),
        (lambda: nn.Sequential(Branches(), conv_net()).eval(), "TraceError"),
        (lambda: nn.Sequential(Draws(), conv_net()).eval(), "may not be traced"),
        (lambda: nn.Sequential(DrawsAlike(), conv_net()).eval(), "may not be traced"),
        (lambda: nn.Sequential(DrawsByHand(), conv_net()).eval(), "not the same"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval(), "nothing to rewrite"),
        (lambda: nn.Sequential(conv_net(), nn.Linear(9, 4)).eval(), "RuntimeError"),
        (lambda: nn.Sequential(conv_net(), nn.Flatten(0)).eval(), "something else than"),
    ],
)
def test_what_a_graph_would_not_repeat_is_left_as_written(
    make: Callable[[], nn.Module], why: str
) -> None:
    net = make()
    way = faster.faster(net, (1, 8, 8), BOUNDS)
    assert way.net is net
    assert way.what.startswith("as written: ")
    assert why in way.what


def test_a_counter_counts_real_questions_only() -> None:
    count = Counts()
    teacher = torch_module(nn.Sequential(count, conv_net()), classes=4)
    teacher.labels(torch.rand(5, 1, 8, 8))
    assert count.calls == 1


def test_a_relu_that_others_look_at_stays_where_it_is() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.conv(images)
            return functional.max_pool2d(self.relu(hidden), 3, 1, 1) + hidden

    graph = fx.symbolic_trace(Both())
    assert not pool_before_relu(graph)


def test_a_relu_that_writes_into_the_images_stays_where_it_is() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2)))
    assert not pool_before_relu(graph)


def test_a_rewrite_that_changes_the_function_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_relu(net: fx.GraphModule) -> bool:
        for node in list(net.graph.nodes):
            if node.op == "call_module" and isinstance(net.get_submodule(node.target), nn.ReLU):
                node.replace_all_uses_with(node.args[0])
                net.graph.erase_node(node)
        return True

    monkeypatch.setattr(faster, "REWRITES", {"no ReLU": drop_relu})
    net = conv_net()
    way = faster.faster(net, (1, 8, 8), BOUNDS)
    assert (way.net, way.what.count("not the same")) == (net, 1)


# Golden numbers: the largest score is 10, so differences up to 1e-4 * 10 = 0.001 are rounding.
@pytest.mark.parametrize(
    ("row", "same"),
    [
        ([10.0, 9.0, 0.0], True),
        ([10.0009, 9.0, 0.0], True),
        ([10.002, 9.0, 0.0], False),
        ([10.0, 9.0], False),
        ([float("nan"), 9.0, 0.0], False),
    ],
)
def test_scores_agree_up_to_rounding(row: list[float], same: bool) -> None:
    assert agree(torch.tensor([row]), torch.tensor([[10.0, 9.0, 0.0]])) is same


def test_labels_may_differ_at_ties_only() -> None:
    tie = torch.tensor([[10.0, 10.0005]])
    assert agree(torch.tensor([[10.0004, 10.0003]]), tie)
    assert not agree((tie,), tie)
    assert not agree(torch.tensor([1]), torch.tensor([1]))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 6.0)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 1, 2), (3, 300, 300)])
def test_probes_fill_the_bounds_and_are_the_same_each_time(
    shape: tuple[int, int, int], bounds: tuple[float, float]
) -> None:
    images = probes(shape, bounds)
    assert images.shape == ((8 if shape[1] == 300 else 256), *shape)
    assert bounds[0] <= images.min() <= images.max() <= bounds[1]
    assert images.max() - images.min() > 0.8 * (bounds[1] - bounds[0])
    assert torch.equal(images, probes(shape, bounds))


def test_large_layers_are_asked_about_in_smaller_batches() -> None:
    # 64 x 32 x 32 values of 4 bytes are 2^18; 2^24 bytes hold 64 of them.
    wide = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert faster.faster(wide.eval(), (3, 32, 32), BOUNDS).batch == 64
    assert faster.faster(wide.eval(), (3, 128, 128), BOUNDS).batch == 16
    assert faster.faster(wide.eval(), (3, 8, 8), BOUNDS).batch == 256


# The teacher around it


def test_the_module_itself_is_left_alone() -> None:
    net = lenet()
    before = [(name, p, p.clone(), p.stride(), p._version) for name, p in net.named_parameters()]
    text = repr(net)
    torch_module(net, classes=10).labels(torch.rand(300, 1, 28, 28))
    assert repr(net) == text
    for (name, p), (old_name, old, values, stride, version) in zip(
        net.named_parameters(), before, strict=True
    ):
        assert (name, p.stride(), p._version, p.requires_grad) == (old_name, stride, version, True)
        assert p is old
        assert torch.equal(p, values)


def test_answers_are_those_of_the_module_as_written() -> None:
    images = torch.rand(700, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    net = lenet()
    fast, plain = torch_module(net, classes=10), torch_module(net, classes=10, fast=False)
    assert torch.equal(fast.labels(images), plain.labels(images))
    assert not fast.labels(images).is_inference()
    assert plain.chosen == "as written: fast=False; batches of 256"
    assert fast.chosen.endswith("channels_last; batches of 256")
    assert fast.chosen in repr(fast)


def test_the_choice_does_not_depend_on_what_is_asked_first() -> None:
    some, many = (torch_module(lenet(), classes=10) for _ in range(2))
    some.labels(torch.zeros(1, 1, 28, 28))
    many.labels(torch.rand(600, 1, 28, 28))
    assert some.chosen == many.chosen
    nothing = torch_module(lenet(), classes=10)
    assert nothing.chosen.startswith("nothing yet")


def test_the_users_batch_is_kept() -> None:
    teacher = torch_module(conv_net(), classes=4, batch=7)
    teacher.labels(torch.rand(20, 1, 8, 8))
    assert teacher.chosen.endswith("; batches of 7")


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    teacher = torch_module(conv_net(), classes=4)
    with caplog.at_level(logging.INFO, "db3kd"):
        for _ in range(3):
            teacher.labels(torch.rand(20, 1, 8, 8))
    assert [record.getMessage() for record in caplog.records] == [
        "torch module Sequential: pool before ReLU, 2x2 pools as maxima, channels_last;"
        " batches of 256"
    ]


def _flip(net: nn.Module) -> None:
    with torch.no_grad():
        net[0].weight.neg_()
        net[-1].weight.neg_()


def _load(net: nn.Module) -> None:
    net.load_state_dict({name: -weight for name, weight in net.state_dict().items()})


def _replace(net: nn.Module) -> None:
    net[0] = nn.Conv2d(1, 5, 3)


def _assign(net: nn.Module) -> None:
    net[0].weight.data = -net[0].weight.data


@pytest.mark.parametrize("change", [_flip, _load, _replace, _assign])
def test_changed_weights_are_noticed(change: Callable[[nn.Module], None]) -> None:
    net = conv_net()
    teacher = torch_module(net, classes=4)
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(4)) * 5
    before = teacher.labels(images)
    change(net)
    now = scores(net, images).argmax(1)
    assert torch.equal(teacher.labels(images), now)
    assert not torch.equal(before, now)  # or the test would say little
    assert "channels_last" in teacher.chosen


def test_images_of_another_shape_get_their_own_choice() -> None:
    net = conv_net(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2))
    teacher = torch_module(net, classes=4)
    for side in (8, 11, 8):
        images = torch.rand(9, 1, side, side)
        assert torch.equal(teacher.labels(images), scores(net, images).argmax(1))


def test_channels_last_needs_filters_that_fill_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not channels_last(fx.symbolic_trace(conv_net(filters=16)))
    assert channels_last(fx.symbolic_trace(conv_net(filters=17)))


def test_a_parameter_of_its_own_is_traced_and_a_constant_is_not() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0]))

        def forward(self, images: Tensor) -> Tensor:
            return images * self.scale

    assert "channels_last" in (
        faster.faster(nn.Sequential(Scaled(), conv_net()).eval(), (1, 8, 8), BOUNDS).what
    )
    with pytest.raises(AsWritten, match="may not be traced"):
        faster.traced(nn.Sequential(Draws(), conv_net()).eval())
