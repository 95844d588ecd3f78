from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from db3kd import teachers
from db3kd.config.settings import Budget
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter
from db3kd.teachers.torch_module import prepare

# One classifier in four disguises: the largest of three linear scores of 16 pixels. Pixels are
# multiples of 1/4, weights whole and offsets multiples of 1/16, so every sum is exact in float32
# and no two scores are equal.
WEIGHTS = torch.randint(-4, 5, (3, 16), generator=torch.Generator().manual_seed(32)).float()
OFFSETS = torch.tensor([0.0, 1 / 16, 2 / 16])
IMAGES = torch.randint(0, 5, (23, 1, 4, 4), generator=torch.Generator().manual_seed(2)) / 4
EXPECTED = np.argmax(IMAGES.flatten(1).numpy() @ WEIGHTS.numpy().T + OFFSETS.numpy(), axis=1)


def linear_module() -> nn.Module:
    layer = nn.Linear(16, 3)
    layer.weight.data, layer.bias.data = WEIGHTS.clone(), OFFSETS.clone()
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.9), layer)


def linear_sklearn() -> Any:
    """A fitted classifier with class names instead of numbers."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression()
    model.classes_ = np.array(["ant", "bee", "cat"])
    model.coef_, model.intercept_ = WEIGHTS.numpy(), OFFSETS.numpy()
    model.n_features_in_ = 16
    return model


def onnx_file(folder: Path, *, scores: bool = True, flat: bool = False, offset: float = 0) -> Path:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = ["row", 16] if flat else ["row", 1, 4, 4]
    entry = helper.make_tensor_value_info("images", kinds.FLOAT, shape)
    nodes = [
        helper.make_node("Flatten", ["images"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "weights", "offsets"], ["scores"], transB=1),
        helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
    ]
    leave = (
        helper.make_tensor_value_info("scores", kinds.FLOAT, ["row", 3])
        if scores
        else helper.make_tensor_value_info("class", kinds.INT64, ["row"])
    )
    constants = [
        helper.make_tensor("weights", kinds.FLOAT, (3, 16), WEIGHTS.flatten().tolist()),
        helper.make_tensor("offsets", kinds.FLOAT, (3,), (OFFSETS + offset).tolist()),
    ]
    graph = helper.make_graph(nodes[: 2 if scores else 3], "linear", [entry], [leave], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    target = folder / "linear.onnx"
    onnx.save(model, str(target))
    return target


class Conforms:
    """What every adapter owes; a subclass says how to make one."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[int], Teacher]:
        """A teacher that asks at most so many images at once."""
        raise NotImplementedError

    @pytest.fixture
    def teacher(self, make: Callable[[int], Teacher]) -> Teacher:
        return make(8)

    def test_is_a_teacher(self, teacher: Teacher) -> None:
        assert isinstance(teacher, Teacher)
        assert (teacher.classes, teacher.bounds) == (3, (0.0, 1.0))

    def test_answers_the_top_class(self, teacher: Teacher) -> None:
        answers = teacher.labels(IMAGES)
        assert answers.tolist() == EXPECTED.tolist()
        assert set(EXPECTED.tolist()) == {0, 1, 2}  # or the test above would say little

    def test_answers_whole_numbers_where_the_images_are(self, teacher: Teacher) -> None:
        answers = teacher.labels(IMAGES)
        assert (answers.dtype, answers.device) == (torch.int64, IMAGES.device)
        assert not answers.is_inference()

    def test_says_the_same_twice(self, teacher: Teacher) -> None:
        assert torch.equal(teacher.labels(IMAGES), teacher.labels(IMAGES))

    def test_leaves_the_images_alone(self, teacher: Teacher) -> None:
        shown = IMAGES.clone()
        teacher.labels(shown)
        assert torch.equal(shown, IMAGES)

    @pytest.mark.parametrize("batch", [1, 7, 23, 1000])
    def test_does_not_depend_on_the_batch(self, make: Callable[[int], Teacher], batch: int) -> None:
        assert make(batch).labels(IMAGES).tolist() == EXPECTED.tolist()

    def test_takes_one_image(self, teacher: Teacher) -> None:
        assert teacher.labels(IMAGES[4:5]).tolist() == EXPECTED[4:5].tolist()

    def test_takes_no_image(self, teacher: Teacher) -> None:
        answers = teacher.labels(IMAGES[:0])
        assert (answers.shape, answers.dtype) == ((0,), torch.int64)

    def test_takes_images_in_any_memory_order(self, teacher: Teacher) -> None:
        upright = IMAGES.transpose(2, 3).contiguous().transpose(2, 3)
        assert not upright.is_contiguous()
        assert teacher.labels(upright).tolist() == EXPECTED.tolist()
        assert teacher.labels(IMAGES[::2]).tolist() == EXPECTED[::2].tolist()

    def test_costs_one_query_an_image(self, teacher: Teacher) -> None:
        meter = Meter(teacher, Budget(queries=30))
        assert meter.labels(IMAGES).tolist() == EXPECTED.tolist()
        with pytest.raises(BudgetExhausted):
            meter.labels(IMAGES)
        assert meter.spent == 23

    def test_names_the_shape_of_images_that_do_not_fit(self, teacher: Teacher) -> None:
        with pytest.raises(TeacherError, match=r"2, 2, 4, 4"):
            teacher.labels(torch.zeros(2, 2, 4, 4))

    def test_works_again_after_a_failure(self, teacher: Teacher) -> None:
        with pytest.raises(TeacherError):
            teacher.labels(torch.zeros(2, 3, 4, 4))
        assert teacher.labels(IMAGES).tolist() == EXPECTED.tolist()


