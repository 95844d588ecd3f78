"""Devices that can really be computed on."""

import warnings

import torch

from db3kd.errors import InputError, plain


def usable_device(name: str) -> str:
    """Return the name of a device that can be computed on.

    "auto" is an NVIDIA GPU ("cuda") or an Apple one ("mps") if there is one, and otherwise "cpu".

    Raises:
        InputError: PyTorch does not know it, it is not in this machine, or it holds no values.

    >>> usable_device("cpu")
    'cpu'
    >>> usable_device("gpu")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: device 'gpu' is no name of PyTorch's; say "cuda" (NVIDIA), "mps" ...
    """
    if name == "auto":
        return next((some for some in ("cuda", "mps") if not _fault(some)), "cpu")
    if name.partition(":")[0] in ("gpu", "nvidia", "apple", "metal"):
        raise InputError(
            f'device {plain(name, 40)!r} is no name of PyTorch\'s; say "cuda" (NVIDIA), "mps"'
            ' (Apple), or "auto"'
        )
    fault = _fault(name)
    if fault:
        raise InputError(
            f'device {plain(name, 40)!r} cannot be used here ({fault}); set device to "cpu" or'
            ' "auto", or to one that is there'
        )
    return name


def _fault(name: str) -> str:
    """Why no small sum can be made on a device and read back; "" if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of drivers; the sentence says enough
            found = torch.ones(2, device=torch.device(name)).sum().item()
    except Exception as error:  # of any backend
        reason = plain(plain(error).partition(". ")[0].partition(" (")[0], 120)
        return "PyTorch fails on it" if "INTERNAL ASSERT" in reason else reason
    return "" if found == 2 else f"it computes wrongly: 1 + 1 is {found} there"
