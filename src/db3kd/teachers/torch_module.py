"""A torch module as a teacher."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from db3kd.errors import TeacherError
from db3kd.teacher import Teacher
from db3kd.teachers.function import check_kind, function

CPU_BATCH, GPU_BATCH = 256, 8192  # on 2 cores 200 to 256 is fastest; 1,024 loses a quarter


def torch_module(
    module: nn.Module,
    *,
    classes: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int | None = None,
    device: str | torch.device | None = None,
) -> Teacher:
    """Hide a torch module that returns scores behind the label-only door.

    The module is put into evaluation mode and moved to `device` (None: where it is). It takes
    float32 images (row, channel, height, width) and returns scores (row, classes); only their
    argmax leaves.
    `batch` images are asked at once (None: 256 on a CPU, 8,192 on a GPU).

    Raises:
        InputError: fewer than two classes, or empty bounds.
        TeacherError: when asked, if the module fails, or its scores are not numbers or misshapen.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> torch_module(net, classes=3).labels(torch.zeros(2, 1, 2, 2)).shape
    torch.Size([2])
    """
    check_kind(classes, bounds)
    module.eval()
    if device is not None:
        module.to(device)
    place = next((p.device for p in module.parameters()), torch.device("cpu"))
    batch = batch or (GPU_BATCH if place.type == "cuda" else CPU_BATCH)

    def ask(images: Float[Tensor, "row *image"]) -> Int[Tensor, " row"]:
        with torch.inference_mode():
            scores = module(images.to(place))
            if not isinstance(scores, Tensor) or scores.shape != (len(images), classes):
                got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise TeacherError(
                    f"the module returned {got} for {len(images)} images;"
                    f" scores of shape ({len(images)}, {classes}) are expected"
                )
            if torch.isnan(scores).any():
                raise TeacherError("the module returned scores that are not a number")
            return scores.argmax(1)

    return function(ask, classes=classes, bounds=bounds, batch=batch)
