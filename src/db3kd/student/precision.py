"""Where training in bfloat16 is faster and safe."""

import torch
from torch import nn

from db3kd.teachers.rewrites import BLOCK, convolutions


def mixed_on(device: torch.device, network: nn.Module) -> bool:
    """Whether to compute a training's forward and backward passes in bfloat16 on a device.

    On an NVIDIA GPU always. On a CPU if it has instructions for it, and the network's convolutions
    fill its blocks of 16 channels, as in AlexNet and ResNets; LeNet-5 gains nothing. The same
    machine always decides alike, so that a training continues as it began.

    >>> mixed_on(torch.device("cpu"), nn.Linear(2, 2))
    False
    """
    if device.type == "cuda":
        return True
    filters = [part.out_channels for part in convolutions(network)]
    wide = bool(filters) and all(count % BLOCK == 0 for count in filters)
    return device.type == "cpu" and wide and _has_bfloat16()


def _has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
