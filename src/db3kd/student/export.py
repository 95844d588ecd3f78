"""Students in formats of other programs, compared with the student itself before they are kept."""

import copy
import importlib.util
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.errors import Db3kdError, InputError, described, hint, plain
from db3kd.storage.files import write_atomically
from db3kd.student.loaded import Student
from db3kd.student.networks import inference_batch
from db3kd.student.pictures import batches

COMPARED = 100  # images of noise, and as many of the user's
ROUNDING = 1e-4  # of the largest score, at least of 1
MOST_BYTES = 2**31 - 2**20  # of an ONNX file
Dtype = Literal["float32", "uint8"]


@dataclass(frozen=True)
class Comparison:
    """How an exported file answers: on `images` images, against the student.

    `difference` is the largest one of two scores; `labels` the share of images, from 0 to 1, with
    the same class.

    >>> Comparison(100, 1e-6, 1.0).labels
    1.0
    """

    images: int
    difference: float
    labels: float


def export_onnx(
    student: Student, file: str | Path, *, dtype: Dtype = "float32", images: object = None
) -> Comparison:
    """Write a student as an ONNX file, whole or not at all, once ONNX Runtime agrees with it.

    The file takes `images` of shape (n, channels, height, width) for any n, and gives `scores` of
    shape (n, classes), before the softmax. Its metadata has "names", a JSON list of the classes,
    and "db3kd", all that the student's own file says.

    - `dtype`: "float32" for images of 0 to 1, or "uint8" for images of 0 to 255.
    - `images`: some to compare on as well as on noise, as for `Student.predict`.

    Nothing is random: the noise is always the same.

    Raises:
        InputError: the extra is not installed, the network cannot be exported, or the file does
            not give the student's scores.
        RunError: the file cannot be written.

    >>> from db3kd.student.card import StudentCard
    >>> card = StudentCard(shape=(1, 2, 2), classes=("cat", "dog"))
    >>> student = Student(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), card)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(student, Path(folder) / "student.onnx").labels
    1.0
    """
    runtime = _onnx_runtime()
    shown = _compared(student, images, dtype)
    network = _without_uneven_pools(_Exported(student.network, dtype))
    card = json.dumps(msgspec.to_builtins(student.card), sort_keys=True)
    with _refusing("an ONNX file", "; a program of torch.export may be possible"):
        content = _onnx_bytes(network, shown[:2])
        content += _property("names", json.dumps(student.classes)) + _property("db3kd", card)
        if len(content) > MOST_BYTES:
            raise InputError(f"this network has {len(content):,} bytes, too many for an ONNX file")
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def answered(some: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["scores"], {"images": some.numpy()})[0])

        found = _compare(_Exported(student.network, dtype), answered, shown)
    write_atomically(Path(file), content)
    return found


def export_torch(
    student: Student, file: str | Path, *, dtype: Dtype = "float32", images: object = None
) -> Comparison:
    """Write a student as a program of torch.export (".pt2"), once it agrees with the student.

    `torch.export.load(file).module()` runs it without db3kd and without the code of the network. It
    takes and gives what `export_onnx` says; the names of the classes are in the extra file
    "names.json".

    Raises:
        InputError: the network cannot be exported, or the program does not give its scores.
        RunError: the file cannot be written.

    >>> from db3kd.student.card import StudentCard
    >>> card = StudentCard(shape=(1, 2, 2), classes=("cat", "dog"))
    >>> student = Student(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), card)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_torch(student, Path(folder) / "student.pt2").labels
    1.0
    """
    shown = _compared(student, images, dtype)
    network, held = _Exported(student.network, dtype), io.BytesIO()
    names = {"names.json": json.dumps(student.classes)}
    with _refusing("a program of torch.export"):
        rows = torch.export.Dim("n")
        program = torch.export.export(network, (shown[:2],), dynamic_shapes=({0: rows},))
        torch.export.save(program, held, extra_files=names)
        held.seek(0)
        found = _compare(network, torch.export.load(held).module(), shown)
    write_atomically(Path(file), held.getvalue())
    return found


