import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replaced
from torch import Tensor, nn

from closed_form import Watching
from db3kd import student
from db3kd.config.settings import Training
from db3kd.data import Images, Rows, TensorImages, data_root, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError, RunError
from db3kd.seeds import derive_seed
from db3kd.student import batches, files, networks
from db3kd.student import training as loop
from db3kd.student.augmenting import Augmenter
from db3kd.student.optimisers import share_of_rate
from db3kd.student.soft_labels import temper as softmax_of

# Training


@pytest.fixture(scope="module")
def digits() -> tuple[TransferSet, TransferSet]:
    """1,200 of scikit-learn's 8x8 digits to learn from, 597 to be tested with."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = load_digits()
    pixels = (torch.from_numpy(data.images) * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    parts = [slice(0, 1200), slice(1200, 1797)]
    train, test = (
        TransferSet(TensorImages(pixels[at]), torch.arange(1797)[at], labels[at], labels[at])
        for at in parts
    )
    return train, test


def softened(plain: TransferSet) -> TransferSet:
    noise = torch.randn(len(plain), 10, generator=torch.Generator().manual_seed(0))
    return plain.with_soft(noise + 3 * nn.functional.one_hot(plain.teacher_labels, 10))


def small(seed: int = 0) -> nn.Module:
    return networks.build("small", (1, 8, 8), 10, seed=seed)


def uneven(seed: int = 0) -> nn.Module:
    """Return a network whose weights are laid out channels last while it is trained."""
    return networks.build("small", (1, 8, 8), 10, 0.3, seed=seed)


def restless(seed: int = 0) -> nn.Module:
    """Return a network with all that a checkpoint might forget: dropout and running means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(144, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip


def identical(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def size(network: nn.Module) -> float:
    return sum(float(parameter.detach().abs().sum()) for parameter in network.parameters())


def score(network: nn.Module, test: TransferSet) -> float:
    return student.accuracy(student.predict(network, test.images, device="cpu"), test.labels)


SHORT = Training(epochs=3, batch=64, rate=3e-3, warmup=0.0)
PLAIN = Training(optimiser="adam", warmup=0.0)


def test_it_learns_the_digits(digits: tuple[TransferSet, TransferSet]) -> None:
    train, test = digits
    training = Training(epochs=15, batch=64)
    network = student.train(small(), train, training, seed=0, device="cpu")
    assert not network.training
    assert score(network, test) > 0.85
    assert score(small(), test) < 0.3


def test_it_learns_from_soft_labels_alone(digits: tuple[TransferSet, TransferSet]) -> None:
    # The hard labels are all class 0 and lie; with a large weight the soft labels win.
    train, test = digits
    lying = TransferSet(
        train.images,
        train.ids,
        train.teacher_labels,
        torch.zeros_like(train.teacher_labels),
        softened(train).soft,
    )
    training = Training(epochs=10, batch=64, weight=10.0, temperature=1.0)
    assert score(student.train(small(), lying, training, seed=0, device="cpu"), test) > 0.85
    plain = lying.with_soft(None)
    assert score(student.train(small(), plain, training, seed=0, device="cpu"), test) < 0.2


def test_mnist_in_seconds() -> None:
    root = data_root()
    if root is None or not (root / "mnist").is_dir():
        pytest.skip("the data set mnist is not there; set DB3KD_DATA")
    data, test = load("mnist", "train[:1000]"), load("mnist", "test[:1000]")
    transfer = TransferSet(data.images, torch.arange(1000), data.labels, data.labels)
    network = networks.build("lenet5", (1, 28, 28), 10, 0.5, seed=0)
    network = student.train(network, transfer, Training(epochs=8, batch=32), seed=0, device="cpu")
    answers = student.predict(network, test.images, device="cpu")
    assert student.accuracy(answers, test.labels) > 0.8


def test_without_soft_labels_it_is_plain_cross_entropy(
    digits: tuple[TransferSet, TransferSet],
) -> None:
    # One batch, constant rate: two steps of the loop are two steps of torch's own Adam.
    train = digits[0].select(torch.arange(50))
    training = replaced(PLAIN, epochs=2, batch=50, schedule="constant", weight=7.0)
    ours = student.train(small(), train, training, seed=0, device="cpu")
    theirs = small()
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        logits = theirs(train.images.read(torch.arange(50)))
        torch.autograd.backward(nn.functional.cross_entropy(logits, train.labels))
        optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_cosine_spans_all_epochs(digits: tuple[TransferSet, TransferSet]) -> None:
    # Two steps in two epochs: the second is at rate/2 (cos(pi/2) = 0), as torch's scheduler has it.
    train = digits[0].select(torch.arange(50))
    training = replaced(PLAIN, epochs=2, batch=50, schedule="cosine")
    ours = student.train(small(), train, training, seed=0, device="cpu")
    theirs = small()
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 2)
    for _ in range(2):
        optimiser.zero_grad()
        logits = theirs(train.images.read(torch.arange(50)))
        torch.autograd.backward(nn.functional.cross_entropy(logits, train.labels))
        optimiser.step()
        schedule.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_seed_alone_decides_the_order_and_the_dropout(
    digits: tuple[TransferSet, TransferSet],
) -> None:
    train = softened(digits[0].select(torch.arange(300)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = student.train(restless(), train, SHORT, seed=4, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert identical(first, student.train(restless(), train, SHORT, seed=4, device="cpu"))
    assert not identical(first, student.train(restless(), train, SHORT, seed=5, device="cpu"))


def test_bytes_and_floats_are_the_same_images(digits: tuple[TransferSet, TransferSet]) -> None:
    train = digits[0].select(torch.arange(300))
    floats = TensorImages(train.images.read(torch.arange(300)))
    copy = TransferSet(floats, train.ids, train.teacher_labels, train.labels)
    assert identical(
        student.train(small(), train, SHORT, seed=0, device="cpu"),
        student.train(small(), copy, SHORT, seed=0, device="cpu"),
    )


class Recorded:
    """Images that note which rows were read."""

    def __init__(self, images: Images) -> None:
        self.images, self.rows = images, list[int]()
        self.shape, self.eight_bit = images.shape, images.eight_bit

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Tensor) -> Tensor:
        self.rows += rows.tolist()
        return self.images.read(rows)


def test_a_set_too_large_for_memory_is_read_in_blocks(
    digits: tuple[TransferSet, TransferSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = digits
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(batches, "WINDOW_BYTES", 256 * 64)  # 256 images of 64 bytes
    monkeypatch.setattr(batches, "BLOCK", 16)
    images = Recorded(train.images)
    large = TransferSet(images, train.ids, train.teacher_labels, train.labels)
    training = Training(epochs=15, batch=64)
    network = student.train(small(), large, training, seed=0, device="cpu")
    assert score(network, test) > 0.85
    epochs = torch.tensor(images.rows[1:]).reshape(15, 1200)  # the first is the check of the shape
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(1200))
    assert not torch.equal(epochs[0], epochs[1])
    window = epochs[0][:256]
    assert torch.equal(window, window.sort().values)
    # 16 whole blocks of 16 neighbours, and not the first 16.
    assert sorted(set((window // 16).bincount().tolist())) == [0, 16]
    assert int(window[-1]) > 256


def test_a_small_set_of_another_kind_is_read_once(digits: tuple[TransferSet, TransferSet]) -> None:
    train = digits[0].select(torch.arange(100))
    images = Recorded(train.images)
    copy = TransferSet(images, train.ids, train.teacher_labels, train.labels)
    network = student.train(small(), copy, SHORT, seed=0, device="cpu")
    assert images.rows == [0, *range(100)]
    assert identical(network, student.train(small(), train, SHORT, seed=0, device="cpu"))


@given(st.integers(1, 300), st.integers(1, 100))
@settings(deadline=None, max_examples=50)
def test_each_epoch_shows_each_image_once_in_full_batches(count: int, batch: int) -> None:
    spans = batches.spans(count, batch)
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in spans]
    assert all(size == batch for size in sizes[:-1])
    assert sizes[-1] <= batch + 1
    assert batch == 1 or count == 1 or min(sizes) > 1


@pytest.mark.parametrize(("count", "batch"), [(65, 64), (2, 64), (129, 64)])
def test_a_last_batch_of_one_does_not_stop_batch_normalisation(
    digits: tuple[TransferSet, TransferSet], count: int, batch: int
) -> None:
    train = digits[0].select(torch.arange(count))
    training = Training(epochs=1, batch=batch)
    network = student.train(restless(), train, training, seed=0, device="cpu")
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())


def test_rates_rise_and_fall_to_zero_over_all_steps() -> None:
    cosine = Training(schedule="cosine", warmup=0.0)
    # cos(0) = 1, cos(pi/2) = 0, cos(3 pi/4) = -sqrt(1/2): shares 1, 1/2, (1 - sqrt(1/2)) / 2.
    shares = [share_of_rate(cosine, step, 100) for step in (0, 50, 75)]
    assert shares == pytest.approx([1.0, 0.5, (1 - math.sqrt(0.5)) / 2])
    constant = Training(schedule="constant", warmup=0.0)
    assert share_of_rate(constant, 75, 100) == 1.0
    linear = Training(schedule="linear", warmup=0.2)
    shares = [share_of_rate(linear, step, 10) for step in range(10)]
    assert shares == pytest.approx([1 / 2, 1, *(1 - k / 8 for k in range(8))])


def test_weight_decay_shrinks_the_weights(digits: tuple[TransferSet, TransferSet]) -> None:
    train = digits[0].select(torch.arange(100))
    plain = student.train(small(), train, SHORT, seed=0, device="cpu")
    decayed = Training(epochs=3, batch=64, rate=3e-3, weight_decay=10.0)
    shrunk = student.train(small(), train, decayed, seed=0, device="cpu")
    assert size(shrunk) < 0.9 * size(plain)


def test_progress_and_on_epoch_see_each_epoch(digits: tuple[TransferSet, TransferSet]) -> None:
    seen: list[tuple[str, int, int]] = []
    losses: list[float] = []
    modes: list[tuple[int, bool]] = []

    def progress(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        seen.append((stage, done, total))
        losses.append(figures["loss"])

    student.train(
        small(), digits[0], SHORT, seed=0, device="cpu", progress=progress,
        on_epoch=lambda epoch, network: modes.append((epoch, network.training)),
    )  # fmt: skip
    each = -(-len(digits[0]) // SHORT.batch)
    ends = [("training", epoch * each, 3 * each) for epoch in (1, 2, 3)]
    assert [line for line in seen if line in ends] == ends
    losses = [loss for loss, line in zip(losses, seen, strict=True) if line in ends]
    assert losses[0] > losses[2] > 0
    assert losses[0] < 1.2 * math.log(10)
    assert modes == [(1, False), (2, False), (3, False)]


def test_joined_images_learn_both_labels_by_their_shares(
    digits: tuple[TransferSet, TransferSet],
) -> None:
    """One step on one batch is a step by the loss of mixup (Zhang et al., 2018), written out."""
    train = softened(digits[0].select(torch.arange(40)))
    training = Training(
        steps=1, batch=40, optimiser="adam", schedule="constant", augment=("mixup",)
    )
    ours = student.train(small(), train, training, seed=5, device="cpu")
    draw = torch.Generator().manual_seed(derive_seed(5, "order", 0))
    rows = torch.randperm(40, generator=draw)
    images, labels, soft = train.images.read(rows), train.labels[rows], train.soft
    assert soft is not None
    soft = softmax_of(soft[rows], training.temperature)
    made = Augmenter(("mixup",), (1, 8, 8))(images, derive_seed(5, "augment", 0))
    assert made.partner is not None
    assert made.share is not None
    theirs = small()
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    logits = theirs(made.images)
    log = nn.functional.log_softmax(logits / training.temperature, 1)
    loss = torch.zeros(())
    for row, (partner, share) in enumerate(zip(made.partner, made.share, strict=True)):
        for at, part in ((row, share), (int(partner), 1 - share)):
            hard = nn.functional.cross_entropy(logits[row], labels[at])
            divergence = (soft[at] * (soft[at].log() - log[row])).nansum()
            loss = loss + part * (hard + divergence) / 40
    torch.autograd.backward(loss)
    optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


# Checkpoints


class Stopped(Exception):
    pass


def stop_after(steps: int) -> Callable[..., None]:
    def progress(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if done == steps:
            raise Stopped

    return progress


@pytest.mark.parametrize("make", [small, uneven, restless])
@pytest.mark.parametrize("stops", [(1,), (4,), (2, 3)])
@pytest.mark.parametrize(
    "how",
    [{}, {"average": 0.5}, {"optimiser": "sgd"}, {"rate": 1e-3}, {"augment": ("mixup", "cutmix")}],
)
def test_a_training_that_was_stopped_ends_in_the_same_network(
    digits: tuple[TransferSet, TransferSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[int], nn.Module],
    stops: tuple[int, ...],
    how: dict[str, Any],
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    train = softened(digits[0].select(torch.arange(200)))
    training = Training(epochs=5, batch=64, weight_decay=0.1, **how)
    whole = student.train(make(0), train, training, seed=3, device="cpu")
    checkpoint = tmp_path / "training.safetensors"
    for stop in stops:
        with pytest.raises(Stopped):
            student.train(
                make(0), train, training, seed=3, device="cpu",
                checkpoint=checkpoint, progress=stop_after(4 * stop),
            )  # fmt: skip
        torch.rand(stop)
    epochs: list[int] = []
    resumed = student.train(
        make(0), train, training, seed=3, device="cpu", checkpoint=checkpoint,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )  # fmt: skip
    assert identical(whole, resumed)
    assert epochs == list(range(stops[-1] + 1, 6))
    assert os.listdir(tmp_path) == ["training.safetensors"]
    again = student.train(make(0), train, training, seed=3, device="cpu", checkpoint=checkpoint)
    assert identical(whole, again)


def test_stopped_within_an_epoch_it_goes_back_to_the_checkpoint(
    digits: tuple[TransferSet, TransferSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    train = digits[0].select(torch.arange(200))
    whole = student.train(restless(), train, SHORT, seed=3, device="cpu")
    calls, loss = 0, loop.distillation_loss

    def stop(*given: Any, **named: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 + 2:  # one epoch of four steps, two of the next
            raise Stopped
        return loss(*given, **named)

    checkpoint = tmp_path / "training.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "distillation_loss", stop)
        with pytest.raises(Stopped):
            student.train(restless(), train, SHORT, seed=3, device="cpu", checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = student.train(restless(), train, SHORT, seed=3, device="cpu", checkpoint=checkpoint)
    assert identical(whole, resumed)


def test_short_trainings_write_no_checkpoint(
    digits: tuple[TransferSet, TransferSet], tmp_path: Path
) -> None:
    train = digits[0].select(torch.arange(50))
    student.train(small(), train, SHORT, seed=0, device="cpu", checkpoint=tmp_path / "c")
    assert not os.listdir(tmp_path)


@pytest.fixture
def checkpoint(
    digits: tuple[TransferSet, TransferSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "training.safetensors"
    train = digits[0].select(torch.arange(50))
    student.train(small(), train, SHORT, seed=0, device="cpu", checkpoint=path)
    return path


@pytest.mark.parametrize("change", ["seed", "training", "transfer set", "network", "images"])
def test_the_checkpoint_of_another_training_is_refused(
    digits: tuple[TransferSet, TransferSet], checkpoint: Path, change: str
) -> None:
    train = digits[0].select(torch.arange(50) + (change == "transfer set"))
    if change == "images":  # the same ids and labels, other pixels
        train = replace(train, images=Rows(digits[0].images, torch.arange(50, 100)))
        change = "transfer set"
    training = replaced(SHORT, epochs=4 if change == "training" else 3)
    network = restless() if change == "network" else small()
    seed = 1 if change == "seed" else 0
    with pytest.raises(Damaged, match=f"training.safetensors is .*{change}"):
        student.train(network, train, training, seed=seed, device="cpu", checkpoint=checkpoint)


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_refused(
    digits: tuple[TransferSet, TransferSet], checkpoint: Path, damage: str
) -> None:
    content = checkpoint.read_bytes()
    altered = bytearray(content)
    altered[-5] ^= 1
    checkpoint.write_bytes(
        {
            "cut": content[:-10],
            "altered": bytes(altered),
            "empty": b"",
            "text": b"this is no checkpoint",
            "other": safetensors.torch.save({"weight": torch.zeros(2)}),
        }[damage]
    )
    train = digits[0].select(torch.arange(50))
    with pytest.raises(Damaged, match=r"training\.safetensors"):
        student.train(small(), train, SHORT, seed=0, device="cpu", checkpoint=checkpoint)


def test_altered_metadata_is_damage(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    three, two = b'\\"epoch\\": \\"3\\"', b'\\"epoch\\": \\"2\\"'
    assert content.count(three) == 1
    checkpoint.write_bytes(content.replace(three, two))
    with pytest.raises(Damaged, match="checksum"):
        files.read_tensors(checkpoint)


# Bad input


def test_what_cannot_be_trained_is_refused(digits: tuple[TransferSet, TransferSet]) -> None:
    train = digits[0].select(torch.arange(4))

    def run(
        network: nn.Module, transfer: TransferSet, training: Training = SHORT, device: str = "cpu"
    ) -> None:
        student.train(network, transfer, training, seed=0, device=device)

    with pytest.raises(InputError, match="empty"):
        run(small(), train.select(torch.arange(0)))
    with pytest.raises(InputError, match="Training: Expected"):
        run(small(), train, Training(batch=0))
    with pytest.raises(InputError, match="single images, got 1 images"):
        run(restless(), train.select(torch.arange(1)))
    with pytest.raises(InputError, match="single images, got 4 images in batches of 1"):
        run(restless(), train, Training(batch=1))
    run(small(), train.select(torch.arange(1)))
    run(small(), train, Training(batch=1, epochs=1))
    few = networks.build("small", (1, 8, 8), 3, seed=0)
    with pytest.raises(InputError, match="3 classes but the transfer set 4"):
        run(few, train)
    with pytest.raises(InputError, match="3 classes but the transfer set 10"):
        run(few, softened(train))
    with pytest.raises(InputError, match=r"fails on an image of shape \(1, 8, 8\): mat1"):
        run(nn.Linear(3, 10), train)
    with pytest.raises(InputError, match="device must be"):
        run(small(), train, device="gpu")
    with pytest.raises(InputError, match="no device cuda:99"):
        run(small(), train, device="cuda:99")


def test_a_training_that_diverges_is_an_error(digits: tuple[TransferSet, TransferSet]) -> None:
    training = Training(epochs=3, rate=1e30)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch \d; lower rate"):
        student.train(small(), digits[0], training, seed=0, device="cpu")


# Predictions


def test_prediction_does_not_depend_on_the_batch(digits: tuple[TransferSet, TransferSet]) -> None:
    images = digits[1].images
    network = restless().train()
    answers = student.predict(network, images, device="cpu", batch=len(images))
    assert network.training
    assert (answers.shape, answers.dtype) == ((597,), torch.int64)
    for batch in (1, 7, 10_000):
        assert torch.equal(answers, student.predict(network, images, device="cpu", batch=batch))
    with pytest.raises(InputError, match="batch must be"):
        student.predict(network, images, device="cpu", batch=0)


def test_large_images_are_shown_a_few_at_a_time() -> None:
    network = Watching()
    images = TensorImages(torch.zeros(60, 3, 224, 224))
    assert student.predict(network, images, device="cpu").shape == (60,)
    assert network.shown == [27, 27, 6]


def test_prediction_of_nothing_is_nothing(digits: tuple[TransferSet, TransferSet]) -> None:
    images = Rows(digits[1].images, torch.arange(0))
    assert student.predict(small(), images, device="cpu").shape == (0,)


def test_accuracy_and_agreement() -> None:
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 0])
    assert student.accuracy(a, b) == student.agreement(b, a) == 0.5
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(InputError, match="at least one"):
        student.accuracy(empty, empty)


# Networks on disk


def test_a_network_comes_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    saved = restless(0)
    student.save_network(path, saved)
    student.save_network(path, saved)
    assert os.listdir(tmp_path) == ["student.safetensors"]
    assert identical(saved, student.load_network(path, restless(1)))


def test_a_network_that_fails_to_save_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "student.safetensors"
    student.save_network(path, restless(0))

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, fail, raising=False)
    with pytest.raises(RunError, match="No space left"):
        student.save_network(path, restless(1))
    assert os.listdir(tmp_path) == ["student.safetensors"]
    assert identical(restless(0), student.load_network(path, restless(2)))


def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    with pytest.raises(InputError, match="there is no file"):
        student.load_network(path, small())
    network = nn.Linear(2, 3)
    for tensors, message in (
        ({"weight": torch.zeros(3, 2)}, "bias is missing"),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "more": torch.zeros(1)},
            "more is unknown",
        ),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)},
            r"weight is \(2, 3\) in the file and \(3, 2\) in the network",
        ),
    ):
        path.write_bytes(safetensors.torch.save(tensors))
        with pytest.raises(InputError, match=message):
            student.load_network(path, network)
    path.write_bytes(safetensors.torch.save({"weight": torch.ones(3, 2), "bias": torch.ones(3)}))
    assert size(student.load_network(path, network)) == 9.0
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=r"student\.safetensors cannot be read"):
        student.load_network(path, network)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_learns_the_digits_too(digits: tuple[TransferSet, TransferSet]) -> None:
    train, test = digits
    training = Training(epochs=15, batch=64, rate=3e-3)
    network = student.train(restless(), softened(train), training, seed=0, device="cuda")
    answers = student.predict(network, test.images, device="cuda")
    assert answers.device.type == "cpu"
    assert student.accuracy(answers, test.labels) > 0.85


# Labels and soft labels side by side, and a number of steps


def test_samples_without_a_label_are_half_of_what_is_seen() -> None:
    rows = torch.arange(40)
    known = TransferSet(TensorImages(torch.zeros(40, 1, 4, 4)), rows, rows % 2, rows % 2)
    labels, soft = torch.where(rows < 10, rows % 2, -1), torch.zeros(40, 2)
    ensemble_labels = replace(known, labels=labels, soft=soft, first=10)
    assert student.repeats(ensemble_labels, Training(steps=10_000)) == 3
    assert student.repeats(replace(ensemble_labels, labels=rows % 2), Training(steps=10_000)) == 1


def test_a_mixed_set_learns_as_a_whole_one_where_all_are_soft(
    digits: tuple[TransferSet, TransferSet],
) -> None:
    whole = softened(digits[0])
    same = replace(whole, soft_rows=torch.arange(len(whole)))
    nets = []
    for transfer in (whole, same):
        network = networks.build("small", transfer.images.shape, 10, seed=0)
        nets.append(student.train(network, transfer, Training(epochs=2), seed=0, device="cpu"))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_steps_count_instead_of_epochs(digits: tuple[TransferSet, TransferSet]) -> None:
    train_set = digits[0]
    each = -(-len(train_set) // 64)
    seen: list[tuple[int, int]] = []

    def network() -> nn.Module:
        return networks.build("small", train_set.images.shape, 10, seed=0)

    def taught(training: Training) -> nn.Module:
        seen.clear()
        return student.train(
            network(),
            train_set,
            training,
            seed=0,
            device="cpu",
            progress=lambda _, done, total, __: seen.append((done, total)),
        )

    by_steps = taught(Training(steps=2 * each, batch=64, epochs=50))
    assert seen[-1] == (2 * each, 2 * each)
    assert (each, 2 * each) in seen
    by_epochs = taught(Training(epochs=2, batch=64))
    for one, other in zip(by_steps.parameters(), by_epochs.parameters(), strict=True):
        assert torch.equal(one, other)
    fewer = taught(Training(steps=each + 1, batch=64))
    assert (each, each + 1) in seen
    assert seen[-1] == (each + 1, each + 1)
    assert any(
        not torch.equal(one, other)
        for one, other in zip(fewer.parameters(), by_epochs.parameters(), strict=True)
    )


# Own images among many that were grown of them


def grown_set(first: int | None, count: int = 90) -> TransferSet:
    """Own images say class 0, the others 1; which image is which is its brightness."""
    values = torch.arange(count).float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4) / 100
    labels = (torch.arange(count) >= 10).long()
    return TransferSet(TensorImages(values), torch.arange(count), labels, labels, first=first)


class Seen(nn.Module):
    """A network that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(16, 2), []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.rows.append((images[:, 0, 0, 0] * 100).round().long())
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("in_memory", [True, False])
def test_own_images_are_seen_often_enough_with_their_labels(
    monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    transfer, training = grown_set(10), Training(steps=40, batch=10)
    assert student.repeats(transfer, training) == 8  # 20 passes would take more than there are
    network = Seen()
    student.train(network, transfer, training, seed=0, device="cpu")
    counts = torch.bincount(torch.cat(network.rows), minlength=90)
    assert counts.sum() == 400
    assert (counts[:10] >= 16).all()  # 160 a pass, 80 of them own ones: two and a half passes
    assert (counts[10:] >= 2).all()
    assert (counts[10:] <= 3).all()


def test_where_steps_allow_the_order_is_that_of_any_set() -> None:
    training = Training(steps=1000, batch=10)
    seen = []
    for first in (10, None):
        network = Seen()
        torch.manual_seed(0)
        student.train(network, grown_set(first), training, seed=0, device="cpu")
        seen.append(torch.cat(network.rows))
    assert torch.equal(*seen)
    assert student.repeats(grown_set(10), Training(epochs=3, batch=10)) == 1
    assert student.repeats(grown_set(90), training) == 1
