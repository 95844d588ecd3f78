"""A student is asked about whatever people call an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from db3kd.data import FolderImages, TensorImages
from db3kd.errors import InputError
from db3kd.student import Student, StudentCard
from db3kd.student.card import written
from db3kd.student.files import save_network
from db3kd.student.pictures import image_files, picture


class Brightest(nn.Module):
    """Says in which quarter of an image it is brightest."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1) * 9


NAMES = ("top left", "top right", "bottom left", "bottom right")


def student(channels: int = 1, side: int = 4) -> Student:
    return Student(Brightest(), StudentCard(shape=(channels, side, side), classes=NAMES)).eval()


def quarter(place: int, side: int = 4) -> np.ndarray[Any, Any]:
    """A grey image that is white in one quarter."""
    pixels = np.zeros((side, side), np.uint8)
    half, (row, column) = side // 2, divmod(place, 2)
    pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] = 255
    return pixels


def colours(place: int, side: int = 4) -> np.ndarray[Any, Any]:
    return np.stack([quarter(place, side)] * 3, 2)


def floats(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels.astype("f8") / 255


FORMS: dict[str, Any] = {
    "grey": quarter(2),
    "grey of another size": quarter(2, 16),
    "channels last": quarter(2)[..., None],
    "channels first": quarter(2)[None],
    "colours last": colours(2),
    "colours first": colours(2).transpose(2, 0, 1)[None],
    "colours and alpha": np.dstack([colours(2, 8), np.full((8, 8), 255, np.uint8)]),
    "floats": floats(quarter(2)),
    "float32 tensor": torch.from_numpy(floats(quarter(2)))[None].float(),
    "half tensor": torch.from_numpy(floats(quarter(2))).half(),
    "uint8 tensor": torch.from_numpy(quarter(2)),
    "picture": Image.fromarray(colours(2, 12)),
    "several": quarter(2)[None, None],
    "several, last": colours(2)[None],
    "list": [quarter(2)],
    "tuple": (Image.fromarray(quarter(2)),),
    "generator": (quarter(2) for _ in range(1)),
    "set of images": TensorImages(torch.from_numpy(quarter(2))[None, None]),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_in_any_form(form: str) -> None:
    assert student().predict(FORMS[form]) == ["bottom left"]


def test_a_colour_student_takes_grey_images() -> None:
    asked = [quarter(1), Image.fromarray(quarter(1, 8)), colours(1), quarter(1, 8)[None]]
    assert student(3).predict(asked) == ["top right"] * 4


def test_several_images_in_order() -> None:
    expected = [NAMES[k % 4] for k in range(6)]
    stack = np.stack([quarter(k % 4) for k in range(6)])
    for given in (stack, stack[:, None], stack[..., None], list(stack), torch.from_numpy(stack)):
        assert student().predict(given) == expected


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    asked = student()
    asked.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    assert len(asked.predict(np.zeros((1300, 1, 4, 4), np.uint8))) == 1300
    assert sizes == [512, 512, 276]


def test_scores_are_probabilities() -> None:
    scores = student().scores([quarter(3), quarter(0)])
    assert scores.shape == (2, 4)
    assert torch.allclose(scores.sum(1), torch.ones(2))
    assert scores.argmax(1).tolist() == [3, 0]
    assert student().scores([]).shape == (0, 4)
    assert student().predict([]) == []


def test_weights_may_be_of_another_type() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    made = Student(network, StudentCard(shape=(1, 4, 4), classes=NAMES))
    before = made.predict(floats(quarter(2)))
    for kind in (torch.float64, torch.bfloat16):
        assert made.to(kind).predict(floats(quarter(2))) == before
    assert made.scores(quarter(2)).dtype == torch.float32


def test_the_mode_is_left_as_it_was() -> None:
    asked = student().train()
    asked.predict(quarter(0))
    assert asked.training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, place in (("b/1.png", 3), ("b/0.png", 2), ("a.PNG", 1), ("b/.hidden.png", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(quarter(place, 8)).save(tmp_path / name, "PNG")
    (tmp_path / ".git").mkdir()
    Image.fromarray(quarter(0)).save(tmp_path / ".git" / "x.png")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    return tmp_path


def test_files_and_folders(folder: Path) -> None:
    files = image_files([folder])
    assert [str(at.relative_to(folder)) for at in files] == ["a.PNG", "b/0.png", "b/1.png"]
    asked = student()
    assert asked.predict(folder) == [NAMES[1], NAMES[2], NAMES[3]]
    assert asked.predict([str(folder / "b" / "1.png"), folder / "b"]) == [
        NAMES[k] for k in (3, 2, 3)
    ]


def test_files_are_converted_as_for_the_training(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    trained = FolderImages(tmp_path, size=6, channels=1).read(torch.tensor([0]))[0]
    for given in (tmp_path / "cat" / "0.png", pixels, Image.fromarray(pixels)):
        assert torch.equal(picture(given, (1, 6, 6)), trained)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no-such.png", "there is no file or folder no-such.png"),
        ([Path("no-such.png")], "no-such.png"),
        ("a\x00b", "cannot be read|there is no file"),
        (7, "an image is int; give a file, a folder"),
        ([None], "an image is NoneType"),
        ({"a": 1}, "an image is dict"),
        (b"bytes", "an image is bytes"),
        (np.zeros((4, 4)) + 7, "floats of 7 to 7; give floats of 0 to 1, or uint8"),
        (np.full((4, 4), np.nan), "floats of nan to nan"),
        (np.zeros((5, 5)), "floats are not resized"),
        (np.zeros((4, 4), int), "an array of int64; give uint8"),
        (np.zeros((4, 4), object), "an array of object"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), "an array of"),
        (np.zeros((5, 5, 5), np.uint8), "an array of"),
        (np.zeros(16, np.uint8), "an array of"),
        (np.zeros((0, 4), np.uint8), "an array of"),
        (np.zeros((3, 4, 4), np.uint8), "may be 3 grey images or one with colours"),
        (TensorImages(torch.zeros(1, 3, 4, 4)), "the student takes"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        student().predict(given)
    assert str(caught.value).isprintable()


def test_arrays_that_may_be_one_image_or_several_are_refused() -> None:
    for given, says in (
        (np.zeros((6, 16), np.uint8), r"6 flat rows or one grey .* images.reshape\(-1, 1, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"3 grey images or one with colours; give \(3, 1, 4, 4\)"),
        (np.zeros((3, 9, 9), np.uint8), r"3 grey images or one with colours; give \(3, 1, 9, 9\)"),
    ):
        with pytest.raises(InputError, match=says):
            student().predict(given)
    assert len(student().predict(np.zeros((3, 9, 3), np.uint8))) == 1


def test_brain_floats_are_floats() -> None:
    given = torch.from_numpy(floats(quarter(2)))[None, None].bfloat16()
    assert student().predict(given) == ["bottom left"]


def test_files_of_a_folder_are_not_left_out_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "in/b.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(quarter(2)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("")
    assert len(image_files([tmp_path])) == 2
    assert not caplog.text
    (tmp_path / "in/c.HEIC").write_bytes(b"")
    (tmp_path / "d.png").symlink_to("gone.png")
    found = image_files([tmp_path])
    assert [file.name for file in found] == ["a.png", "d.png", "b.PNG"]
    assert "(.heic) are left out: 1, the first is in/c.HEIC" in caplog.text
    with pytest.raises(InputError, match=r"d.png cannot be decoded: FileNotFoundError"):
        student().predict(tmp_path)


@pytest.mark.parametrize("white", [1023.0, 4095.0, 65535.0, None])
def test_white_is_that_of_the_training(tmp_path: Path, white: float | None) -> None:
    """An image of more than 8 bits does not say itself how bright it is."""
    file = tmp_path / "deep.png"
    Image.fromarray(quarter(2).astype("u2") * 4).save(file)
    card = StudentCard(shape=(1, 4, 4), classes=NAMES, white=white)
    held = tmp_path / "student.safetensors"
    save_network(held, nn.Linear(1, 4), card)
    assert StudentCard.of_file(held) == card
    asked = Student(Brightest(), card).eval()
    for given in (file, Image.open(file)):
        logits = asked.logits(given)[0]
        assert float(logits.max()) == pytest.approx(9 * round(1020 / (white or 65535) * 255) / 255)


def test_a_card_without_white_is_as_before(tmp_path: Path) -> None:
    card = StudentCard(shape=(1, 4, 4), classes=NAMES)
    assert "white" not in written(card)["card"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(InputError, match=r"bad.png cannot be decoded"):
        student().predict(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none holds no images"):
        student().predict(tmp_path / "none")


def test_a_picture_that_is_not_square(tmp_path: Path) -> None:
    wide = (1, 2, 4)
    assert picture(np.full((2, 4), 255, np.uint8), wide).shape == wide
    Image.new("RGB", (4, 2), "white").save(tmp_path / "w.png")
    assert picture(tmp_path / "w.png", wide).unique().tolist() == [1.0]