class TestTorchModule(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        return lambda batch: teachers.torch_module(linear_module(), classes=3, batch=batch)


class TestTorchModuleAsWritten(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        return lambda batch: teachers.torch_module(
            linear_module(), classes=3, batch=batch, fast=False
        )


class TestTorchModuleRewritten(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        # Pixels are not negative, so neither ReLU nor a pool of one pixel changes the scores.
        one = nn.Conv2d(1, 1, 1, bias=False)
        one.weight.data.fill_(1.0)
        net = nn.Sequential(one, nn.ReLU(), nn.MaxPool2d(1), linear_module())
        return lambda batch: teachers.torch_module(net, classes=3, batch=batch)

    def test_is_rewritten(self, teacher: Teacher) -> None:
        teacher.labels(IMAGES)
        assert "pool before ReLU, channels_last; batches of 8" in repr(teacher)


class TestSklearn(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        return lambda batch: teachers.sklearn(linear_sklearn(), batch=batch)


class TestOnnxScores(Conforms):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[int], Teacher]:
        file = onnx_file(tmp_path)
        return lambda batch: teachers.onnx(file, classes=3, batch=batch, threads=1)


class TestOnnxClasses(Conforms):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[int], Teacher]:
        file = onnx_file(tmp_path, scores=False)
        return lambda batch: teachers.onnx(str(file), classes=3, batch=batch, threads=1)


class TestOnnxFlat(Conforms):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[int], Teacher]:
        file = onnx_file(tmp_path, flat=True)
        return lambda batch: teachers.onnx(file, classes=3, batch=batch, threads=1)


class TestFunction(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        def ask(images: Tensor) -> Tensor:
            return (images.flatten(1) @ WEIGHTS.T + OFFSETS).argmax(1)

        return lambda batch: teachers.function(ask, classes=3, batch=batch)


class TestFunctionOfLists(Conforms):
    @pytest.fixture
    def make(self) -> Callable[[int], Teacher]:
        def ask(images: Tensor) -> list[int]:
            scores = images.flatten(1).numpy() @ WEIGHTS.numpy().T + OFFSETS.numpy()
            return [int(row.argmax()) for row in scores]

        return lambda batch: teachers.function(ask, classes=3, batch=batch)


# Bad teachers


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (lambda images: images.flatten(1) @ WEIGHTS.T, "argmax"),
        (lambda images: torch.zeros(len(images)), "float32"),
        (lambda images: ["ant"] * len(images), "map names"),
        (lambda images: [0] * (len(images) - 1), r"shape \(22,\) to 23"),
        (lambda images: [0] * (len(images) + 1), r"shape \(24,\) to 23"),
        (lambda images: 0, r"shape \(\)"),
        (lambda images: None, "NoneType"),
        (lambda images: [0] * (len(images) - 1) + [3], "class 3"),
        (lambda images: [-1] * len(images), "class -1"),
        (lambda images: [float("nan")] * len(images), "float32"),
        (lambda images: 1 / 0, "ZeroDivisionError.*division by zero"),
    ],
)
def test_a_bad_callable_is_a_teacher_error(answers: Callable[[Tensor], object], says: str) -> None:
    with pytest.raises(TeacherError, match=says):
        teachers.function(answers, classes=3).labels(IMAGES)


def test_a_teacher_that_fails_in_the_middle_is_counted_to_the_end() -> None:
    calls: list[int] = []

    def ask(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) == 2:
            raise ConnectionError("closed by the peer")
        return torch.zeros(len(images))[:] > 0

    meter = Meter(teachers.function(ask, classes=3, batch=8))
    with pytest.raises(TeacherError, match=r"\(8, 1, 4, 4\).*ConnectionError: closed") as caught:
        meter.labels(IMAGES)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert (meter.spent, calls) == (23, [8, 8])


def test_what_a_callable_raises_from_this_library_comes_through() -> None:
    def ask(_: Tensor) -> object:
        raise BudgetExhausted(spent=1, asked=2, budget=2)

    with pytest.raises(BudgetExhausted):
        teachers.function(ask, classes=2).labels(IMAGES)


def test_an_interrupt_is_no_teacher_error() -> None:
    def ask(_: Tensor) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teachers.function(ask, classes=2).labels(IMAGES)


def test_a_callable_that_writes_into_its_images_cannot_touch_the_callers() -> None:
    def ask(images: Tensor) -> Tensor:
        return images.sub_(0.5).flatten(1).mean(1) > 0

    shown = IMAGES.clone()
    teachers.function(ask, classes=2).labels(shown)
    assert torch.equal(shown, IMAGES)


