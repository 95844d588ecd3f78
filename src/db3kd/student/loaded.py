"""A student that is used: its file is all that is needed."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.config.factories import Factory, factory_text
from db3kd.errors import InputError, plain
from db3kd.student.card import StudentCard, card_in
from db3kd.student.evaluate import device_of
from db3kd.student.files import mismatch, read_tensors
from db3kd.student.networks import blueprint, build
from db3kd.student.own import build_own, build_timm
from db3kd.student.pictures import batches


class Student(nn.Module):
    """A trained student, which knows its classes; `load_student` makes one.

    - `network`: the torch module itself.
    - `card`: what it is (`StudentCard`).
    - `classes`: the names of its classes, or their numbers "0", "1" and so on.

    >>> student = Student(nn.Flatten(), StudentCard(shape=(1, 1, 2), classes=("left", "right")))
    >>> student(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[0., 1.]])
    >>> student.predict(torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]]]))
    ['right', 'left']
    """

    def __init__(self, network: nn.Module, card: StudentCard) -> None:
        super().__init__()
        self.network, self.card, self.classes = network, card, card.names

    def forward(
        self, images: Float[Tensor, "row channels height width"]
    ) -> Float[Tensor, "row classes"]:
        """The logits of images that are converted already: float32 of 0 to 1."""
        logits: Tensor = self.network(images)
        return logits

    def scores(self, images: object) -> Float[Tensor, "row classes"]:
        """The probability of every class for each image, on the CPU; images as in `predict`.

        Raises:
            InputError: an image cannot be used.
        """
        return self.logits(images).softmax(1)

    def logits(self, images: object) -> Float[Tensor, "row classes"]:
        """What the network gives each image before the softmax, on the CPU; as `predict`.

        Raises:
            InputError: an image cannot be used.
        """
        found = [part.cpu() for part in self._logits(images)]
        return torch.cat([torch.zeros(0, self.card.count), *found])

    def predict(self, images: object) -> list[str]:
        """The names of the classes, one for each image.

        `images` is a file, a folder, a PIL image, an array or tensor of uint8 or of floats 0 to 1,
        or a list of these. They are recoloured and resized as for the training; floats must have
        the right size already. Files of a folder are in the order of `image_files`.

        Raises:
            InputError: an image cannot be used.
        """
        places = [part.argmax(1).tolist() for part in self._logits(images)]
        return [self.classes[place] for part in places for place in part]

    def _logits(self, images: object) -> Iterator[Tensor]:
        weight = next(self.parameters(), torch.zeros(0))
        mode = self.training
        self.eval()
        try:
            with torch.no_grad():
                for batch in batches(images, self.card.shape, self.card.white):
                    yield self(batch.to(weight)).float()
        finally:
            self.train(mode)


def load_student(
    path: str | Path, *, factory: Factory | None = None, device: str | torch.device = "cpu"
) -> Student:
    """Load a student from its file, ready to be used.

    `factory`: the function, or its "module:function", that makes a network of your own. A file may
    name one, but no code that a file names is ever run.

    Raises:
        InputError: there is no such file; it does not say what it is, or something that does not
            fit its weights; or it needs a factory.
        Damaged: the file cannot be read, or differs from its checksum.

    >>> import tempfile
    >>> from db3kd.student.files import save_network
    >>> file = Path(tempfile.mkdtemp()) / "student.safetensors"
    >>> card = StudentCard(network="small", shape=(1, 8, 8), classes=("cat", "dog"))
    >>> save_network(file, build("small", (1, 8, 8), 2, seed=0), card)
    >>> student = load_student(file)
    >>> student.classes, len(student.predict(torch.zeros(5, 1, 8, 8)))
    (('cat', 'dog'), 5)
    """
    file = Path(path)
    tensors, metadata = read_tensors(file)
    card = card_in(metadata, file)
    try:
        network = _network(card, factory, tensors)
    except InputError as error:
        raise InputError(f"{file} cannot be loaded: {error}") from None
    network.load_state_dict(tensors)
    return Student(network, card).to(device_of(device)).eval()


def _network(card: StudentCard, factory: Factory | None, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a card, with any weights, if those of the file fit it."""
    own = card.network is None and card.timm is None
    if own and factory is None:
        named = f" ({plain(card.factory, 100)})" if card.factory else ""
        raise InputError(
            f"it was made by code of your own{named}, and no code that a file names is run by"
            " itself; name it, as factory or --factory, if you trust it"
        )
    if not own and factory is not None:
        raise InputError(f"it is {card.kind}, so a factory is of no use; leave it out")
    if card.network is not None:  # compared before memory is taken for what the file says
        made = blueprint(card.network, card.shape, card.count, card.width)
        _check_fit(tensors, made, card.kind)
        return build(card.network, card.shape, card.count, card.width, seed=0)
    if card.timm is not None:
        made = build_timm(card.timm, card.shape, card.count, seed=0)
    else:
        made = build_own(factory or "", card.shape, card.count, seed=0)
    _check_fit(tensors, made, card.kind if factory is None else factory_text(factory))
    return made


def _check_fit(tensors: dict[str, Tensor], network: nn.Module, maker: str) -> None:
    wrong = mismatch(tensors, network.state_dict())
    if wrong:
        raise InputError(f"its weights are not those of {maker}: {plain(wrong)}")
