"""Devices that can really be computed on."""

import warnings

import torch

from db3kd.errors import InputError, plain


def check_device(name: str) -> None:
    """Refuse a device unless a small sum can be made on it and read back.

    Raises:
        InputError: PyTorch does not know it, it is not in this machine, or it holds no values.

    >>> check_device("cpu"); check_device("meta")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: device 'meta' cannot be used here (...); set device to "cpu", ...
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of drivers; the sentence below says enough
            found = torch.ones(2, device=torch.device(name)).sum().item()
    except Exception as error:  # of any backend
        reason = plain(plain(error).partition(". ")[0].partition(" (")[0], 120)
        reason = "PyTorch fails on it" if "INTERNAL ASSERT" in reason else reason
        raise InputError(
            f'device {plain(name, 40)!r} cannot be used here ({reason}); set device to "cpu", or'
            " to one that is there"
        ) from None
    if found != 2:
        raise InputError(f"device {plain(name, 40)!r} computes wrongly: 1 + 1 is {found} there")