def test_a_module_that_writes_into_its_images_cannot_touch_the_callers() -> None:
    shown = IMAGES - 0.5
    net = nn.Sequential(nn.ReLU(inplace=True), linear_module())
    teachers.torch_module(net, classes=3).labels(shown)
    assert torch.equal(shown, IMAGES - 0.5)


@pytest.mark.parametrize(("classes", "bounds"), [(1, (0.0, 1.0)), (0, (0.0, 1.0)), (3, (1.0, 1.0))])
def test_impossible_classes_and_bounds_are_refused(
    classes: int, bounds: tuple[float, float], tmp_path: Path
) -> None:
    file = onnx_file(tmp_path)
    for make in (
        lambda: teachers.function(len, classes=classes, bounds=bounds),
        lambda: teachers.torch_module(linear_module(), classes=classes, bounds=bounds),
        lambda: teachers.onnx(file, classes=classes, bounds=bounds),
    ):
        with pytest.raises(InputError, match=r"at least 2 classes|bounds"):
            make()


def test_a_module_is_put_into_evaluation_mode_and_keeps_no_gradients() -> None:
    net = linear_module().train()
    seen: list[bool] = []
    net.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    teachers.torch_module(net, classes=3).labels(IMAGES)
    assert (net.training, seen) == (False, [False])


def test_a_module_is_asked_in_evaluation_mode_whatever_its_mode_is_since() -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1), linear_module())
    teacher = teachers.torch_module(net, classes=3)
    before = teacher.labels(IMAGES)
    for part in (net[1], net):
        part.train()
        assert torch.equal(teacher.labels(IMAGES), before)
    assert [part.training for part in (net, net[0], net[1])] == [True] * 3
    assert not net[1].num_batches_tracked


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (linear_module().state_dict(), "the teacher is a OrderedDict; a torch module is expected"),
        (nn.Flatten, "the teacher is the class Flatten; a torch module is expected"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "layers whose weights are not made yet"),
    ],
)
def test_what_is_no_module_with_weights(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        prepare(given, None)


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="cannot be moved to the device 'gpu'"):
        teachers.torch_module(linear_module(), classes=3, device="gpu")


def test_a_program_of_torch_export_is_a_module() -> None:
    net = linear_module().eval()
    rows = torch.export.Dim("n")
    program = torch.export.export(net, (IMAGES[:2],), dynamic_shapes=({0: rows},))
    right = teachers.torch_module(net, classes=3).labels(IMAGES)
    assert torch.equal(teachers.torch_module(program.module(), classes=3).labels(IMAGES), right)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Flatten(), r"\(23, 16\).*\(23, 3\)"),
        (nn.Sequential(linear_module(), nn.Linear(3, 4)), r"\(23, 4\)"),
        (nn.Sequential(linear_module(), nn.Flatten(0)), r"\(69,\)"),
        (nn.LSTM(4, 4), "expected|LSTM|tuple"),
        (nn.Sequential(linear_module(), nn.Threshold(99, float("nan"))), "not a number"),
    ],
)
def test_a_bad_module_is_a_teacher_error(module: nn.Module, says: str) -> None:
    with pytest.raises(TeacherError, match=says):
        teachers.torch_module(module, classes=3).labels(IMAGES)


def test_an_onnx_model_with_scores_that_are_no_numbers_is_a_teacher_error(tmp_path: Path) -> None:
    file = onnx_file(tmp_path, offset=float("nan"))
    with pytest.raises(TeacherError, match="not a number"):
        teachers.onnx(file, classes=3).labels(IMAGES)


def test_an_onnx_model_with_other_classes_is_refused_at_once(tmp_path: Path) -> None:
    file = onnx_file(tmp_path)
    with pytest.raises(InputError, match="says 10, but the model has 3"):
        teachers.onnx(file, classes=10)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_an_onnx_file_that_cannot_be_loaded_is_named(tmp_path: Path, content: bytes | None) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.onnx"):
        teachers.onnx(file, classes=3)


def test_scikit_learn_needs_a_fitted_classifier() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    for estimator in (linear_model.LogisticRegression(), linear_model.LinearRegression(), 3):
        with pytest.raises(InputError, match=type(estimator).__name__):
            teachers.sklearn(estimator)


def test_scikit_learn_classes_need_not_count_from_zero() -> None:
    tree = pytest.importorskip("sklearn.tree")
    model = tree.DecisionTreeClassifier(random_state=0)
    model.fit([[0.0], [0.5], [1.0]], [70, -3, 12])  # sorted: -3, 12, 70
    teacher = teachers.sklearn(model)
    assert teacher.classes == 3
    assert teacher.labels(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)).tolist() == [2, 0, 1]


def test_a_scikit_learn_answer_outside_its_classes_is_a_teacher_error() -> None:
    class Wrong:
        classes_ = np.array([0, 2, 4])

        def predict(self, pixels: np.ndarray) -> np.ndarray:
            return np.full(len(pixels), 1)  # searchsorted alone would call it class 1, that is "2"

    with pytest.raises(TeacherError):
        teachers.sklearn(Wrong()).labels(IMAGES)
