"""Exact rewrites of a network's graph: each changes the graph in place and says whether it did."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

POOLS: tuple[Callable[..., Any], ...] = (functional.max_pool2d, torch.max_pool2d)
RELUS: tuple[Callable[..., Any], ...] = (functional.relu, torch.relu)
BLOCK = 16  # channels that a kernel of AVX-512 takes at a time


class Maxima(nn.Module):
    """A 2x2 max-pool with stride 2: the largest of each two rows, then of each two columns.

    >>> Maxima()(torch.arange(10.0).reshape(1, 1, 2, 5))
    tensor([[[[6., 8.]]]])
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the maxima, a last odd row or column left out."""
        rows = torch.maximum(images[:, :, 0 : images.shape[2] - 1 : 2], images[:, :, 1::2])
        return torch.maximum(rows[..., 0 : rows.shape[3] - 1 : 2], rows[..., 1::2])


def pool_before_relu(net: fx.GraphModule) -> bool:
    """Let every max-pool that follows a ReLU, and it alone, go before it."""
    found = False
    for pool in list(net.graph.nodes):
        relu = pool.args[0] if pool.args else None
        if _pool(net, pool) is None or not isinstance(relu, fx.Node) or not _is_relu(net, relu):
            continue
        before = relu.args[0]
        # Who else looks at either would see another value; a ReLU may also write in place.
        if len(relu.users) > 1 or not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        if before.op == "placeholder":
            continue
        pool.replace_all_uses_with(relu)
        pool.replace_input_with(relu, before)
        relu.replace_input_with(before, pool)
        pool.append(relu)
        found = True
    return found


def maxima(net: fx.GraphModule) -> bool:
    """Replace 2x2 max-pools with stride 2 by maxima."""
    found = False
    for pool in list(net.graph.nodes):
        if _pool(net, pool) not in ((2, 2, 0, 1), ((2, 2), (2, 2), 0, 1)):
            continue
        net.add_submodule(pool.name + "_maxima", Maxima())
        with net.graph.inserting_before(pool):
            instead = net.graph.call_module(pool.name + "_maxima", (pool.args[0],))
        pool.replace_all_uses_with(instead)
        net.graph.erase_node(pool)
        found = True
    return found


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a network.

    >>> convolutions(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    [Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))]
    """
    return [part for part in net.modules() if isinstance(part, nn.Conv2d)]


def channels_last_wins(net: nn.Module) -> bool:
    """Whether a CPU is faster where the weights of convolutions are laid out channels last.

    That is with AVX2, and elsewhere if one has filters that fill no whole blocks.

    >>> channels_last_wins(nn.Sequential(nn.Conv2d(1, 20, 5))), channels_last_wins(nn.Linear(2, 2))
    (True, False)
    """
    filters = [part.out_channels for part in convolutions(net)]
    whole = all(count % BLOCK == 0 for count in filters)
    return bool(filters) and (not whole or torch.backends.cpu.get_cpu_capability() == "AVX2")


def channels_last(net: fx.GraphModule) -> bool:
    """Give the convolutions a channels_last weight where the CPU is faster with it."""
    if not channels_last_wins(net):
        return False
    for part in convolutions(net):
        weight = part.weight.detach().to(memory_format=torch.channels_last)
        part.weight = nn.Parameter(weight, requires_grad=False)
    for node in net.graph.nodes:
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"  # the same, and it does not mind the order in memory
    return True


REWRITES: dict[str, Callable[[fx.GraphModule], bool]] = {
    "pool before ReLU": pool_before_relu,
    "2x2 pools as maxima": maxima,
    "channels_last": channels_last,
}


def _pool(net: fx.GraphModule, node: fx.Node) -> tuple[Any, ...] | None:
    """Window, stride, padding and dilation of a max-pool that rounds down; None for other nodes."""
    if node.op == "call_module":
        part = net.get_submodule(str(node.target))
        if type(part) is not nn.MaxPool2d or part.return_indices or part.ceil_mode:
            return None
        return part.kernel_size, part.stride, part.padding, part.dilation
    if node.op == "call_function" and node.target in POOLS:
        given = dict(zip(("size", "stride", "padding", "dilation"), node.args[1:], strict=False))
        given |= {{"kernel_size": "size"}.get(k, k): v for k, v in node.kwargs.items()}
        if given.get("ceil_mode") or given.get("return_indices") or len(node.args) > 5:
            return None
        stride = given.get("stride") or given["size"]
        return given["size"], stride, given.get("padding", 0), given.get("dilation", 1)
    return None


def _is_relu(net: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(net.get_submodule(str(node.target))) is nn.ReLU
    if node.op == "call_method":
        return node.target == "relu"
    return node.op == "call_function" and node.target in RELUS
