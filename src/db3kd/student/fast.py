"""The form of a network that trains fastest on a CPU; it shares its weights with the network."""

import random

import torch
from torch import fx, nn

from db3kd.teachers.faster import AsWritten, traced
from db3kd.teachers.rewrites import BLOCK, channels_last_wins, convolutions, pool_before_relu

TRACES = 4  # in training and evaluation by turns, each with other random numbers


def fast_form(network: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Return the same function of the same weights, in the form that trains fastest on a CPU.

    Max-pools go before ReLU, and the kernels of convolutions are laid out channels last, where that
    wins. It halves the time of a step of LeNet-5; AlexNet and ResNet gain an eighth to a fifth with
    AVX2.
    Weights that this form learns are the network's own. `laid_out_plainly` tells their layout, and
    `plain_form` brings it back. A network that cannot be traced safely, would gain nothing, or is
    not `safe_channels_last`, is returned itself.

    Costs no query. Nothing is random.

    >>> from db3kd.student.networks import build
    >>> net, images = build("lenet5", (1, 28, 28), 10, seed=0), torch.ones(2, 1, 28, 28)
    >>> fast = fast_form(net)
    >>> torch.allclose(fast(images), net(images), atol=1e-5)
    True
    >>> next(fast.parameters()) is next(net.parameters())
    True
    """
    if torch.device(device).type != "cpu":
        return network
    if not (channels_last_wins(network) and safe_channels_last(network)):
        return network
    try:
        graph = _steady(network)
    except AsWritten:
        return network
    pool_before_relu(graph)
    graph.graph.lint()
    graph.recompile()
    return graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def safe_channels_last(network: nn.Module) -> bool:
    """Whether PyTorch can train a network on a CPU with this layout and keep to its own memory.

    PyTorch 2.13 with AVX2 cannot where a 1x1 convolution has a stride and fewer than 8 channels:
    the gradient of its weights is written beyond their end. Residual networks narrower than an
    eighth have such shortcuts. The limit here is 16, the block of AVX-512.

    >>> safe_channels_last(nn.Conv2d(6, 12, 1, stride=2)), safe_channels_last(nn.Conv2d(6, 12, 1))
    (False, True)
    """
    return not any(
        part.kernel_size == (1, 1) and part.stride != (1, 1) and part.in_channels < BLOCK
        for part in convolutions(network)
    )


def _steady(network: nn.Module) -> fx.GraphModule:
    """The graph of a network that does the same in training, in evaluation and at every call.

    Raises:
        AsWritten: it does not, or cannot be traced.
    """
    modes = [(part, part.training) for part in network.modules()]
    before, graphs = random.getstate(), []
    try:
        with torch.random.fork_rng(devices=[]):
            for number in range(TRACES):
                random.seed(number)
                torch.default_generator.manual_seed(number)
                graphs.append(traced(network.train(number % 2 > 0)))
                state = torch.get_rng_state()
                torch.default_generator.manual_seed(number)
                if not torch.equal(state, torch.get_rng_state()):
                    raise AsWritten("it draws at random")
    finally:
        random.setstate(before)
        for part, mode in modes:
            part.training = mode
    if len({graph.code for graph in graphs}) > 1:
        raise AsWritten("it is not the same at every call")
    return graphs[-1]


def laid_out_plainly(network: nn.Module) -> bool:
    """Whether all weights of a network are laid out as usual.

    >>> laid_out_plainly(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last))
    False
    """
    return all(weight.is_contiguous() for weight in network.parameters())


def plain_form(network: nn.Module) -> nn.Module:
    """Lay out the weights of a network as usual, in place, after it was trained in another form.

    >>> net = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    >>> plain_form(net).weight.is_contiguous()
    True
    """
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]
