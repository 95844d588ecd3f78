"""Columns of parquet, CSV and TSV files, and the classes that labels name."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kept import content, filled, png

from db3kd.data import content_digest, damaged, listed, load
from db3kd.data.content import Encoded
from db3kd.errors import InputError, NoSplit

RAW = [png(value) for value in range(4)]
STRUCTS = [{"bytes": one, "path": None} for one in RAW]


def table(folder, split="train", schema=None, **columns):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


# Parquet: labels


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (["cat", "dog", "cat", "ape"], [1, 2, 1, 0], ("ape", "cat", "dog")),
        (["10", "9", "9", "2"], [2, 1, 1, 0], ("2", "9", "10")),
        ([True, False, True, True], [1, 0, 1, 1], ("False", "True")),
        ([True] * 4, [1] * 4, ("False", "True")),
        ([0.0, 2.0, 1.0, 0.0], [0, 2, 1, 0], ("0", "1", "2")),
        ([0, 2, 1, 0], [0, 2, 1, 0], ("0", "1", "2")),
        (pa.array(["b", "a", "b", "b"]).dictionary_encode(), [1, 0, 1, 1], ("a", "b")),
        (pa.array(["b", "a", "b", "b"], pa.large_string()), [1, 0, 1, 1], ("a", "b")),
        (pa.array([3, 0, 0, 0], pa.uint8()), [3, 0, 0, 0], ("0", "1", "2", "3")),
        (["-1", "-1", "-1", "-1"], None, ()),
        ([-1.0] * 4, None, ()),
    ],
)
def test_labels(tmp_path, labels, numbers, classes):
    data = load(table(tmp_path, image=STRUCTS, label=labels), "train")
    assert content(data) == ([0, 1, 2, 3], numbers, classes)
    assert data.labels is None or data.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.0, 0.5, 1.0, 0.0], "label 1 in .* is 0.5; give whole numbers"),
        ([0.0, float("nan"), 1.0, 0.0], "label 1 in .* is nan"),
        ([0.0, 1e300, 1.0, 0.0], r"is 1e\+300"),
        ([[0], [1], [0], [1]], "are list<.*>; give whole numbers, names or booleans"),
        ([None, "a", "a", "b"], "has empty rows"),
        (pa.array([None, "a", "a", "b"]).dictionary_encode(), "has empty rows"),
        (["", "a", "a", ""], "2 rows of .* have no label"),
        ([0, -1, -1, 1], "2 of 4 images have the label -1"),
        (["0", "-1", "-1", "1"], "2 of 4 images have the label -1"),
        ([0, 2**62, 0, 0], "but labels count classes from 0"),
        ([-7, 0, 1, 1], "image 0 has the label -7; with 2 classes a label is 0 to 1"),
    ],
)
def test_labels_that_name_no_classes(tmp_path, labels, words):
    with pytest.raises(InputError, match=words):
        load(table(tmp_path, image=STRUCTS, label=labels), "train")


def test_too_many_names_are_no_classes(tmp_path, monkeypatch):
    from db3kd.data import columns

    monkeypatch.setattr(columns, "MOST_CLASSES", 3)
    with pytest.raises(InputError, match=r"names 4 classes, at most 3 can be; .* label="):
        load(table(tmp_path, image=STRUCTS, label=list("abcd")), "train")


def test_labels_of_several_files(tmp_path):
    for part, labels in enumerate((["b", "a", "b", "b"], ["c", "c", "c", "a"])):
        pq.write_table(
            pa.table({"image": STRUCTS, "label": labels}),
            tmp_path / f"train-{part:05}-of-00002.parquet",
        )
    assert load(str(tmp_path), "train").labels.tolist() == [1, 0, 1, 1, 2, 2, 2, 0]
    pq.write_table(
        pa.table({"image": STRUCTS, "label": [0] * 4}), tmp_path / "train-00001-of-00002.parquet"
    )
    with pytest.raises(InputError, match=r"of several types \(int64, string\); give one type"):
        load(str(tmp_path), "train")
    pq.write_table(pa.table({"image": STRUCTS}), tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"00001.* has no column of labels, but .*00000.* has"):
        load(str(tmp_path), "train")


# Parquet: columns


@pytest.mark.parametrize(
    "column",
    [
        RAW,
        STRUCTS,
        pa.array(RAW, pa.large_binary()),
        pa.array(RAW).dictionary_encode(),
        pa.array([one.ljust(200, b"\0") for one in RAW], pa.binary(200)),
    ],
)
@pytest.mark.parametrize("name", ["image", "pixel_values", "jpg", "Image"])
def test_images(tmp_path, name, column):
    data = load(table(tmp_path, **{name: column, "cls": [0, 1, 0, 1]}), "train")
    assert content(data) == ([0, 1, 2, 3], [0, 1, 0, 1], ("0", "1"))
    assert isinstance(data.images, Encoded)


def test_no_column_of_labels_is_no_labels(tmp_path):
    place = table(tmp_path, image=STRUCTS, id=[1, 2, 3, 4])
    assert content(load(place, "train")) == ([0, 1, 2, 3], None, ())
    with pytest.raises(InputError, match=r"columns image, id, but none called 'label'.* label="):
        load(place, "train", label="label")


def test_columns_by_name(tmp_path):
    place = table(tmp_path, left=RAW, right=RAW[::-1], fine=list("abab"), coarse=[0, 0, 1, 1])
    with pytest.raises(InputError, match=r"left, right, fine, coarse; none .* by image="):
        load(place, "train")
    found = load(place, "train", image="right", label="coarse")
    assert content(found) == ([3, 2, 1, 0], [0, 0, 1, 1], ("0", "1"))
    other = load(place, "train", image="left", label="fine")
    assert content(other) == ([0, 1, 2, 3], [0, 1, 0, 1], ("a", "b"))
    assert content_digest(found.images) != content_digest(other.images)
    assert found.images.part != other.images.part
    with pytest.raises(InputError, match=r"column 'fine' of .* is string; give the encoded image"):
        load(place, "train", image="fine")


def test_several_columns_that_could_be_meant(tmp_path):
    place = table(tmp_path, image=RAW, img=RAW, label=[0] * 4, **{"class": list("abab")})
    with pytest.raises(InputError, match="several could be the one of images, so name it by image"):
        load(place, "train")
    with pytest.raises(InputError, match="several could be the one of labels, so name it by label"):
        load(place, "train", image="img")
    assert load(place, "train", image="img", label="class").classes == ("a", "b")


def test_a_column_of_bytes_comes_before_one_of_paths(tmp_path):
    place = table(tmp_path, image=list("abcd"), jpg=RAW)
    assert len(load(place, "train")) == 4


def test_a_parquet_file_by_its_path(tmp_path):
    table(tmp_path, image=RAW)
    file = str(tmp_path / "train-00000-of-00001.parquet")
    assert len(load(file, "train")) == 4
    with pytest.raises(NoSplit, match="it has train only"):
        load(file, "test")


def test_a_damaged_first_row(tmp_path):
    data = load(table(tmp_path, image=[b"", None, *RAW[2:]]), "train")
    assert [row for row, _ in damaged(data.images)] == [0, 1]


# CSV


def csv(folder, text, name="train.csv"):
    filled(folder, "0.png", "in/1.png", "in/2.png", "3.png")
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\n0.png,cat\nin/2.png,ape\n", ([0, 2], [1, 0], ("ape", "cat"))),
        ("image_path;class\n0.png;cat\nin/2.png;ape\n", ([0, 2], [1, 0], ("ape", "cat"))),
        ("id\tfilename\n7\t3.png\n8\tin/1.png\n", ([3, 1], None, ())),
        ("Path,Label\n0.png,10\n\n3.png,9\n", ([0, 3], [1, 0], ("9", "10"))),
        ("path,label\n0.png,1.0\n3.png,0.0\n", ([0, 3], [1, 0], ("0", "1"))),
        ("path,label\n0.png,-1\n3.png,-1\n", ([0, 3], None, ())),
        ("path,label\n0.png,a\nin\\2.png,b\n", ([0, 2], [0, 1], ("a", "b"))),
        ('\ufeffpath,label\n"0.png","a, b"\n3.png,c\n', ([0, 3], [0, 1], ("a, b", "c"))),
        ("file,label\n0.png,cat\n0.png,dog", ([0, 0], [0, 1], ("cat", "dog"))),
    ],
)
def test_lists(tmp_path, text, expected):
    assert content(load(csv(tmp_path, text), "train")) == expected


def test_columns_that_are_not_taken_as_labels_are_told(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="db3kd"):
        load(csv(tmp_path, "file,species\n0.png,cat\n3.png,dog\n"), "train")
        assert "called as labels usually are" in caplog.text
        assert "if one of species holds them, name it by label=" in caplog.text
        caplog.clear()
        load(csv(tmp_path, "file,label\n0.png,cat\n3.png,dog\n"), "train")
        load(csv(tmp_path, "file\n0.png\n"), "train")
        assert not caplog.text
        load(table(tmp_path / "set", img=RAW[:2], species=["cat", "dog"]), "train")
        assert "if one of species holds them" in caplog.text


def test_a_tsv_may_hold_commas(tmp_path):
    place = csv(tmp_path, "file\tlabel\n0.png\ta,b,c\n3.png\td,e,f\n", "train.tsv")
    assert load(place, "train").classes == ("a,b,c", "d,e,f")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns ; give a header"),
        ("0.png,cat\n3.png,dog\n", "has the columns 0.png, cat; give a header"),
        ("file,label\n", "lists no images"),
        ("file,path\n0.png,0.png\n", "several could be the one of images"),
        ("file,label\n0.png\n", "line 2 of .* has 1 columns, but the header 2"),
        ("file,label\n0.png,\n", "1 rows of .* have no label"),
        ("file,label\n0.png,cat\nno.png,a\nin/9.png,b\n", "2 of the 3 files .* first is no.png"),
        ('file,label\n"0.png,cat\n', "cannot be read as a table"),
        ("file,label\n\0,cat\n", "cannot be read as a table|are missing"),
        ("file,label\n0.png,0\n3.png,-1\n", "1 of 2 images have the label -1"),
    ],
)
def test_lists_that_cannot_be(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        load(csv(tmp_path, text), "train")


def test_a_list_of_other_bytes(tmp_path):
    (tmp_path / "train.csv").write_bytes("file\né.png\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"cannot be read as a table .* give CSV in UTF-8"):
        load(str(tmp_path / "train.csv"), "train")


def test_a_list_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "MOST_ROWS", 3)
    place = csv(tmp_path, "file\n" + "0.png\n" * 4)
    with pytest.raises(InputError, match="more than 3 rows"):
        load(place, "train")
    assert len(load(csv(tmp_path, "file\n" + "0.png\n" * 3), "train")) == 3


def test_columns_of_a_list_by_name(tmp_path):
    place = csv(tmp_path, "a,b,c\n0.png,3.png,cat\n")
    with pytest.raises(InputError, match=r"columns a, b, c; give a header .* by image="):
        load(place, "train")
    assert content(load(place, "train", image="b", label="c")) == ([3], [0], ("cat",))
    with pytest.raises(InputError, match="none called 'd'"):
        load(place, "train", image="b", label="d")


def test_lists_are_the_splits_of_their_folder(tmp_path):
    csv(tmp_path, "file,label\n0.png,cat\n")
    csv(tmp_path, "file,label\n3.png,dog\n", "test.csv")
    (tmp_path / "prices.csv").write_text("cat,3\n")
    assert load(str(tmp_path), "train").classes == ("cat",)
    assert content(load(str(tmp_path), "test"))[0] == [3]
    with pytest.raises(NoSplit):
        load(str(tmp_path), "val")
    with pytest.raises(NoSplit, match="it has train only"):
        load(str(tmp_path / "train.csv"), "test")


def test_class_folders_come_before_a_list(tmp_path):
    filled(tmp_path, "train/cat/0.png", "train/dog/1.png")
    (tmp_path / "train.csv").write_text("id,weight\n1,2\n")
    assert load(str(tmp_path), "train").classes == ("cat", "dog")


def test_rows_of_a_list(tmp_path):
    data = load(csv(tmp_path, "file,label\n0.png,cat\n3.png,dog\nin/1.png,cat\n"), "train[1:]")
    assert content(data) == ([3, 1], [1, 0], ("cat", "dog"))
    assert np.array_equal(data.images.rows, [1, 2])
