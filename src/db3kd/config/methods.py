"""What a student can learn from, and what each method needs."""

from typing import Literal

Metric = Literal["sd", "bd", "mbd"]
Use = Literal["ce", "grown", "mbd"]
"""What answers beside the images' own can go to: nothing, new images, or distances."""
Method = Literal["auto", "ce", "sd", "bd", "mbd", "grown", "mixed", "pseudo", "pseudo_mbd"]
"""What a student learns from: the own images with their answers alone ("ce") or with soft labels by
a metric; "grown": as "ce", and grown images; "mixed": as "mbd", and grown images; "auto": "grown"
or "mbd", as a trial decides (`Spend`). Without own images: "pseudo", pseudo samples with their
answers (`Synthesis`), or "pseudo_mbd", with soft labels by distance."""


def metric_of(method: Method) -> Metric | None:
    """The metric whose soft labels a student of this method learns from; None where it has none.

    >>> metric_of("grown"), metric_of("mixed"), metric_of("sd")
    (None, 'mbd', 'sd')
    """
    match method:
        case "auto" | "ce" | "grown" | "pseudo" | "pseudo_mbd":
            return None
        case "mixed":
            return "mbd"
    return method


def is_grown(method: Method) -> bool:
    """Whether a student of this method learns from grown images too.

    >>> is_grown("mixed"), is_grown("mbd")
    (True, False)
    """
    return method in ("grown", "mixed")


def is_pseudo(method: Method) -> bool:
    """Whether a student of this method learns from pseudo samples, and from no own images.

    >>> is_pseudo("pseudo_mbd"), is_pseudo("grown")
    (True, False)
    """
    return method in ("pseudo", "pseudo_mbd")
