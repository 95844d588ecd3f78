"""The stage of ensemble labels: new images, labelled by an ensemble of students for no query.

Several students of the same answers are right more often together than each of them alone, and
more so if they err differently: each is trained by another optimiser. A student can learn from
their common answer on any number of images. It learns most where even the ensemble is unsure. So
the images are those of some candidates with the smallest margin, with equal numbers of every class.
The books call this stage "unasked".
"""

import math
from collections.abc import Callable, Mapping

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.config.settings import Optimiser, Synthesis, Training
from db3kd.data.stored import StoredImages
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.stages.formats import mixes_optimisers
from db3kd.stages.table import shards_of
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.student.fast import fast_form
from db3kd.student.networks import Shape, build, inference_batch, network_of
from db3kd.student.optimisers import suits_sgd
from db3kd.student.steps import steps_of
from db3kd.student.training import train
from db3kd.synthesis.acquisition import acquire, margin
from db3kd.synthesis.chosen import Source, children, descendants, thoughts
from db3kd.synthesis.pool import Pool

IMAGES = 60_000  # with those that were asked, without `Synthesis.ensemble_labels`
OWN = ("chosen", "latent", "public")  # ways with ensemble labels; those of the literature have none
OPTIMISERS: tuple[Optimiser, ...] = ("muon", "sgd", "adamw")  # one student of the ensemble by each
DEEP: tuple[Optimiser, ...] = ("muon", "adamw", "muon")  # of networks that SGD does not suit
EARLIER: tuple[Optimiser, ...] = ("muon", "muon", "muon")  # in folders of earlier formats
STUDENTS, WIDER = len(OPTIMISERS), 2.0  # of the ensemble; how much wider than those that choose
LESSON, LEAST_STEPS, MOST_STEPS = Training(batch=64), 500, 20_000  # of each student
SHARD = 4096  # images in one file
MOST_BYTES = 2**31  # of all images together


def images_for(student: str, settings: Synthesis, shape: Shape, *, asked: int) -> int:
    """How many images with ensemble labels a student of a network learns from.

    They come in addition to `asked` pseudo samples. A network other than the surrogate's gets none:
    it may know better than the ensemble, whose labels would then mislead it.

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


def kept_images(wanted: int, shape: Shape, value_bytes: int) -> int:
    """How many images of a shape get ensemble labels: as many as wanted, if 2 GiB hold them.

    >>> kept_images(35_000, (3, 32, 32), 1), kept_images(35_000, (3, 224, 224), 1)
    (35000, 14266)
    """
    return min(wanted, MOST_BYTES // (math.prod(shape) * value_bytes))


def lesson_steps(asked: int) -> int:
    """How many steps each student of the ensemble is trained, after this many answers.

    Half of a student's: after more, the ensemble is too sure of what it says.

    >>> lesson_steps(5_000), lesson_steps(60_000)
    (707, 2449)
    """
    return max(LEAST_STEPS, min(MOST_STEPS, steps_of(LESSON, asked) // 2))


def invent(
    workspace: Workspace,
    pool: Pool,
    settings: Synthesis,
    find: Callable[[], Source] = lambda: descendants,
) -> None:
    """Teach the ensemble, and make the images that are wanted and not there yet; costs no query.

    `find`: gives the source of candidates, by default that of way "chosen". There are fewer images
    if 2 GiB do not hold them all. Random by the run's seed: the students' first weights and
    batches, and the candidates.

    Raises:
        ConfigurationDiffers: other settings than before.
    """
    each_bytes = 1 if pool.eight_bit else 4
    count = kept_images(settings.ensemble_labels or 0, pool.shape, each_bytes)
    network, each = network_of(settings.surrogate, pool.shape), settings.candidates
    workspace.agree(
        "unasked",
        {"total": count, "size": SHARD, "price": 0, "network": network, "candidates": each},
    )
    pending = workspace.pending("unasked", count, SHARD)
    if not pending:
        return
    students = _ensemble(workspace, pool, network, settings.width)
    source = find()

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
    """The images with the ensemble's labels; None if none were wanted, or some are missing.

    Their soft labels are the ensemble's log-probabilities. Their true labels are -1, for none.
    Costs no query.

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
    """Students of all answers, with different first weights; kept once they are taught."""
    seeds = [derive_seed(workspace.seed, "ensemble", k) for k in range(STUDENTS)]
    made = [build(network, pool.shape, pool.classes, WIDER * width, seed=seed) for seed in seeds]
    mixed = OPTIMISERS if suits_sgd(made[0]) else DEEP
    optimisers = mixed if mixes_optimisers(workspace.journal) else EARLIER
    students = nn.ModuleList(fast_form(each, workspace.device) for each in made)
    students.to(workspace.device)
    if workspace.recall("unasked", 0, students) == 0:
        return students
    rows = torch.arange(len(pool))
    known = TransferSet(resident(pool.images), rows, pool.answers, pool.answers)
    steps = lesson_steps(len(pool))
    for number, student in enumerate(students):

        def report(
            _: str, done: int, total: int, figures: Mapping[str, float], /, number: int = number
        ) -> None:
            workspace.progress("ensemble", number * total + done, STUDENTS * total, figures)

        training = msgspec.structs.replace(LESSON, steps=steps, optimiser=optimisers[number])
        train(
            student, known, training, seed=seeds[number], device=workspace.device, progress=report
        )
    workspace.keep("unasked", 0, students.eval())
    return students


def _together(said: Float[Tensor, "student row classes"]) -> Float[Tensor, "row classes"]:
    """The logarithm of the students' mean probability, from the logarithms of each."""
    return said.exp().mean(0).clamp_min(1e-6).log()
