"""Distance against queries: our searches, and those of Foolbox and ART, through one meter.

    python benchmarks/distance.py [--quick] --json distance.json [--work DIR]

`over_white_box.CASE.QUERIES[.COMPETITOR]`: mean distance of the point shown after this number of
queries per row, divided by the mean white-box distance of the same rows. Without a competitor it
is that of the default search. It needs `pip install -e '.[benchmarks]'`. The result of every row is
kept in the work folder. A benchmark that was stopped continues when it is started again; one that
is done is only summed up again. See README.md.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import common
import competitors
import picture
import summary
from competitors import Competitor, Found
from db3kd.errors import Db3kdError
from rows import CHECKPOINTS, Case, Task, checkpoints, prepare
from teachers import Lesson
from watch import asked_again

FULL = (
    Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 60_000, 6), 20),
    Case("lenet5_fashion", Lesson("lenet5_fashion", "lenet5", "fashion_mnist", 60_000, 6), 20),
    Case("alexnet_cifar10", Lesson("alexnet_cifar10", "alexnet", "cifar10", 20_000, 3), 20),
    Case("digits_svm", None, 20),
)
QUICK = (
    Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 10_000, 2), 20),
    Case("digits_svm", None, 20),
)
SAME = 1e-3  # relative: how far a point may be from where its distance says


def main() -> int:
    """Search whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which results are kept, by row")
    options.add_argument("--case", action="append", help="only this case; may be repeated")
    options.add_argument("--only", nargs="+", default=[], help="only these competitors")
    options.add_argument("--rows", type=int, help="default: 504, with --quick 18")
    options.add_argument("--rival-rows", type=int, help="default: 54, with --quick 6")
    options.add_argument("--most", type=int, help="last checkpoint; default: 20000, quick: 1000")
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    options.add_argument("--sum-up", action="store_true", help="only sum up; search nothing")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "distance"
    asked = checkpoints(given.most or (1000 if given.quick else CHECKPOINTS[-1]))
    taking_part = competitors.every(given.only)
    rows = given.rows or (18 if given.quick else 504)
    rival_rows = given.rival_rows or (6 if given.quick else 54)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    table: list[common.Json] = []
    settings: dict[str, common.Json] = {}
    for case in QUICK if given.quick else FULL:
        if given.case and case.name not in given.case:
            continue
        task = prepare(case, -(-rows // 9), work)
        stored = StoredImages(task, work / case.folder, asked)
        if not given.sum_up:
            _search(task, taking_part, stored, rival_rows)
        results = {c.name: stored.read(c) for c in taking_part}
        default = competitors.default_name()
        part = summary.of(task, {k: v for k, v in results.items() if v}, asked, default)
        figures |= part.figures
        table += part.table
        settings[case.name] = part.setting
        picture.draw(part.table, given.json.with_suffix(f".{case.name}.png"), case.name, default)
    setting = {
        "threads": torch.get_num_threads(),
        "quick": given.quick,
        "checkpoints": list(asked),
        "default_search": competitors.default_name(),
        "competitors": {c.name: {"version": c.version, **c.setting} for c in taking_part},
        "cases": settings,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def _search(
    task: Task, taking_part: Sequence[Competitor], stored: "StoredImages", rival_rows: int
) -> None:
    """Run our searches one after the other; then the rivals in turn, always comparable."""
    ours = [c for c in taking_part if not c.rival]
    plan = [(c, block) for c in ours for block in c.blocks(task, len(task.rows))]
    place = {row: number for number, row in enumerate(task.rows.mixed())}
    in_turn = [(c, b) for c in taking_part if c.rival for b in c.blocks(task, rival_rows)]
    in_turn.sort(key=lambda cell: place[cell[1][-1]])  # a stable sort
    for competitor, block in plan + in_turn:
        done = stored.read(competitor)
        if all(task.rows.key(row) in done for row in block):
            continue
        asked = stored.asked(competitor)
        found, seconds = competitors.timed(lambda: competitor.search(task, block, asked))  # noqa: B023
        stored.put(competitor, block, found, seconds)
        common.say(
            f"{task.case.name} {competitor.name}: {len(block)} rows to {asked[-1]}"
            f" in {seconds:.1f} s, {len(done) + len(block)} done"
        )


@dataclass(frozen=True)
class StoredImages:
    """The results of one case: a file of JSON lines for each competitor, one line for each row."""

    task: Task
    folder: Path
    checkpoints: Sequence[int]

    def asked(self, competitor: Competitor) -> Sequence[int]:
        """The checkpoints that a competitor has."""
        return [c for c in self.checkpoints if c <= competitor.most]

    def read(self, competitor: Competitor) -> dict[str, common.Json]:
        """Lines by row: of this version, from these starts, with enough queries; the last wins."""
        rows = self.task.rows
        starts = {rows.key(row): float(rows.start_distance[row]) for row in range(len(rows))}
        most = self.asked(competitor)[-1]
        found = {}
        for line in _lines(self._file(competitor)):
            start = starts.get(line["row"])
            fits = line["version"] == competitor.version and line["most"] >= most
            if fits and start and abs(line["start"] - start) <= SAME * start:
                found[line["row"]] = line
        return found

    def put(
        self, competitor: Competitor, block: Sequence[int], found: Found, seconds: float
    ) -> None:
        """Verify the points and append a line for each row."""
        rows, most = self.task.rows, self.asked(competitor)[-1]
        distance, factor = verified(self.task, block, found)
        with self._file(competitor).open("a") as file:
            if file.tell() and not self._file(competitor).read_bytes().endswith(b"\n"):
                file.write("\n")  # a line that was torn when the benchmark was stopped
            for place, row in enumerate(block):
                line = {
                    "row": rows.key(row),
                    "version": competitor.version,
                    "most": most,
                    "start": float(rows.start_distance[row]),
                    "distance": [round(float(d), 6) for d in distance[place]],
                    "factor": float(factor[place]),
                    "spent": found.spent[place],
                    "ended": found.ended[place],
                    "seconds": round(seconds / len(block), 3),
                }
                file.write(json.dumps(line) + "\n")

    def _file(self, competitor: Competitor) -> Path:
        return self.folder / f"{competitor.name.replace('@', '-at-')}.jsonl"


def verified(task: Task, block: Sequence[int], found: Found) -> tuple[Tensor, Tensor]:
    """Ask the last points again, outside the meter; a row that is not across keeps its start.

    Returns the distances (row, checkpoint) and the factor of `asked_again`. The factor is 0 if the
    point is not across, or is not where the distance says.
    """
    rows, chosen = task.rows, list(block)
    origin, target = rows.origin[chosen], rows.target[chosen]
    factor = asked_again(task.teacher, origin, found.point, target)
    apart = torch.linalg.vector_norm((found.point - origin).flatten(1), dim=1)
    last = found.distance[:, -1]
    good = factor.isfinite() & ((apart - last).abs() <= SAME * last)
    kept = rows.start_curve[chosen, : found.distance.shape[1]]
    distance = torch.where(good[:, None], found.distance * factor[:, None], kept)
    return distance, torch.where(good, factor, 0.0)


def _lines(file: Path) -> list[common.Json]:
    """The complete lines of a file."""
    found = []
    for text in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue  # torn when the benchmark was stopped
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
