"""Ways of making pseudo samples without data, one file each, all with the interface `way.Way`."""

from collections.abc import Callable, Mapping

from db3kd.config.settings import Ways
from db3kd.synthesis.at_random import plain_noise, plain_shapes
from db3kd.synthesis.chosen import chosen_shapes
from db3kd.synthesis.latent import latent_shapes
from db3kd.synthesis.public import Public
from db3kd.synthesis.rivals.dfms import Dfms
from db3kd.synthesis.rivals.dip_kd import DipKd
from db3kd.synthesis.rivals.disguide import Disguide
from db3kd.synthesis.rivals.ideal import Ideal
from db3kd.synthesis.rivals.qedg import Qedg
from db3kd.synthesis.unrelated import Unrelated, doubtful
from db3kd.synthesis.way import Way

WAYS: Mapping[Ways, Callable[..., Way]] = {
    "chosen": chosen_shapes,
    "latent": latent_shapes,
    "shapes": plain_shapes,
    "noise": plain_noise,
    "dip_kd": DipKd,
    "ideal": Ideal,
    "qedg": Qedg,
    "dfms": Dfms,
    "disguide": Disguide,
    "public": Public,
    "unrelated": Unrelated,
    "unrelated_chosen": doubtful,
}
"""The ways by name. Each takes a `Task` and a keyword `seed`. "ascent" is a stage of its own."""

__all__ = ["WAYS", "Way"]
