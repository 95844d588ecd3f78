"""Real servers that nobody here wrote, each asked as its own protocol wants it.

They live in `.venv-servers`, which `make servers` installs; where it is missing, nothing runs.
"""

import base64
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from db3kd.config.remote import Encoding, Names, Remote
from db3kd.teachers.remote import remote
from servers import real
from servers.plan import Plan
from servers.proxy import proxy

httpx2 = pytest.importorskip("httpx2", reason="httpx2 is what asks the servers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(real.MISSING is not None, reason=real.MISSING or ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def mlserver(folder: Path) -> Iterator[real.Server]:
    with real.mlserver(folder) as server:
        yield server


@pytest.fixture(scope="module")
def litserve(folder: Path) -> Iterator[real.Server]:
    with real.litserve(folder) as server:
        yield server


@pytest.fixture
def client() -> Iterator[Any]:
    with httpx2.Client(timeout=30) as made:
        yield made


def file_of(image: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(content, kind)
    return content.getvalue()


def tensor(images: np.ndarray, datatype: str) -> dict[str, Any]:
    """One input of the Open Inference Protocol."""
    sent = np.rint(images * 255).astype(np.uint8) if datatype == "UINT8" else images
    data, shape = sent.ravel().tolist(), list(sent.shape)
    if datatype == "BYTES":
        data = [base64.b64encode(file_of(image)).decode() for image in images]
        shape = [len(images), 1]
    return {"name": "image", "datatype": datatype, "shape": shape, "data": data}


def asked_anew(server: real.Server) -> tuple[int, int]:
    return server.requests(), server.images()


@pytest.mark.parametrize(
    ("model", "datatype"),
    [("digits", "FP32"), ("digits", "UINT8"), ("words", "FP32"), ("files", "BYTES")],
)
def test_mlserver(mlserver: real.Server, client: Any, model: str, datatype: str) -> None:
    images = mlserver.known.images[:128]
    expected = mlserver.known.labels if model == "digits" else mlserver.known.words
    requests, seen = asked_anew(mlserver)
    for path in (f"/v2/models/{model}/infer", f"/v2/models/{model}/versions/1/infer"):
        body = {"id": "mine", "inputs": [tensor(images, datatype)]}
        reply = client.post(mlserver.url + path, json=body).raise_for_status().json()
        [output] = reply["outputs"]
        assert reply["id"] == "mine"
        assert output["shape"] == [128, 1]
        assert output["datatype"] == ("INT64" if model == "digits" else "BYTES")
        assert output["data"] == expected[:128].tolist()
    assert asked_anew(mlserver) == (requests + 2, seen + 256)
    described = client.get(f"{mlserver.url}/v2/models/{model}").json()
    assert bool(described["inputs"]) == (model == "files")


def test_mlserver_gives_scores_to_those_who_ask(mlserver: real.Server, client: Any) -> None:
    body = {
        "inputs": [tensor(mlserver.known.images[:16], "FP32")],
        "outputs": [{"name": "predict_proba"}],
    }
    reply = client.post(f"{mlserver.url}/v2/models/digits/infer", json=body).json()
    [output] = reply["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [16, 10])
    scores = np.array(output["data"]).reshape(16, 10)
    assert scores.argmax(1).tolist() == mlserver.known.labels[:16].tolist()


def test_mlserver_says_no(mlserver: real.Server, client: Any) -> None:
    good = tensor(mlserver.known.images[:2], "FP32")
    wrong: list[tuple[str, dict[str, Any], int]] = [
        ("no_such_model", {"inputs": [good]}, 404),
        ("digits/versions/9", {"inputs": [good]}, 404),
        ("digits", {"inputs": []}, 400),
        ("digits", {"inputs": [good], "outputs": [{"name": "label"}]}, 400),
        ("digits", {}, 422),
        ("digits", {"inputs": [{**good, "shape": [2, 65]}]}, 500),  # a mistake of ours all the same
    ]
    for path, body, status in wrong:
        reply = client.post(f"{mlserver.url}/v2/models/{path}/infer", json=body)
        assert reply.status_code == status, path


@pytest.mark.parametrize("answer", ["digits", "words"])
def test_mlflow(folder: Path, client: Any, answer: str) -> None:
    with real.mlflow(folder, answer=answer) as server:
        images = server.known.images[:128]
        expected = server.known.labels if answer == "digits" else server.known.words
        before = asked_anew(server)
        for sent in (images, images.reshape(128, 64), np.rint(images * 255).astype(int)):
            reply = client.post(f"{server.url}/invocations", json={"inputs": sent.tolist()})
            assert reply.json() == {"predictions": expected[:128].tolist()}
        assert asked_anew(server) == (before[0] + 3, before[1] + 384)
        reply = client.post(f"{server.url}/invocations", json={"inputs": [[1.0, 2.0]]})
        assert (reply.status_code, reply.json()["error_code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_litserve(litserve: real.Server, client: Any, kind: str) -> None:
    known = litserve.known
    before = asked_anew(litserve)
    same = 0
    for image, word in zip(known.images[:64], known.words[:64], strict=True):
        headers = {"Content-Type": f"image/{kind}"}
        reply = client.post(
            f"{litserve.url}/predict", content=file_of(image, kind), headers=headers
        )
        best = reply.raise_for_status().json()
        assert [row["score"] for row in best] == sorted((r["score"] for r in best), reverse=True)
        same += best[0]["label"] == word
    assert same == 64 if kind == "png" else same > 55  # JPEG moves the image
    assert asked_anew(litserve) == (before[0] + 64, before[1] + 64)
    wrong = client.post(f"{litserve.url}/predict", content=b"text", headers=headers)
    assert wrong.status_code == 415


Start = Callable[[Path], AbstractContextManager[real.Server]]


@pytest.mark.parametrize("start", [real.mlserver, real.mlflow, real.litserve])
def test_after_the_block_nothing_of_it_runs(folder: Path, start: Start) -> None:
    with start(folder) as server:
        assert server.process is not None
        group = server.process.pid
        assert real.alive(group)
        server.restart()
        assert real.answers(server.port, server.ready)
        assert real.alive(group) == []
        group = server.process.pid
    assert real.alive(group) == []
    assert not real.answers(server.port, server.ready)


def test_a_crash_in_the_middle_costs_some_answers_and_no_more(
    mlserver: real.Server, client: Any, tmp_path: Path
) -> None:
    url = "/v2/models/digits/infer"
    known = mlserver.known

    def one(number: int) -> int:
        body = {"inputs": [tensor(known.images[number : number + 1], "FP32")]}
        for _ in range(400):
            try:
                reply = client.post(made.url + url, json=body)
            except httpx2.TransportError:
                continue
            if reply.status_code == 200:
                return int(reply.json()["outputs"][0]["data"][0])
            time.sleep(0.05)
        raise AssertionError("it never came back")

    plan = Plan(seed=1, shares={"error_after": 0.1, "reset_after": 0.1}, restarts=(30,))
    before = asked_anew(mlserver)
    with (
        proxy(mlserver.url, plan, tmp_path / "log", restart=mlserver.restart) as made,
        ThreadPoolExecutor(4) as pool,
    ):
        found = list(pool.map(one, range(100)))
    assert found == known.labels[:100].tolist()
    log = made.log()
    asked = mlserver.images() - before[1]
    assert sum(entry.good for entry in log) == 100
    assert sum(entry.status == 200 for entry in log) <= asked
    assert asked <= sum(entry.forwarded for entry in log)
    assert {entry.answer for entry in log} >= {200, 502}


# Our adapters: every protocol with every encoding that it can send, each with a real server

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FLOAT, FLAT = Encoding(kind="float32"), Encoding(kind="float32", layout="flat")
HWC = Encoding(kind="float32", layout="hwc")
BYTES, PNG, JPEG = Encoding(kind="uint8"), Encoding(kind="png"), Encoding(kind="jpeg", quality=100)
MATRIX: list[tuple[str, str, dict[str, Any]]] = [
    ("mlserver", "", {"protocol": "oip", "model": "digits", "encoding": FLOAT}),
    ("mlserver", "", {"protocol": "oip", "model": "digits", "version": "1", "encoding": FLAT}),
    ("mlserver", "", {"protocol": "oip", "model": "digits", "encoding": BYTES}),
    (
        "mlserver",
        "",
        {"protocol": "oip", "model": "digits", "encoding": HWC, "output": "predict_proba"},
    ),
    (
        "mlserver",
        "",
        {"protocol": "oip", "model": "words", "encoding": FLOAT, "names": Names(names=NAMES)},
    ),
    ("mlserver", "", {"protocol": "oip", "model": "files", "input": "image", "encoding": PNG}),
    ("mlserver", "", {"protocol": "oip", "model": "files", "input": "image", "encoding": JPEG}),
    ("litserve", "/predict", {"protocol": "raw", "encoding": PNG, "path": "[0].label"}),
    ("litserve", "/predict", {"protocol": "raw", "encoding": JPEG, "path": "[0].label"}),
    ("mlflow", "", {"protocol": "mlflow", "encoding": FLOAT}),
    ("mlflow", "", {"protocol": "mlflow", "encoding": BYTES}),
    (
        "mlflow",
        "/invocations",
        {
            "protocol": "template",
            "encoding": FLAT,
            "body": '{"inputs": "{images}"}',
            "path": "predictions",
            "headers": {"Content-Type": "application/json"},
        },
    ),
]


def title(case: tuple[str, str, dict[str, Any]]) -> str:
    server, _, settings = case
    encoding = settings["encoding"]
    words = [server, settings["protocol"], settings.get("model", ""), encoding.kind]
    return "-".join(word for word in (*words, encoding.layout) if word)


@pytest.fixture(scope="module")
def mlflow(folder: Path) -> Iterator[real.Server]:
    with real.mlflow(folder) as server:
        yield server


@pytest.mark.parametrize("case", MATRIX, ids=title)
def test_adapter_and_encoding(
    case: tuple[str, str, dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    name, path, settings = case
    server: real.Server = request.getfixturevalue(name)
    if settings["protocol"] == "raw" or settings.get("model") == "files":
        settings = {**settings, "names": Names(names=NAMES)}
    images, labels = torch.as_tensor(server.known.images), torch.as_tensor(server.known.labels)
    before = server.images()
    teacher = remote(
        Remote(url=server.url + path, **settings),
        classes=None if settings.get("names") else 10,
    )
    try:
        same = teacher.labels(images) == labels
    finally:
        teacher.close()
    # A JPEG moves pixels, and some images lie at a boundary; all else is what was asked.
    assert int(same.sum()) >= len(images) - (9 if settings["encoding"].kind == "jpeg" else 0)
    assert server.images() - before == len(images)


def test_metadata_fill_in_what_is_not_said(mlserver: real.Server) -> None:
    teacher = remote(
        Remote(url=mlserver.url, protocol="oip", model="files", names=Names(names=NAMES))
    )
    try:
        teacher.discover()
        assert (teacher.settings.input, teacher.settings.encoding.kind) == ("image", "png")
        images = torch.as_tensor(mlserver.known.images)[:50]
        assert torch.equal(teacher.labels(images), torch.as_tensor(mlserver.known.labels)[:50])
    finally:
        teacher.close()
