"""What a student's file says of itself: which network it is, what it takes, how it was made.

It is read with suspicion, since files come from anywhere: nothing of it runs code, and no number in
it makes anything large.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from db3kd.config.types import Above0, Natural
from db3kd.data._pixels import FULL
from db3kd.data.names import MOST_CLASSES, check_names
from db3kd.errors import InputError, plain
from db3kd.storage.files import Json

INPUT = "float32 of 0 to 1, channels first; resized bicubic to cover the shape, the middle cut out"
FORMAT, VERSION = "db3kd student", 1
_Channels = Annotated[int, Meta(ge=1, le=1024)]
_Side = Annotated[int, Meta(ge=1, le=8192)]
_Number = Annotated[int, Meta(ge=2, le=MOST_CLASSES)]
_Names = Annotated[tuple[str, ...], Meta(max_length=MOST_CLASSES)]
_Few = Meta(max_length=1000)  # entries
_NEWER = "a newer db3kd may have written it"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """How a student was made; as far as it is known.

    - `method`, `seed`, `samples`, `training`: what it learned from, and how.
    - `recipe`: a digest of what its labels were bought with.
    - `teacher`: what the teacher was known by, a digest or a few words for each part.
    - `db3kd`, `torch`: the versions that trained it.

    There is no date, so that equal students are equal files.

    >>> Origin(method="ce", seed=0).teacher
    {}
    """

    method: str = ""
    seed: Natural = 0
    samples: Natural = 0
    training: Annotated[dict[str, Any], _Few] = {}
    recipe: str = ""
    teacher: Annotated[dict[str, str], _Few] = {}
    db3kd: str = ""
    torch: str = ""


class StudentCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a student is: its file can be loaded by this alone.

    - `network`, `width`; or `timm`; or `factory`, "module:function": what makes it. With none of
      them, whoever loads it must say that.
    - `shape`: channels, height and width of its images.
    - `classes`: their names, or how many there are.
    - `input`: what its images are.
    - `white`: the value that is white in grey images of more than 8 bits, as in its training; None
      if it saw none.
    - `code`: a digest of the code behind `factory`.
    - `origin`: how it was made.

    >>> StudentCard(network="small", shape=(1, 8, 8), classes=("cat", "dog")).count
    2
    """

    shape: tuple[_Channels, _Side, _Side]
    classes: _Names | _Number
    network: str | None = None
    width: Above0 = 1.0
    timm: str | None = None
    factory: str | None = None
    input: str = INPUT
    white: Annotated[float, Meta(gt=0, le=FULL)] | None = None
    code: str = ""
    origin: Origin = Origin()

    @classmethod
    def of_file(cls, path: str | Path) -> "StudentCard":
        """What the file of a student says; its checksum is compared, too.

        Raises:
            InputError: there is no such file, it says nothing, or something that cannot be.
            Damaged: the file cannot be read, or differs from its checksum.

        >>> import tempfile, torch
        >>> from db3kd.student.files import save_network
        >>> file = Path(tempfile.mkdtemp()) / "student.safetensors"
        >>> save_network(file, torch.nn.Flatten(), StudentCard(shape=(1, 1, 2), classes=2))
        >>> StudentCard.of_file(file).names
        ('0', '1')
        """
        from db3kd.student.files import read_tensors

        return card_in(read_tensors(Path(path))[1], Path(path))

    @property
    def count(self) -> int:
        """How many classes there are."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; their numbers if the names are not known."""
        return (
            tuple(map(str, range(self.classes))) if isinstance(self.classes, int) else self.classes
        )

    @property
    def kind(self) -> str:
        """What makes it, in words.

        >>> StudentCard(timm="resnet18", shape=(3, 32, 32), classes=10).kind
        "the timm model 'resnet18'"
        """
        if self.network is not None:
            return f"the network {plain(self.network, 60)!r}"
        if self.timm is not None:
            return f"the timm model {plain(self.timm, 60)!r}"
        return f"the factory {plain(self.factory or '(unknown)', 100)!r}"


def written(card: StudentCard) -> Json:
    """A card as the metadata of a file.

    Raises:
        InputError: something in it cannot be.

    >>> sorted(written(StudentCard(network="small", shape=(1, 8, 8), classes=10)))
    ['card', 'format']
    """
    held = msgspec.to_builtins(card)
    if card.white is None:
        del held["white"]  # as in the files of versions that did not know it
    _checked(held, "the card of the student")
    return {"format": f"{FORMAT} {VERSION}", "card": held}


def card_in(metadata: Json, path: Path) -> StudentCard:
    """The card in the metadata of a file.

    Raises:
        InputError: there is none, or one that cannot be.

    >>> card_in({"format": "db3kd student 7"}, Path("a.safetensors"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: a.safetensors is 'db3kd student 7'; a newer db3kd may have written ...
    """
    form = plain(metadata.get("format", ""), 60)
    if form.startswith(FORMAT) and form != f"{FORMAT} {VERSION}":
        raise InputError(f"{path} is {form!r}; {_NEWER}: pip install --upgrade db3kd")
    if "card" not in metadata:
        raise InputError(
            f"{path} holds weights alone: it does not say which network it is, what its classes are"
            " and which images it takes; load it with db3kd.student.load_network, or remove it and"
            " run `db3kd distill` again"
        )
    return _checked(metadata["card"], str(path))


def _checked(held: object, where: str) -> StudentCard:
    try:
        card = msgspec.convert(held, StudentCard)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} does not say what it is in a way that db3kd knows ({plain(error, 150)});"
            f" {_NEWER}, or it is damaged"
        ) from None
    if isinstance(card.classes, tuple):
        check_names(card.classes, where)
    if card.input != INPUT:
        raise InputError(
            f"{where} takes images of another kind ({plain(card.input, 100)!r}); {_NEWER}"
        )
    makers = [one for one in (card.network, card.timm, card.factory) if one is not None]
    if len(makers) > 1:
        raise InputError(f"{where} names several networks, of which one alone can be its own")
    return card
