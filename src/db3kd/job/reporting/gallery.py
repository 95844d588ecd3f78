"""The small images that a run keeps for its report, since the data sets may be gone later."""

import torch
from torch import Tensor

from db3kd.data.images import Images
from db3kd.data.transfer_set import TransferSet
from db3kd.job.reporting.pixels import thumbnails
from db3kd.job.reporting.records import GALLERY, Records
from db3kd.run import Run
from db3kd.student.files import write_tensors
from db3kd.teachers.base import known_of, met_of
from db3kd.teachers.meter import Meter

CELLS, OF_CELL = 6, 4  # cells of the confusion, and test images of each
MOST_CLASSES = 20
OF_CLASS = {10: 8, MOST_CLASSES: 5}  # images of a class, by how many classes are shown


def keep_gallery(
    run: Run, learned: TransferSet, test: Images | None, *, pseudo: bool = False
) -> None:
    """Keep thumbnails of what students learned from, and of test images that they get wrong.

    `test`: the images that students were evaluated on, if any. `pseudo`: what they learned from
    are pseudo samples. Costs no query. Nothing is random: images are taken at even distances.

    Raises:
        RunError: the file cannot be written.
    """
    records = Records.of(run.folder)
    kept, what = _by_class(run.meter, learned, pseudo)
    if test is not None:
        kept |= _confused(test, records)
    write_tensors(run.folder / GALLERY, kept, {"format": "db3kd gallery 1", "samples": what})


def largest_cells(counts: Tensor) -> list[tuple[int, int]]:
    """The cells of a confusion with the most images that differ, the largest first.

    >>> largest_cells(torch.tensor([[9, 2], [3, 9]]))
    [(1, 0), (0, 1)]
    """
    apart = counts.clone().fill_diagonal_(0)
    order = apart.flatten().argsort(descending=True, stable=True)[:CELLS]
    pairs = [divmod(int(place), len(counts)) for place in order]
    return [pair for pair in pairs if int(apart[pair])]


def _confused(test: Images, records: Records) -> dict[str, Tensor]:
    if records.confusion is None or records.best is None:
        return {}
    mine = records.predictions(records.best)
    rows: list[int] = []
    called: list[int] = []
    for teacher, student in largest_cells(records.confusion):
        some = [
            row
            for answers in mine.values()
            for row in ((records.answers == teacher) & (answers == student)).nonzero()[:, 0]
        ]
        chosen = list(dict.fromkeys(int(row) for row in some))[:OF_CELL]
        rows += chosen
        called += [student] * len(chosen)
    if not rows:
        return {}
    taken = torch.tensor(rows)
    return {
        "confused.images": thumbnails(test.read(taken), records.bounds),
        "confused.teacher": records.answers[taken].to(torch.int32),
        "confused.student": torch.tensor(called, dtype=torch.int32),
    }


def _by_class(meter: Meter, learned: TransferSet, pseudo: bool) -> tuple[dict[str, Tensor], str]:
    """New images of each class where there are any, else the own images; and which they are."""
    labels, first = learned.teacher_labels, learned.first or 0
    grown = 0 < first < len(learned)
    what = "pseudo" if pseudo else "grown" if grown else "own"
    start = first if grown else 0
    count = min(meter.classes if met_of(meter) is None else known_of(meter), MOST_CLASSES)
    each = next(many for most, many in OF_CLASS.items() if count <= most)
    rows = []
    for k in range(count):
        some = (labels[start:] == k).nonzero()[:, 0] + start
        rows.append(some[torch.linspace(0, len(some) - 1, min(len(some), each)).long()])
    taken = torch.cat(rows)
    if not len(taken):
        return {}, what
    images = thumbnails(learned.images.read(taken), meter.bounds)
    return {"samples.images": images, "samples.classes": labels[taken].to(torch.int32)}, what
