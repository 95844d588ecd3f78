"""The paper's Tables 1 to 4 as data: rows, columns, and the numbers that the paper gives."""

from collections.abc import Mapping
from dataclasses import dataclass

from db3kd.paper.cells import Cell


@dataclass(frozen=True)
class Column:
    """A student of a setup; `title` is above it."""

    setup: str
    student: str
    title: str


@dataclass(frozen=True)
class Row:
    """A system of `SYSTEMS`, and the paper's accuracy in percent for each column.

    None: the paper has no such number. `setup`: another one than the column's, as for Table 2's
    second teacher.
    """

    system: str
    paper: tuple[float | None, ...]
    setup: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    >>> [len(table.cells(seeds=1)) for table in TABLES.values()]
    [63, 11, 24, 13]
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def cell(self, row: Row, column: Column, seed: int) -> Cell:
        """The cell of a place in the table."""
        setup = row.setup or column.setup
        student = "teacher" if row.system == "teacher" else column.student
        return Cell(setup, student, row.system, seed)

    def cells(self, seeds: int) -> list[Cell]:
        """All cells of the table."""
        return [
            self.cell(row, column, seed)
            for row in self.rows
            for column in self.columns
            for seed in range(seeds)
        ]


_TABLE1 = (
    Column("mnist", "LeNet-5-half", "MNIST, LeNet-5-half"),
    Column("mnist", "LeNet-5-1/5", "MNIST, LeNet-5-1/5"),
    Column("fashion_mnist", "LeNet-5-half", "Fashion-MNIST, LeNet-5-half"),
    Column("fashion_mnist", "LeNet-5-1/5", "Fashion-MNIST, LeNet-5-1/5"),
    Column("cifar10", "AlexNet-half", "CIFAR-10, AlexNet-half"),
    Column("cifar10", "AlexNet-quarter", "CIFAR-10, AlexNet-quarter"),
    Column("flowers102", "ResNet-18", "Flowers-102, ResNet-18"),
)
_NONE: tuple[None, ...] = (None,) * 7
TABLES: Mapping[str, Table] = {
    each.name: each
    for each in (
        Table(
            "table1",
            "Table 1: DB3KD with the training images",
            _TABLE1,
            (
                Row("teacher", (99.33, 99.33, 91.63, 91.63, 79.30, 79.30, 95.07)),
                Row("ce", (99.11, 98.77, 90.21, 88.75, 77.28, 72.21, 92.18)),
                Row("kd", (99.33, 99.12, 90.82, 89.09, 77.81, 73.14, 94.05)),
                Row("surrogate", (99.13, 98.85, 90.27, 88.72, 77.49, 72.49, 92.93)),
                Row("noise_logits", (99.01, 98.72, 89.81, 88.20, 77.04, 72.06, 91.99)),
                Row("sd", (99.15, 98.98, 90.86, 89.31, 77.66, 72.78, 93.18)),
                Row("bd", (99.51, 99.19, 90.68, 89.47, 77.92, 72.94, 93.30)),
                Row("mbd", (99.52, 99.22, 91.45, 89.80, 78.30, 73.78, 93.77)),
                Row("joint", _NONE, note="not in the paper"),
            ),
        ),
        Table(
            "table2",
            "Table 2: self-distillation on CIFAR-100",
            (Column("cifar100", "ResNet-18", "CIFAR-100, ResNet-34 to ResNet-18"),),
            (
                Row("teacher", (78.63,), note="ResNet-34"),
                Row("ce", (75.91,), note="ResNet-18"),
                Row("kd", (77.18,)),
                Row("surrogate", (76.52,)),
                Row("ban", (76.84,)),
                Row("tf_self", (77.23,), note="the paper does not say which of the two"),
                Row("tf_reg", (77.23,), note="the paper does not say which of the two"),
                Row("sskd", (76.20,)),
                Row("mbd", (77.31,)),
                Row("joint", (None,), note="not in the paper"),
                Row("mbd", (78.65,), setup="cifar100_resnet50", note="of a ResNet-50"),
            ),
        ),
        Table(
            "table3",
            "Table 3: without data, MNIST and Fashion-MNIST",
            (_TABLE1[0], _TABLE1[2]),
            (
                Row("teacher", (99.33, 91.63)),
                Row("ce", (99.11, 90.21)),
                Row("kd", (99.33, 90.82)),
                Row("fskd", (86.70, 72.60)),
                Row("bbkd", (98.74, 80.90)),
                Row("meta_kd", (92.47, None)),
                Row("dafl", (98.20, None)),
                Row("zskd", (98.77, 79.62)),
                Row("dfkd", (99.08, None)),
                Row("noise_scores", (None, None), note="in Table 4 alone"),
                Row("zsdb3kd", (96.54, 72.31)),
                Row("chosen", (None, None), note="not in the paper"),
            ),
        ),
        Table(
            "table4",
            "Table 4: without data, CIFAR-10",
            (_TABLE1[4],),
            (
                Row("teacher", (79.30,)),
                Row("ce", (77.28,)),
                Row("kd", (77.81,)),
                Row("fskd", (40.58,)),
                Row("bbkd", (74.60,)),
                Row("meta_kd", (None,), note="in Table 3 alone"),
                Row("dafl", (66.38,)),
                Row("zskd", (69.56,)),
                Row("dfkd", (73.91,)),
                Row("noise_scores", (14.79,)),
                Row("noise_labels", (13.53,)),
                Row("zsdb3kd", (59.46,)),
                Row("chosen", (None,), note="not in the paper"),
            ),
        ),
    )
}
