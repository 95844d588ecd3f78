"""Digests of images and files: equal for equal content, whatever its name, place or form."""

import json
import os
import shutil
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from db3kd.data import FolderImages, Joined, ParquetImages, Rows, TensorImages, in_memory
from db3kd.data.digest import of_file
from db3kd.data.sets import data_root
from db3kd.errors import InputError
from db3kd.stages import digests as digests_module
from db3kd.stages.digests import Digests

NOWHERE = Path("no-such-folder/digests.json")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(file: Path, pixels: np.ndarray = PIXELS, *, group: int = 5, labels: int = 2) -> Path:
    table = pa.table(
        {
            "image": [{"bytes": png(each)} for each in pixels],
            "label": np.arange(len(pixels)) % labels,
        }
    )
    pq.write_table(table, file, row_group_size=group)
    return file


def as_folders(folder: Path, pixels: np.ndarray = PIXELS) -> Path:
    for row, each in enumerate(pixels):
        place = folder / ("cat" if row < 6 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row:02}.png").write_bytes(png(each))
    return folder


def digest(images: object) -> str:
    return Digests(NOWHERE).of_images(images, 4096)  # type: ignore[arg-type]


def test_the_form_of_the_files_does_not_matter(tmp_path: Path) -> None:
    one = digest(ParquetImages([write(tmp_path / "a.parquet")]))
    assert one.startswith("encoded ")
    assert one == digest(ParquetImages([write(tmp_path / "b.parquet", group=2, labels=3)]))
    two = [write(tmp_path / "c.parquet", PIXELS[:7]), write(tmp_path / "d.parquet", PIXELS[7:])]
    assert one == digest(ParquetImages(two))
    assert one != digest(ParquetImages(two[::-1]))
    assert one == digest(FolderImages(as_folders(tmp_path / "folders")))


def test_pixels_in_memory_compare_with_each_other(tmp_path: Path) -> None:
    images = ParquetImages([write(tmp_path / "a.parquet")])
    kept = in_memory(images)
    assert digest(kept).startswith("values ")
    assert digest(kept) == digest(Joined(kept, TensorImages(kept.values[:0])))
    assert digest(kept) == digest(Rows(kept, torch.arange(12)))
    assert digest(kept) != digest(TensorImages(kept.values.float()))


@settings(max_examples=10, deadline=None)
@given(rows=st.permutations(range(12)), count=st.integers(1, 12))
def test_a_view_is_its_rows_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], count: int
) -> None:
    folder = tmp_path_factory.mktemp("view")
    chosen = torch.tensor(rows[:count])
    whole = ParquetImages([write(folder / "a.parquet")])
    alone = ParquetImages([write(folder / "b.parquet", PIXELS[chosen.numpy()])])
    assert digest(Rows(whole, chosen)) == digest(alone)
    twice = Rows(Rows(whole, chosen), torch.arange(count - 1, -1, -1))
    assert digest(twice) == digest(Rows(alone, torch.arange(count - 1, -1, -1)))
    same = count == 1
    assert (digest(twice) == digest(alone)) is same


@settings(max_examples=10, deadline=None)
@given(row=st.integers(0, 11), place=st.integers(0, 15), step=st.integers(1, 255))
def test_any_pixel_counts(
    tmp_path_factory: pytest.TempPathFactory, row: int, place: int, step: int
) -> None:
    folder = tmp_path_factory.mktemp("pixel")
    other = PIXELS.copy()
    flat = other.reshape(12, 16)
    flat[row, place] = (int(flat[row, place]) + step) % 256
    for make in (
        lambda name, pixels: ParquetImages([write(folder / name, pixels)]),
        lambda name, pixels: FolderImages(as_folders(folder / f"{name} folder", pixels)),
        lambda _, pixels: TensorImages(torch.from_numpy(pixels)[:, None]),
    ):
        assert digest(make("a", PIXELS)) != digest(make("b", other))


def test_names_places_and_times_do_not_matter_but_the_order_does(tmp_path: Path) -> None:
    first = digest(FolderImages(as_folders(tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").rglob("*.png"):
        os.utime(file, (1, 1))
    (tmp_path / "b" / "cat" / "05.png").rename(tmp_path / "b" / "cat" / "05 copy.png")
    assert digest(FolderImages(tmp_path / "b")) == first
    (tmp_path / "b" / "cat" / "00.png").rename(tmp_path / "b" / "cat" / "99.png")
    assert digest(FolderImages(tmp_path / "b")) != first


@pytest.fixture
def everything_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "LEAST_BYTES", 0)


@pytest.mark.usefixtures("everything_kept")
def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "COARSEST_S", -60.0)  # as if all files were old
    file, kept = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    first = Digests(kept).of_file(file)
    assert first == of_file(file)
    monkeypatch.setattr(digests_module, "of_file", None)
    assert Digests(kept).of_file(file) == first
    monkeypatch.undo()
    monkeypatch.setattr(digests_module, "LEAST_BYTES", 0)
    file.write_bytes(b"weighty")
    assert Digests(kept).of_file(file) == of_file(file) != first


@pytest.mark.usefixtures("everything_kept")
def test_same_size_and_time_do_not_hide_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests_module, "COARSEST_S", -60.0)
    file, kept = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    os.utime(file, (1_000, 1_000))
    first = Digests(kept).of_file(file)
    time.sleep(0.02)
    file.write_bytes(b"WEIGHTS")
    os.utime(file, (1_000, 1_000))
    assert Digests(kept).of_file(file) != first


@pytest.mark.usefixtures("everything_kept")
def test_a_file_of_this_moment_is_not_trusted(tmp_path: Path) -> None:
    file, kept = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    Digests(kept).of_file(file)
    assert not kept.exists()


@pytest.mark.usefixtures("everything_kept")
@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": 3}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_of_digests_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(digests_module, "COARSEST_S", -60.0)
    kept = tmp_path / "digests.json"
    kept.write_bytes(content)
    (tmp_path / "weights").write_bytes(b"weights")
    assert Digests(kept).of_file(tmp_path / "weights") == of_file(tmp_path / "weights")
    assert len(json.loads(kept.read_bytes())) == 1


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    images = ParquetImages([write(tmp_path / "a.parquet")])
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        digest(images)


def test_what_takes_long_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests_module, "PATIENCE_S", -1.0)
    told: list[tuple[str, int, int]] = []
    images = ParquetImages([write(tmp_path / "a.parquet")])
    Digests(NOWHERE, lambda *words: told.append(words[:3])).of_images(images, 5)
    assert told == [("digests of files", 0, 12)]


@pytest.mark.skipif(
    data_root() is None or not (data_root() or Path() / "mnist").is_dir(),
    reason="needs MNIST in DB3KD_DATA",
)
def test_all_of_mnist_takes_less_than_two_seconds() -> None:
    """In a process of its own: here every call is checked for its types."""
    code = (
        "import time; from pathlib import Path; from db3kd.data import load;"
        "from db3kd.stages.digests import Digests; images = load('mnist', 'train').images;"
        "begun = time.perf_counter(); Digests(Path('no/such')).of_images(images, 4096);"
        "print(time.perf_counter() - begun)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert float(found.stdout) < 2  # 0.25 s on one core
