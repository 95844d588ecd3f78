"""Folders and archives as people have them."""

import io
import logging
import multiprocessing
import os
import pickle
import re
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import KINDS, content, filled, packed, png
from PIL import Image

from db3kd.data import FolderImages, archives, content_digest, damaged, in_memory, load, trees
from db3kd.data.content import Encoded, content_of
from db3kd.data.images import Rows
from db3kd.data.parquet import ParquetImages
from db3kd.errors import InputError, NoSplit
from db3kd.stages.digests import Digests

# Layouts


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["a.png", "b.png"], "train", ([0, 1], None, ())),
        (["train/a.png", "train/b.png"], "train", ([0, 1], None, ())),
        (["train/a.png", "test/cat/a.png"], "train", ([0], None, ())),
        (["train/a.png", "test/cat/a.png"], "test", ([1], [0], ("cat",))),
        (["train/images/a.png", "test/images/b.png"], "test", ([1], None, ())),
        (["images/a.png", "images/b.png"], "train", ([0, 1], None, ())),
        (["images/cat/a.png", "images/dog/b.png"], "train", ([0, 1], [0, 1], ("cat", "dog"))),
        (["bus/a.png", "train/b.png"], "train", ([0, 1], [0, 1], ("bus", "train"))),
        (["Train/a.png", "Test/cat/b.png"], "test", ([1], [0], ("cat",))),
        (["cat/a.png", "@eaDir/a.png", "$RECYCLE.BIN/b.png"], "train", ([0], [0], ("cat",))),
        (["10/a.png", "9/b.png"], "train", ([1, 0], [0, 1], ("9", "10"))),
        (["cat/images/a.png", "dog/b.png"], "train", ([0, 1], [0, 1], ("cat", "dog"))),
        (["train/cat/images/a.png", "val/images/b.png"], "train", ([0], [0], ("cat",))),
        (["a.png", ".git/b.png", "._a.png", ".c/d/e.png"], "train", ([0], None, ())),
        (["cat/a.png", "cat/._a.png", "__MACOSX/cat/._a.png"], "train", ([0], [0], ("cat",))),
    ],
)
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_layouts(tmp_path, names, split, expected, kind):
    place = filled(tmp_path / "set", *names)
    place = packed(place, kind) if kind else place
    assert content(load(str(place), split)) == expected


def test_files_that_systems_leave(tmp_path):
    place = filled(tmp_path, "cat/a.png")
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "cat/desktop.ini", ".DS_Store"):
        (place / name).write_bytes(b"\0")
    (place / ".Trash").mkdir()
    assert content(load(str(place), "train")) == ([0], [0], ("cat",))


def test_tiny_imagenet_names_classes_in_a_file(tmp_path):
    place = filled(tmp_path, "train/n2/images/a.png", "val/images/v0.png", "val/images/v1.png")
    listed = place / "val" / "val_annotations.txt"
    listed.write_text("v0.png\tn2\t0\t0\t9\t9\nv1.png\tn1\t0\t0\t9\t9\n")
    assert content(load(str(place), "val")) == ([1, 2], [1, 0], ("n1", "n2"))
    listed.write_text("v0.png\tn2\n")
    with pytest.raises(InputError, match=r"names no class of 1 of 2 images, the first is .*v1.png"):
        load(str(place), "val")


def test_images_too_deep_are_not_left_out_silently(tmp_path, caplog):
    place = filled(tmp_path, "train/cat/old/a.png", "train/dog/b.png")
    with pytest.raises(InputError, match=r"cat holds folders \(old\), but images are wanted"):
        load(str(place), "train")
    filled(place, "train/cat/b.png", "train/stray.png")
    with caplog.at_level(logging.WARNING, logger="db3kd"):
        assert len(load(str(place), "train")) == 2
    notes = " ".join(note.getMessage() for note in caplog.records)
    assert re.search("deeper than the class folders of .*: 1, the first is .*cat/old/a.png", notes)
    assert re.search("beside the class folders of .*: 1, the first is .*stray.png", notes)


