"""The stage that makes images of which nobody is asked: an ensemble says what they are.

What some students of the same answers think together is right more often than what each thinks
alone. A student can learn that from any number of images, and no answer is bought for it. It learns
most where the ensemble doubts, too, so of some candidates those are taken, as many of each class.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.config.settings import Synthesis, Training
from db3kd.data import TensorImages
from db3kd.data.stored import StoredImages
from db3kd.data.transfer_set import TransferSet
from db3kd.search.joint.surrogate import quick
from db3kd.seeds import derive_seed
from db3kd.stages.table import shards_of
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.networks import Shape, build, inference_batch, network_of
from db3kd.student.training import train
from db3kd.synthesis.acquisition import acquire, margin
from db3kd.synthesis.chosen import children, descendants, thoughts
from db3kd.synthesis.latent import Near
from db3kd.synthesis.pool import Pool

IMAGES = 60_000  # and such as were asked, together, where nobody says how many
OWN = ("chosen", "latent")  # ways that have such images; the literature's learn what they asked
STUDENTS, WIDER = 3, 2.0  # of the ensemble; and how much wider than those that choose
BATCH, PASSES, LEAST_STEPS, MOST_STEPS = 64, 20, 6000, 20_000  # of each of them
SHARD = 4096  # images that are kept together
MOST_BYTES = 2**31  # of all of them


def images_for(student: str, settings: Synthesis, shape: Shape, *, asked: int) -> int:
    """How many such images a student of a network learns from, beside so many that are asked.

    They are none for a network that is not the surrogate's: it may know better than three of these,
    and then they mislead it.

    >>> shape = (3, 32, 32)
    >>> [images_for("lenet5", Synthesis(), shape, asked=asked) for asked in (25_000, 100_000)]
    [35000, 0]
    >>> images_for("alexnet", Synthesis(), shape, asked=25_000)
    0
    """
    if settings.ensemble_labels is not None:
        return settings.ensemble_labels
    fits = settings.way in OWN and student == network_of(settings.surrogate, shape)
    return max(0, IMAGES - asked) if fits else 0


def invent(workspace: Workspace, pool: Pool, settings: Synthesis) -> None:
    """Teach the ensemble and make all images that settings want, but those there already; no query.

    They are fewer where 2 GiB do not hold them. Random by the run's seed.
    """
    count = min(
        settings.ensemble_labels or 0,
        MOST_BYTES // (math.prod(pool.shape) * pool.values.element_size()),
    )
    network, each = network_of(settings.surrogate, pool.shape), settings.candidates
    workspace.agree(
        "unasked",
        {"total": count, "size": SHARD, "price": 0, "network": network, "candidates": each},
    )
    pending = workspace.pending("unasked", count, SHARD)
    if not pending:
        return
    students = _ensemble(workspace, pool, network, settings.width)
    # More of what was asked, by the source that its way had.
    source = (
        descendants if pool.origins is None else Near(seed=derive_seed(workspace.seed, "unasked"))
    )

    def work(_: ReplayTeacher, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "unasked", shard))
        kept, soft = [], []
        for part in torch.split(rows, inference_batch(pool.shape)):
            wanted = len(part) * each
            made = source(pool, int(part[0]) * each, wanted, children(wanted), draw).images
            values, shown = pool.rounded(made)
            said = thoughts(students, shown)
            chosen = acquire(said, margin, len(part))
            kept.append(values[chosen].cpu())
            soft.append(_together(said[:, chosen]).cpu())
        return {"images": torch.cat(kept), "soft": torch.cat(soft)}, {}

    for shard in pending:
        rows = torch.arange(shard * SHARD, min(count, (shard + 1) * SHARD))
        workspace.shard("unasked", shard, rows, work, lambda used: None)
        workspace.progress("unasked", shard + 1, shards_of(count, SHARD), {})


def invented(workspace: Workspace, *, eight_bit: bool) -> TransferSet | None:
    """The images with what the ensemble says of them; None where none were wanted.

    Their soft labels are the ensemble's log-probabilities; they have no others.

    Raises:
        Damaged: a shard cannot be trusted.
    """
    settings, done = workspace.configuration("unasked"), workspace.done("unasked")
    if not settings or workspace.pending("unasked", settings["total"], settings["size"]):
        return None
    wanted = sorted(done)
    channels, height, width = workspace.configuration("synthesis")["shape"]
    soft = torch.cat([workspace.read(done[shard])["soft"] for shard in wanted])
    records, shape = [done[shard] for shard in wanted], (channels, height, width)
    stored = StoredImages.of(workspace.folder, records, shape, eight_bit=eight_bit)
    rows = torch.arange(len(soft))
    return TransferSet(stored, rows, soft.argmax(1), torch.full_like(rows, -1), soft)


def _ensemble(workspace: Workspace, pool: Pool, network: str, width: float) -> nn.ModuleList:
    """Students of all answers, from different first weights; kept once they are taught."""
    seeds = [derive_seed(workspace.seed, "ensemble", k) for k in range(STUDENTS)]
    made = [build(network, pool.shape, pool.classes, WIDER * width, seed=seed) for seed in seeds]
    students = nn.ModuleList(map(quick, made)).to(workspace.device)
    if workspace.recall("unasked", 0, students) == 0:
        return students
    rows = torch.arange(len(pool))
    known = TransferSet(TensorImages(pool.values), rows, pool.answers, pool.answers)
    steps = max(LEAST_STEPS, min(MOST_STEPS, PASSES * len(pool) // BATCH))
    for number, (student, seed) in enumerate(zip(students, seeds, strict=True)):

        def report(
            _: str, done: int, total: int, figures: Mapping[str, float], /, number: int = number
        ) -> None:
            workspace.progress("ensemble", number * total + done, STUDENTS * total, figures)

        training = Training(steps=steps, batch=BATCH)
        train(student, known, training, seed=seed, device=workspace.device, progress=report)
    workspace.keep("unasked", 0, students.eval())
    return students


def _together(said: Float[Tensor, "student row classes"]) -> Float[Tensor, "row classes"]:
    """The logarithm of the mean of all students' probabilities, given as logarithms, too."""
    return said.exp().mean(0).clamp_min(1e-6).log()
