"""The same torch module, asked faster: exact rewrites of its graph, verified before they are taken.

Everything is chosen by rule (kind of processor, structure of the network, shape of images), never
by a race against the clock: two processes of a machine choose alike, so a run that was killed goes
on with the answers it would have had. The rules, with what was measured on 2 cores:

- *Pool before ReLU.* ReLU is monotone, so the largest of a window and ReLU change places. Scores
  are the same bits, and ReLU has a quarter of the work.
- *Maxima for 2x2 pools.* `torch.maximum` of strided views, where a pool also looks for the place of
  each maximum. Same bits; three to four times as fast.
- *channels_last*, with AVX2, and elsewhere where a convolution's filters are no multiple of 16. The
  kernels of AVX-512 take 16 channels at a time and pad the rest in their own layout. LeNet-5 (20
  and 50 filters) doubles its rate; AlexNet and ResNet-18 gain 30 and 20 % with AVX2, nothing with
  AVX-512. Sums are taken in another order: scores differ by rounding.
- *Micro-batches* of 256, fewer where a layer is so large that they would leave the caches. Scores
  were the same bits for all sizes from 16 on, where it was measured.

Left out: batch normalisation folded into convolutions (another rounding for less than 5 %),
freezing and ONNX Runtime (slower than the above), torch.compile (no faster, and it starts with a
compiler), OpenVINO (`docs/design/2026-11-30-openvino-or-rewrites.md`). On a GPU nothing has been
measured yet; modules there are asked as written.
"""

import copy
import itertools
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from db3kd.teachers.rewrites import POOLS, RELUS, REWRITES

CPU_BATCH = 256  # 200 to 256 is fastest; 1,024 loses a quarter as written
LEAST_BATCH = 16  # below, the kernels round otherwise
CACHE = 2**24  # bytes that one layer's values may take in a micro-batch
PROBES = 256  # images that the verification shows, at most; fewer where they are large
PROBE_PIXELS = 2**18
TOLERANCE = 1e-4  # of the largest score: far above rounding, far below another function

PURE_NAMES: tuple[tuple[Any, str], ...] = (
    (torch, "add cat div flatten log_softmax mean mul reshape sigmoid softmax sub tanh"),
    (functional, "adaptive_avg_pool2d avg_pool2d gelu leaky_relu linear log_softmax silu softmax"),
    (operator, "add floordiv getitem iadd mul sub truediv"),
    (Tensor, "add contiguous dim flatten log_softmax mean mul permute relu reshape sigmoid size"),
    (Tensor, "softmax squeeze tanh transpose unsqueeze view"),
)
PURE = {getattr(home, name) for home, names in PURE_NAMES for name in names.split()}
"""Functions without a state, a draw or a trace outside; a graph of others is left as it is."""


class AsWritten(Exception):
    """The module is better asked as it was written; says why."""


@dataclass(frozen=True)
class Variant:
    """One way to ask a module: what to call, how many images at once, and what was done to it."""

    net: nn.Module
    batch: int
    what: str


