"""A few images beside their nearest point of another class, kept for a reader's eyes."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.search.robustness import RobustnessMap
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.storage.shards import write_shard

SHOWN = 6  # images of a run, at even distances
MOST_BYTES = 2**28  # of the points of a shard; where there are more, none are kept


def wanted(shard: int, shards: int) -> int:
    """How many images of a shard are kept with their nearest points.

    >>> [wanted(shard, 3) for shard in range(3)], wanted(0, 1)
    ([2, 2, 2], 6)
    """
    count = min(shards, SHOWN)
    chosen = {place * (shards - 1) // max(1, count - 1) for place in range(count)}
    return SHOWN // count if shard in chosen else 0


def keep_nearest(
    workspace: Workspace,
    shard: int,
    count: int,
    found: RobustnessMap,
    origin: Float[Tensor, "sample *image"],
    points: Callable[[Tensor, Tensor], Float[Tensor, "row *image"]],
) -> Json:
    """Keep `count` images of a shard with their nearest points, in half precision.

    `points` gives the points of some images, on the way to one class each. Returns what the journal
    says of the file; nothing where no image has a point. Costs no query. Nothing is random.

    Raises:
        RunError: the file cannot be written.
    """
    apart = found.distance.clone()
    apart[torch.arange(len(apart)), found.teacher_labels] = torch.inf
    distance, other = apart.min(dim=1)
    there = distance.isfinite().nonzero()[:, 0]
    if not len(there):
        return {}
    rows = there[torch.linspace(0, len(there) - 1, min(count, len(there))).long()]
    tensors = {
        "image": origin[rows].half(),
        "point": points(rows, other[rows]).half(),
        "own": found.teacher_labels[rows].to(torch.int32),
        "other": other[rows].to(torch.int32),
        "distance": distance[rows],
    }
    file = f"{workspace.named('distances')}/nearest-{shard:05}.safetensors"
    return {"nearest": {"file": file, "sha256": write_shard(workspace.folder / file, tensors)}}
