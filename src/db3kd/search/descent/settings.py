"""From settings to a way of walking and to the noise of its probes."""

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.config.settings import Search, Subspaces
from db3kd.search.descent import (
    ArsOpt,
    CgbaH,
    Descent,
    Full,
    HopSkipJump,
    SignOpt,
    Smooth,
    Subspace,
    Sweep,
    Ttba,
)
from db3kd.search.descent.walk import Noise
from db3kd.seeds import derive_seed


def descent_of(search: Search) -> Descent:
    """The way of walking that the settings name.

    >>> descent_of(Search()).patience
    20
    """
    match search.descent:
        case "sign_opt":
            return SignOpt(search.probes, search.step, search.tolerance, search.smoothing)
        case "hop_skip_jump":
            return HopSkipJump(search.probes)
        case "cgba_h":
            return CgbaH(search.probes)
        case "ttba":
            return Ttba(search.probes)
        case "ars_opt":
            return ArsOpt(search.probes)


def noise_of(search: Search, origin: Float[Tensor, "row *image"], seed: int) -> Noise:
    """The probes' noise from the subspace that the settings name; random, drawn from `seed`.

    >>> noise = noise_of(Search(subspace="dct"), torch.zeros(1, 1, 8, 8), 0)
    >>> torch.equal(noise(0, 0, 5), noise(0, 0, 5)), torch.equal(noise(0, 0, 5), noise(1, 5, 5))
    (True, False)
    """
    subspace, shape = _subspace(search.subspace), tuple(origin.shape[1:])

    def draw(number: int) -> torch.Generator:
        return torch.Generator(origin.device).manual_seed(derive_seed(seed, number))

    def noise(step: int, before: int, count: int) -> Tensor:
        return subspace.directions(step, before, count, shape, draw)

    return noise


def _subspace(name: Subspaces) -> Subspace:
    match name:
        case "full":
            return Full()
        case "dct" | "bilinear":
            return Smooth(name)
        case "sweep":
            return Sweep()