class _Exported(nn.Module):
    """A copy of a network on the CPU, which scales images of 8 bits itself."""

    def __init__(self, network: nn.Module, dtype: Dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu()
        self._eight_bit = dtype == "uint8"
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.float() / 255 if self._eight_bit else images
        scores: Tensor = self.network(scaled)
        return scores


class _Means(nn.Module):
    """Adaptive average pooling by two products, since ONNX knows it for whole factors only."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, hidden: Tensor) -> Tensor:
        height, width = (int(side) for side in hidden.shape[-2:])
        return _means(height, self.rows) @ hidden @ _means(width, self.columns).T


def _means(length: int, parts: int) -> Float[Tensor, "part place"]:
    """What takes the mean of each of some parts, which may share places, as PyTorch cuts them.

    >>> _means(3, 2)
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.5000, 0.5000]])
    """
    found = torch.zeros(parts, length)
    for part in range(parts):
        first, end = part * length // parts, -(-(part + 1) * length // parts)
        found[part, first:end] = 1 / (end - first)
    return found


def _without_uneven_pools(network: nn.Module) -> nn.Module:
    """The same network, whose adaptive pools ONNX knows."""
    for name, part in list(network.named_modules()):
        size = part.output_size if isinstance(part, nn.AdaptiveAvgPool2d) else None
        rows, columns = size if isinstance(size, tuple) else (size, size)
        if rows is not None and columns is not None and (rows, columns) != (1, 1):
            network.set_submodule(name, _Means(rows, columns))
    return network


@contextmanager
def _refusing(what: str, advice: str = "") -> Iterator[None]:
    """Turn what torch and the runtime raise into one sentence, and keep their own words back."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # that there are newer ways; what comes out is compared
            yield
    except Db3kdError:
        raise
    except Exception as error:  # of torch, of the runtime, or of the user's own network
        raise InputError(
            f"this network cannot be made into {what} ({described(error, 200)}){advice}"
        ) from error


def _onnx_runtime() -> Any:
    try:
        import onnx  # noqa: F401 - torch needs it
        import onnxruntime
    except ImportError:
        raise InputError(f"ONNX files are made and compared by the extra: {hint('onnx')}") from None
    return onnxruntime


def _onnx_bytes(network: nn.Module, example: Tensor) -> bytes:
    """The network as an ONNX model that takes any number of images.

    PyTorch's newer way needs onnxscript. The older one makes the same of such networks, and is
    taken where that is not installed.
    """
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["scores"]}
    if importlib.util.find_spec("onnxscript") is not None:
        shapes = ({0: torch.export.Dim("n")},)
        made = torch.onnx.export(
            network, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
        if made is not None:
            return bytes(made.model_proto.SerializeToString())
    free = {"images": {0: "n"}, "scores": {0: "n"}}
    with tempfile.TemporaryDirectory() as folder, _without_output():
        file = Path(folder) / "student.onnx"
        torch.onnx.export(network, (example,), file, dynamo=False, dynamic_axes=free, **names)
        return file.read_bytes()


@contextmanager
def _without_output() -> Iterator[None]:
    """Let nothing be written to standard output: PyTorch's own code shows a graph it cannot do."""
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _property(key: str, value: str) -> bytes:
    """A text in the metadata of an ONNX model, to be put after it (`metadata_props` of onnx.proto).

    It is field 14, an entry of two texts, key (1) and value (2); a length has seven bits a byte.
    """

    def field(number: int, content: bytes) -> bytes:
        length, head = len(content), bytearray([number << 3 | 2])
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        return bytes(head) + bytes([length]) + content

    return field(14, field(1, key.encode()) + field(2, value.encode()))


def _compared(student: Student, images: object, dtype: Dtype) -> Tensor:
    """Images to compare on: noise of every brightness, and the first of the user's."""
    if dtype not in ("float32", "uint8"):
        raise InputError(f'dtype must be "float32" or "uint8", got {plain(dtype, 40)!r}')
    draw = torch.Generator().manual_seed(0)
    shape = student.card.shape
    noise = torch.rand(COMPARED, *shape, generator=draw)
    shown = [noise * torch.linspace(0, 1, COMPARED).reshape(-1, 1, 1, 1)]
    if images is not None:
        for batch in batches(images, shape, student.card.white):
            shown.append(batch)
            if sum(map(len, shown)) >= 2 * COMPARED:
                break
    taken = torch.cat(shown)[: 2 * COMPARED]
    return (taken * 255).round().to(torch.uint8) if dtype == "uint8" else taken


def _compare(network: nn.Module, other: Callable[[Tensor], Tensor], shown: Tensor) -> Comparison:
    """How another program answers, against the network.

    Raises:
        InputError: it differs by more than rounding.
    """
    each = inference_batch(tuple(shown.shape[1:]))
    parts = [shown[:1], *torch.split(shown[1:], each)]  # one image alone, and several
    with torch.no_grad():
        mine, theirs = (torch.cat([ask(part) for part in parts]) for ask in (network, other))
    if mine.shape != theirs.shape or not bool(torch.isfinite(mine - theirs).all()):
        raise InputError(
            "the exported file does not give the student's scores: some are missing, or no numbers;"
            " nothing was written"
        )
    difference = float((mine - theirs).abs().max())
    labels = float((mine.argmax(1) == theirs.argmax(1)).float().mean())
    if difference > ROUNDING * max(1.0, float(mine.abs().max())):
        raise InputError(
            f"the exported file does not give the student's scores: they differ by up to"
            f" {difference:.2g}, and {100 * labels:.1f}% of the classes agree; nothing was written"
        )
    return Comparison(len(shown), difference, labels)