def told(caplog, name, split="train", **more):
    """What is told when a data set is opened."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="db3kd"):
        load(str(name), split, **more)
    return " ".join(note.getMessage() for note in caplog.records)


@pytest.mark.parametrize("names", [("cat/a.png", "dog/b.png"), ("a.png", "b.png")])
def test_files_of_other_endings_are_not_left_out_silently(tmp_path, caplog, names):
    place = filled(tmp_path, *names)
    inside = (place / names[0]).parent
    for name in ("notes.txt", "boxes.xml", ".hidden", "c.PNG"):
        (inside / name).write_bytes((place / names[1]).read_bytes())
    assert "endings" not in told(caplog, place)
    for name in ("c.heic", "d.jp2", "e"):
        (inside / name).write_bytes(b"...")
    note = told(caplog, place)
    assert re.search(r"those of images \(.heic, .jp2, none\) are left out: 3, the first is", note)


def test_a_link_to_nothing_is_a_damaged_image(tmp_path):
    place = filled(tmp_path / "set", "cat/a.png", "cat/b.png", "dog/c.png")
    (place / "cat" / "b.png").unlink()
    (place / "cat" / "b.png").symlink_to("gone.png")
    images = load(str(place), "train").images
    assert damaged(images) == [
        (1, f"image 1 ({place}/cat/b.png) cannot be read: it is a link to a file that is not there")
    ]
    digests = Digests(tmp_path / "digests.json")
    whole = Rows(images, torch.tensor([0, 2]))
    assert digests.faults(whole, damaged) == []
    assert digests.of_images(whole, 2).startswith("encoded")


def test_a_table_that_is_not_read_is_told(tmp_path, caplog):
    place = filled(tmp_path, "images/a.png", "images/b.png")
    assert told(caplog, place) == ""
    (place / "labels.csv").write_text("file,label\na.png,cat\nb.png,dog\n")
    note = told(caplog, place)
    assert f"have no classes, and {place}/labels.csv is not read; if it lists their" in note
    (place / "labels.csv").write_text("file,label\nimages/a.png,cat\nimages\\b.png,dog\n")
    assert load(str(place / "labels.csv"), "train").classes == ("cat", "dog")


def test_classes_that_differ_in_case_alone_are_told(tmp_path, caplog):
    place = filled(tmp_path, "Cat/a.png", "cat/b.png", "dog/b.png")
    assert "classes 'Cat' and 'cat' of" in told(caplog, place)


@pytest.mark.parametrize("name", ["set.npz", "set.npy", "set.pt", "set.mat", "set.PKL"])
def test_files_of_arrays_are_named(tmp_path, name):
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8)))
    (tmp_path / "set.npz").rename(tmp_path / name)
    with pytest.raises(
        InputError, match=r"set\.\w+ holds arrays, and .* or give the arrays in Pyt"
    ):
        load(str(tmp_path / name), "train")


def test_endings_that_were_met_are_said(tmp_path):
    for name in ("cat/a.heic", "cat/b.HEIC", "cat/notes"):
        filled(tmp_path, name)
    with pytest.raises(
        InputError, match=r"no images \(.png, .*\), but files ending in .heic, none"
    ):
        load(str(tmp_path), "train")


@pytest.mark.parametrize("kind", ["", "zip", "tar"])
def test_a_split_that_is_not_there(tmp_path, kind):
    place = filled(tmp_path / "set", "train/cat/a.png", "val/cat/b.png")
    place = packed(place, kind) if kind else place
    with pytest.raises(NoSplit, match=r"no split 'test' in .*; it has train, val$"):
        load(str(place), "test")
    flat = filled(tmp_path / "flat", "a.png", "b.png")
    flat = packed(flat, kind) if kind else flat
    with pytest.raises(NoSplit, match="it has train only"):
        load(str(flat), "test")
    with pytest.raises(InputError) as refused:
        load(str(tmp_path / "nothing"), "test")
    assert not isinstance(refused.value, NoSplit)


# Archives


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("cat/a.png", "dog/b.png"), ("train/cat/a.png", "test/x/b.png")])
def test_a_single_folder_at_the_top_is_stepped_into(tmp_path, kind, names):
    place = packed(filled(tmp_path / "pets", *names), kind, below="pets/")
    assert content(load(str(place), "train")) == content(load(str(tmp_path / "pets"), "train"))


def test_a_folder_of_images_packed_alone(tmp_path):
    photos = filled(tmp_path / "photos", "a.png", "b.png")
    assert load(str(packed(photos, "zip", below="photos/")), "train").labels is None
    assert load(str(packed(photos, "tar", below="cat/")), "train").classes == ("cat",)
    test = packed(filled(tmp_path / "set", "cat/a.png"), "zip", below="test/")
    with pytest.raises(NoSplit, match="it has test"):
        load(str(test), "train")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_what_it_is_whatever_its_name(tmp_path, kind):
    place = packed(filled(tmp_path / "pets", "cat/a.png", "dog/b.png"), kind)
    assert len(load(str(place.rename(tmp_path / "pets.bin")), "train")) == 2


def hostile(path, kind):
    """An archive whose members want to be elsewhere, and one good image of each of two classes."""
    bad = ["/cat/abs.png", "../cat/up.png", "cat/../../up.png", "C:/cat/drive.png"]
    good = ["cat/a.png", "./dog/b.png"]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in [*bad, *good, "..\\cat\\back.png"]:
                archive.writestr(name, png())
            link = zipfile.ZipInfo("cat/link.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        return path, 6
    with tarfile.open(path, "w" if kind == "tar" else "w:gz") as archive:
        for name in [*bad, *good]:
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))
        for name, way in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(f"cat/{name}.png")
            member.type, member.linkname = way, "/etc/passwd"
            archive.addfile(member)
        for name, way in (("pipe", tarfile.FIFOTYPE), ("device", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(f"cat/{name}.png")
            member.type = way
            archive.addfile(member)
    return path, 8


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_lead_out_are_left_out_and_told(tmp_path, caplog, kind):
    path, count = hostile(tmp_path / f"bad.{kind}", kind)
    with caplog.at_level(logging.WARNING, logger="db3kd"):
        data = load(str(path), "train")
    assert data.classes == ("cat", "dog")
    assert content(data)[1] == [0, 1]
    (note,) = [note.getMessage() for note in caplog.records]
    assert f"has {count} members that are links or devices, or lead out of it" in note
    assert [at.name for at in tmp_path.iterdir()] == [path.name]  # nothing was unpacked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.9])
def test_a_damaged_archive(tmp_path, kind, cut):
    place = packed(filled(tmp_path / "set", "cat/a.png", "dog/b.png"), kind)
    whole = place.read_bytes()
    place.write_bytes(whole[: int(cut if cut >= 1 else cut * len(whole))])
    try:
        in_memory(load(str(place), "train").images)
    except InputError as error:
        assert str(place) in str(error)  # noqa: PT017, a tar may be whole without its end
    else:
        assert kind == "tar"


def test_a_damaged_member_of_a_zip_is_named(tmp_path):
    place = filled(tmp_path / "set", "cat/a.png", "cat/b.png")
    path = packed(place, "zip")
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("cat/b.png").header_offset + 30 + len("cat/b.png")
    damaged = bytearray(path.read_bytes())
    damaged[first + 20 : first + 30] = b"\xff" * 10
    path.write_bytes(damaged)
    images = load(str(path), "train").images
    assert len(images.read(torch.tensor([0]))) == 1
    with pytest.raises(
        InputError, match=r"^image 1 \(.*set.zip/cat/b.png\) cannot be read: the arc"
    ):
        images.read(torch.tensor([1]))


def test_zips_of_other_makers(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat\\a.png", png(7))
        archive.writestr("dog/a.png", png(9), zipfile.ZIP_STORED)
        archive.writestr("eel/a.png", png(9), zipfile.ZIP_LZMA)
    images = load(str(path), "train").images
    assert (images.read(torch.tensor([0, 1]))[:, 0, 0, 0] * 255).round().tolist() == [7.0, 9.0]
    with pytest.raises(InputError, match="packed by method 14; pack it by deflate"):
        images.read(torch.tensor([2]))


def test_an_encrypted_zip(tmp_path):
    path = packed(filled(tmp_path / "set", "cat/a.png"), "zip")
    flagged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
        index = [each.filename for each in archive.infolist()].index("cat/a.png")
    for _ in range(index):
        start = flagged.index(b"PK\x01\x02", start + 4)
    flagged[start + 8] |= 1
    path.write_bytes(flagged)
    with pytest.raises(InputError, match="is encrypted; unpack the archive"):
        load(str(path), "train")


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_archives(tmp_path, monkeypatch, kind):
    place = packed(filled(tmp_path / "set", "cat/a.png", "cat/b.png", "cat/c.png"), kind)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    with pytest.raises(InputError, match="holds more than 2 files; unpack it"):
        load(str(place), "train")
    monkeypatch.undo()
    monkeypatch.setattr(trees, "LARGEST_FILE", 10)
    with pytest.raises(InputError, match="has more than 10 bytes"):
        load(str(place), "train")
    monkeypatch.undo()
    monkeypatch.setattr(archives, "LARGEST_UNPACKED", 1000)
    if kind in ("tar.gz", "tgz"):
        with pytest.raises(
            InputError, match=r"holds more than .* GiB; unpack it, and give the fol"
        ):
            load(str(place), "train")


@pytest.mark.parametrize("name", ["r.toml", "set.rar", "set.zip"])
def test_a_file_that_is_no_data_set(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK or not, this is a text of some length")
    with pytest.raises(InputError, match="is no whole zip or tar archive"):
        load(str(tmp_path / name), "train")


def read_all(images, results, row):
    for _ in range(40):
        results.append((images.read(torch.tensor([row]))[0, 0, 0, 0] * 255).round().item() == row)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_forked_processes_read_at_once(tmp_path, kind):
    names = [f"cat/{row:02}.png" for row in range(8)]
    images = load(str(packed(filled(tmp_path / "set", *names), kind)), "train").images
    results = []
    workers = [threading.Thread(target=read_all, args=(images, results, row)) for row in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [True] * 160
    if "fork" not in multiprocessing.get_all_start_methods():
        return
    place = multiprocessing.get_context("fork")
    results = place.SimpleQueue()
    forked = [place.Process(target=put_all, args=(images, results, row)) for row in range(2)]
    for process in forked:
        process.start()
    mine = []
    read_all(images, mine, 5)
    assert [results.get() for _ in forked] == [True, True]
    for process in forked:
        process.join()
    assert all(mine)


def put_all(images, queue, row):
    found = []
    read_all(images, found, row)
    queue.put(all(found))


# One set, however it is kept

NAMES = st.text("abc019 é", min_size=1, max_size=4).map(str.strip).filter(bool)


@settings(max_examples=20, deadline=None)
@given(
    classes=st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=3), min_size=2, max_size=4),
    split=st.sampled_from(["", "train/"]),
    within=st.sampled_from(["", "images/"]),
    size=st.sampled_from([None, 2, (2, 5)]),
)
def test_a_folder_its_zip_and_its_tar_are_the_same_set(classes, split, within, size):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "set"
        names = [f"{split}{one}/{within}{file}.png" for one in classes for file in classes[one]]
        filled(folder, *names)
        sets = [
            load(str(place), "train", size=size)
            for place in (folder, *(packed(folder, kind) for kind in KINDS))
        ]
        rows = torch.arange(len(names))
        first = sets[0]
        assert isinstance(first.images, Encoded)
        for other in sets[1:]:
            assert content(other) == content(first)
            assert content_digest(other.images) == content_digest(first.images)
            assert content_of(other.images, rows, 2) == content_of(first.images, rows, 2)


def test_splits_of_one_archive_are_told_apart(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 600, 1000), dtype=np.uint8)
    for name, pixels in zip(("train", "test"), noise, strict=True):
        (tmp_path / "set" / name / "cat").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / name / "cat" / "0.png")
    path = packed(tmp_path / "set", "zip")
    os.utime(path, (10**9, 10**9))  # old, so that its digests are kept
    (tmp_path / "run").mkdir()
    digests = [
        Digests(tmp_path / "run" / "digests.json").of_images(load(str(path), split).images, 4)
        for split in ("train", "test")
    ]
    assert digests[0] != digests[1]


def test_a_folder_called_like_an_archive(tmp_path):
    filled(tmp_path / "set.zip", "cat/a.png")
    assert FolderImages(tmp_path / "set.zip").classes == ("cat",)


def test_images_in_files_go_to_other_processes(tmp_path):
    # As they do to those that train one network together.
    tree = tmp_path / "images"
    for number, name in enumerate(("cat", "dog")):
        (tree / name).mkdir(parents=True)
        Image.new("L", (4, 4), 90 * (number + 1)).save(tree / name / "0.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for file in tree.rglob("*.png"):
            packed.write(file, file.relative_to(tree))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tree, ".")
    pyarrow = pytest.importorskip("pyarrow")
    cells = [{"bytes": file.read_bytes()} for file in sorted(tree.rglob("*.png"))]
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"image": cells}), tmp_path / "a.parquet"
    )
    rows = torch.tensor([1, 0])
    kinds = [FolderImages(tmp_path / name) for name in ("images", "a.zip", "a.tar")]
    for images in (*kinds, ParquetImages([tmp_path / "a.parquet"])):
        before = images.read(rows)
        assert before.flatten(1).mean(1).tolist() == pytest.approx([180 / 255, 90 / 255])
        assert torch.equal(pickle.loads(pickle.dumps(images)).read(rows), before)
