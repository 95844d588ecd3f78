"""The result of a run as a person reads it."""

from typing import Any

from rich.cells import cell_len

from db3kd.cli.checked import LISTED, checked, confusion
from db3kd.cli.terminal import measured, met, result, table


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "accuracy": [0.5],
        "agreement": [0.75],
        "queries": 1234567,
        "label_s": 12.34,
        "training_s": [1.0, 2.0],
    }
    return {**plain, **changes}


def test_the_table_of_one_seed() -> None:
    # Mean of 1 and 2 seconds: 1.5.
    lines = table({"methods": {"mbd": row()}, "teacher": {"accuracy": None}}).splitlines()
    assert [line.split() for line in lines] == [
        ["method", "accuracy", "%", "agreement", "%", "queries", "label", "s", "train", "s"],
        ["mbd", "50.00", "75.00", "1,234,567", "12.3", "1.5"],
    ]


def test_the_table_of_several_seeds_shows_their_spread() -> None:
    # 50, 60, 70: mean 60, deviations 10, 0, 10, so (100 + 0 + 100) / 2 = 100 and its root is 10.
    text = table(
        {
            "methods": {"ce": row(accuracy=[0.5, 0.6, 0.7])},
            "teacher": {"accuracy": 0.9},
        },
        title="A title",
    )
    assert text.splitlines()[0].strip() == "A title"
    assert "60.00 ± 10.00" in text
    assert text.splitlines()[-1].split() == ["teacher", "90.00", "100.00"]


def test_accuracy_that_nobody_knows_is_unknown() -> None:
    text = table({"methods": {"ce": row(accuracy=[None, None])}, "teacher": {"accuracy": None}})
    assert "unknown" in text


def test_an_interval_stands_beside_the_agreement() -> None:
    text = table(
        {
            "methods": {"ce": row(agreement_interval=[0.7012, 0.8]), "mbd": row()},
            "teacher": {"accuracy": 0.9},
        }
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][5:8] == ["95", "%", "interval"]
    assert lines[1] == ["ce", "50.00", "75.00", "70.12", "to", "80.00", "1,234,567", "12.3", "1.5"]
    assert lines[2] == ["mbd", "50.00", "75.00", "1,234,567", "12.3", "1.5"]


def test_a_narrow_terminal_gets_a_narrow_table() -> None:
    summary = {"methods": {"pseudo_mbd": row()}, "teacher": {"accuracy": None}}
    assert max(map(len, table(summary, width=60).splitlines())) <= 60


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "methods": {"ce": row()},
        "teacher": {"accuracy": None},
        "queries": {"spent": 5, "budget": None},
        "run": "runs/a",
        **changes,
    }


def test_a_result_says_what_it_was_measured_on() -> None:
    def said(source: str, samples: int, accuracy: float | None = 0.5) -> str:
        test = {"source": source, "samples": samples}
        return " ".join(measured(summary(test=test, methods={"ce": row(accuracy=[accuracy])})))

    assert list(measured(summary())) == []
    assert said("data.test", 1200) == said("split", 1200) == "Measured on 1,200 test images."
    assert "own images that were held back" in said("held back", 40)
    assert "no labels" in said("split", 40, None)
    assert said("none", 0) == "There are no test images, so nothing was measured."


def test_a_result_names_classes_and_ends_with_warnings() -> None:
    found = summary(
        classes=[3, 0], class_names=["cat", "dog\x1b[2J"], warnings=["few\nimages", "x\x1b[1m"]
    )
    lines = result(found).splitlines()
    assert "none of class 'dog'" in lines[2]
    assert lines[-3:] == [
        "5 queries spent; everything is in runs/a",
        "warning: few images",
        "warning: x",
    ]
    assert met([0, 1], ["only one"]).endswith("none of class 0")  # no names that fit


def test_a_quick_look_says_so() -> None:
    assert "This is a quick look at 300 steps: the figures are low." in result(
        summary(quick=True), steps=300
    )
    assert "quick" not in result(summary(), steps=300)


# What a teacher confuses


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


def test_a_small_matrix_is_shown_whole() -> None:
    found = {
        "names": ["cat", "dog", "owl"],
        "true": ["dog", "cat"],
        "matrix": [[2, 30, 0], [9, 0, 1]],
    }
    assert cells(confusion(found)) == [
        ["cat", "dog", "owl"],
        ["dog", "2", "30", "."],
        ["cat", "9", ".", "1"],
    ]


def test_of_many_classes_the_mistakes_are_listed() -> None:
    names = [f"number-{number}" for number in range(40)]
    matrix = [[100 * (row == column) for column in range(40)] for row in range(40)]
    matrix[31][5], matrix[7][39] = 8, 9
    found = {"names": names, "true": names, "matrix": matrix}
    assert confusion(found).splitlines()[1:] == [
        "  number-7 taken for number-39 (9)",
        "  number-31 taken for number-5 (8)",
    ]
    for column in range(20):
        matrix[12][column] = 1
    assert confusion(found).splitlines()[-1] == f"  and {21 - LISTED} more"


def test_wide_and_odd_names_stay_aligned() -> None:
    names = ["猫猫", "[red]dog[/red]", "x\x1b[2J" + "y" * 90]
    found = {"names": names, "true": names, "matrix": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    lines = confusion(found).splitlines()
    assert "[red]dog[/red]" in lines[3]  # no markup
    assert "\x1b" not in "".join(lines)
    assert len({cell_len(line) for line in lines[2:]}) == 1
    assert max(map(cell_len, lines)) <= 100


def test_an_answer_that_no_image_has_is_explained() -> None:
    names = [f"class {number:02}" for number in range(12)]
    found = {"names": names, "true": names[:1], "matrix": [[0, 5] + [0] * 10]}
    assert cells(confusion(found, width=80))[-1][:3] == ["11", "class", "11"]


def test_a_check_tells_what_cannot_be_right() -> None:
    found = {"images": 60, "questions": 243, "classes": 2, "met": 2, "as_labelled": 0, "flips": 0}
    seen: dict[str, Any] = {"rounding": None, "latency_s": 0.1, "per_second": 9.0, "money": None}
    seen["time"] = {"seconds": 360.0, "seconds_otherwise": None, "stages": []}
    most = {"queries": {"total": 400}}
    assert "warning" not in checked({**found, **seen, **most})
    lines = checked({**found, **seen, **most, "warnings": ["no more than\nby chance"]}).splitlines()
    assert "warning: no more than by chance" in lines
