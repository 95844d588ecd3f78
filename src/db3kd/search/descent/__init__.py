"""Ways of walking along the boundary towards the sample: one file for each, one interface."""

from db3kd.search.descent.ars_opt import ArsOpt
from db3kd.search.descent.cgba_h import CgbaH
from db3kd.search.descent.hop_skip_jump import HopSkipJump
from db3kd.search.descent.sign_opt import SignOpt
from db3kd.search.descent.subspace import Full, Smooth, Subspace, Sweep
from db3kd.search.descent.ttba import Ttba
from db3kd.search.descent.walk import Descent, Walk, descend

__all__ = [
    "ArsOpt",
    "CgbaH",
    "Descent",
    "Full",
    "HopSkipJump",
    "SignOpt",
    "Smooth",
    "Subspace",
    "Sweep",
    "Ttba",
    "Walk",
    "descend",
]
