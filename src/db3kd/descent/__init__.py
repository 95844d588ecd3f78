"""Ways of walking along the boundary towards the sample: one file for each, one interface."""

from db3kd.descent.sign_opt import SignOpt
from db3kd.descent.walk import Descent, Walk, descend

__all__ = ["Descent", "SignOpt", "Walk", "descend"]