def faster(module: nn.Module, shape: tuple[int, ...], bounds: tuple[float, float]) -> Variant:
    """Find the fastest known way to ask the very same function on a CPU.

    `module` is in evaluation mode and left as it is: a copy is traced and rewritten, weights are
    shared but for those of channels_last convolutions. It is shown at most 2 x 256 images of noise
    within the bounds, of the given shape (channels, height, width); they are drawn from a seed of
    their own and are no queries. Without a rewrite that fits, or where scores differ by more than
    rounding, the variant is the module as written and says why.

    >>> net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2),
    ...                     nn.Flatten(), nn.Linear(45, 3)).eval()
    >>> faster(net, (1, 8, 8), (0.0, 1.0)).what
    'pool before ReLU, 2x2 pools as maxima, channels_last'
    """
    try:
        return _rewritten(module, shape, bounds)
    except AsWritten as reason:
        return Variant(module, CPU_BATCH, f"as written: {reason}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of the module on noise; or a module stranger than was foreseen
        return Variant(module, CPU_BATCH, f"as written: {type(error).__name__} on the way")


def _rewritten(module: nn.Module, shape: tuple[int, ...], bounds: tuple[float, float]) -> Variant:
    if len(shape) != 3:
        raise AsWritten("its inputs are no images")
    graph = traced(module)
    swaps = [name for name, rewrite in REWRITES.items() if rewrite(graph)]
    graph.graph.lint()
    graph.recompile()
    images = probes(shape, bounds)
    widest = _Widest(graph)
    with torch.inference_mode():
        widest.run(images[:1])
        batch = max(LEAST_BATCH, min(CPU_BATCH, CACHE // (4 * widest.most)))
        if not swaps:
            return Variant(module, batch, "as written: nothing to rewrite")
        written = module(images)
        if not isinstance(written, Tensor) or written.ndim != 2:
            raise AsWritten("it returns something else than (row, classes)")
        if not agree(graph(images), written):
            raise AsWritten("its scores are not the same after rewriting")
    return Variant(graph, batch, ", ".join(swaps))


def agree(scores: object, written: object) -> bool:
    """Whether two answers are one function's, but for rounding; labels may differ at ties only.

    >>> agree(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.000001]]))
    True
    >>> agree(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.1]]))
    False
    """
    if not isinstance(scores, Tensor) or not isinstance(written, Tensor):
        return False
    if scores.shape != written.shape or scores.ndim != 2 or not written.is_floating_point():
        return False
    if not bool(written.isfinite().all()):
        return torch.equal(scores, written)
    near = TOLERANCE * written.abs().amax(1)
    if not bool(((scores - written).abs().amax(1) <= near).all()):  # false for what is not a number
        return False
    first, second = written.topk(2, dim=1).values.unbind(1) if written.shape[1] > 1 else (near, 0)
    differ = scores.argmax(1) != written.argmax(1)
    return not bool((differ & (first - second > 2 * near)).any())


def probes(shape: tuple[int, ...], bounds: tuple[float, float]) -> Tensor:
    """Images to compare two networks on: noise, fine and smooth, of full and of faint contrast.

    >>> images = probes((1, 8, 8), (-1.0, 1.0))
    >>> len(images), bool(images.min() < -0.9), bool(images.abs().max() <= 1)
    (256, True, True)
    """
    generator = torch.Generator().manual_seed(0)
    count = max(8, min(PROBES, PROBE_PIXELS // torch.Size(shape).numel()))
    fine = torch.rand(count, *shape, generator=generator)
    coarse = torch.rand(count // 2, shape[0], 4, 4, generator=generator)
    fine[::2][: len(coarse)] = functional.interpolate(coarse, shape[1:], mode="bilinear")
    contrast = torch.rand(count, 1, 1, 1, generator=generator)
    centre = torch.rand(count, 1, 1, 1, generator=generator)
    images = (centre + (fine - centre) * contrast.sqrt()).clamp_(0, 1)
    return images * (bounds[1] - bounds[0]) + bounds[0]


# From a module to its graph


def traced(module: nn.Module) -> fx.GraphModule:
    """Trace a copy of the module.

    Raises:
        AsWritten: the module does something that the graph would not repeat, or cannot be traced.
    """
    for part in module.modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            raise AsWritten("a hook is registered")
    tensors = list(itertools.chain(module.parameters(), module.buffers()))
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in tensors):
        raise AsWritten("its weights are not float32")
    try:
        twin = copy.deepcopy(module, {id(t): t for t in tensors})  # the weights are shared
        graph = fx.Tracer().trace(twin)
    except Exception as error:
        raise AsWritten(f"it cannot be traced ({type(error).__name__})") from error
    if _notes(twin) != _notes(module):
        raise AsWritten("it keeps notes of its calls")
    known = {name for name, _ in itertools.chain(module.named_parameters(), module.named_buffers())}
    for node in graph.nodes:
        _check(node, twin, known)
    return fx.GraphModule(twin, graph)


def _check(node: fx.Node, net: nn.Module, known: set[str]) -> None:
    """Raise AsWritten unless the graph repeats all that this step does."""
    if node.op == "call_module":
        part = net.get_submodule(str(node.target))
        pure = type(part).__module__.startswith("torch.nn.modules.")
        pure = pure and getattr(part, "running_mean", part) is not None  # of the batch, otherwise
    elif node.op == "call_function":
        shape = node.target is getattr and node.args[1] in ("shape", "ndim")
        pure = shape or node.target in (*POOLS, *RELUS, *PURE)
    elif node.op == "call_method":
        pure = getattr(Tensor, str(node.target), None) in PURE
    elif node.op == "get_attr":
        pure = str(node.target) in known
    else:
        pure = node.op in ("placeholder", "output")
    if not pure:
        raise AsWritten(f"{node.name} may not be traced")


def _notes(module: nn.Module) -> list[dict[str, str]]:
    """What the parts of a module keep besides weights: counters, lists, settings."""
    plain = (bool, int, float, str, list, dict, tuple)
    return [
        {k: repr(v) for k, v in vars(part).items() if k[0] != "_" and isinstance(v, plain)}
        for part in module.modules()
    ]


class _Widest(fx.Interpreter):
    """Runs a graph and remembers the largest number of values that a step returned."""

    most = 1

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.most = max(self.most, result.numel())
        return result
