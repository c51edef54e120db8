"""The demonstration as a program sees it: answers, bounds, and what it never shows."""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from sklearn.datasets import load_digits
from starlette.testclient import TestClient

import cnnlab
from cnnlab.cli import main
from cnnlab.data.decode import Layout, kept_box
from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy import app, connections, uploads
from cnnlab.deploy.app import LOOK_POLICY, create_app
from cnnlab.deploy.batching import MicroBatcher, QueueFull
from cnnlab.deploy.demo import bind
from cnnlab.deploy.memory import Memory
from cnnlab.deploy.service import Service
from cnnlab.deploy.uploads import Uploads
from cnnlab.errors import ConfigError
from cnnlab.look.page import write_look

if TYPE_CHECKING:
    from conftest import CommandLine

ORIGIN = "http://127.0.0.1:8000"


def as_png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def digit(number: int) -> bytes:
    return as_png(np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8))


@pytest.fixture(scope="module")
def service(good_run: Path) -> Service:
    return Service.from_run(good_run)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), base_url=ORIGIN, raise_server_exceptions=False) as made:
        yield made


def error_of(answer: httpx.Response) -> str:
    """The one sentence of an answer that is no result."""
    assert set(answer.json()) == {"error"}
    sentence: str = answer.json()["error"]
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# ---- answers


def test_predict_answers_as_the_run_does_whatever_way_the_image_is_sent(client: TestClient, good_run: Path) -> None:
    predictor = cnnlab.Predictor.from_run(good_run)
    for number in range(5):
        expected = predictor.predict(digit(number))[0]
        for answer in (
            client.post("/predict", content=digit(number)),
            client.post("/predict", files={"picture": ("a.png", digit(number), "image/png")}),
            client.post("/predict?topk=10", content=digit(number), headers={"content-type": "image/png"}),
        ):
            assert answer.status_code == 200
            facts = answer.json()
            assert facts["label"] == expected.label
            assert facts["probability"] == pytest.approx(expected.probability, abs=1e-4)
            assert [one["label"] for one in facts["top"][:2]] == list(expected.probabilities)[:2]
            assert facts["milliseconds"] > 0
    assert len(client.post("/predict?topk=3", content=digit(0)).json()["top"]) == 3
    assert len(client.post("/predict?topk=999", content=digit(0)).json()["top"]) == 10


def test_explain_gives_a_transparent_map_of_the_part_that_the_network_sees(client: TestClient) -> None:
    wide = np.zeros((16, 24), np.uint8)
    wide[:, 4:20] = np.asarray(Image.open(io.BytesIO(digit(3))).resize((16, 16)))
    facts = client.post("/explain", content=as_png(wide)).json()
    assert facts["size"] == [24, 16]
    assert facts["seen"] == [4, 0, 20, 16]
    assert facts["method"] in ("CAM", "Grad-CAM")
    assert facts["target"] == facts["label"]
    overlay = Image.open(io.BytesIO(base64.b64decode(facts["overlay"].split(",")[1])))
    assert overlay.mode == "RGBA"
    assert np.asarray(overlay)[..., 3].max() == 255
    assert client.post("/explain?target=7", content=digit(3)).json()["target"] == "7"
    assert "no class 'cat'" in error_of(client.post("/explain?target=cat", content=digit(3)))


def test_the_map_of_the_page_is_that_of_the_library(service: Service, good_run: Path) -> None:
    model, _ = cnnlab.load_run(good_run)
    image = Image.open(io.BytesIO(digit(6)))
    heat = cnnlab.explain.activation_maps(model, service.preprocess(image)[None])[0]
    overlay = Image.open(io.BytesIO(base64.b64decode(service.explain(image, None)["overlay"].split(",")[1])))
    strength = np.asarray(overlay.resize((8, 8), Image.Resampling.BOX))[..., 3] / 255
    assert np.corrcoef(strength.flatten() ** 2, heat.flatten())[0, 1] > 0.95


def test_localize_gives_boxes_inside_the_image(client: TestClient) -> None:
    page = np.zeros((24, 30), np.uint8)
    page[8:16, 11:19] = np.asarray(Image.open(io.BytesIO(digit(0))))
    facts = client.post("/localize", content=as_png(page)).json()
    assert facts["size"] == [30, 24]
    for thing in facts["objects"]:
        left, top, right, bottom = thing["box"]
        assert 0 <= left < right <= 30
        assert 0 <= top < bottom <= 24


def test_the_card_says_what_the_run_folder_says(client: TestClient, good_run: Path) -> None:
    card, test = client.get("/model").json(), json.loads((good_run / "test.json").read_text())
    assert card["accuracy"] == {"value": test["accuracy"], "interval": test["accuracy_interval"], "n": test["n"]}
    assert card["classes"] == [str(number) for number in range(10)]
    assert card["input"] == {"channels": 1, "height": 8, "width": 8}
    assert sum(row["parameters"] for row in card["layers"]) == card["parameters"] > 0
    assert card["dark_background"] is True


def test_samples_are_images_of_the_test_split_of_every_class(client: TestClient, good_run: Path) -> None:
    listed = client.get("/samples").json()
    assert {one["label"] for one in listed} == {str(number) for number in range(10)}
    answers = [client.post("/predict", content=client.get(f"/samples/{one['number']}").content) for one in listed]
    right = [answer.json()["label"] == one["label"] for one, answer in zip(listed, answers, strict=True)]
    assert sum(right) >= len(listed) - 2
    for number in (-1, len(listed), 10**30):
        assert client.get(f"/samples/{number}").status_code == 404


def test_without_the_images_there_are_no_samples(good_run: Path, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(good_run, tmp_path / "run"))
    config = (run / "config.yaml").read_text().replace("name: digits", "name: mnist", 1)
    (run / "config.yaml").write_text(re.sub(r"root: .*", f"root: {tmp_path}", config))
    assert Service.from_run(run).samples == []
    assert not (tmp_path / "MNIST").exists(), "it was downloaded"


def test_an_image_comes_back_upright_for_browsers_that_do_not_know_its_format(client: TestClient) -> None:
    stream, image = io.BytesIO(), Image.new("RGB", (30, 20), "red")
    exif = image.getexif()
    exif[274] = 6
    image.save(stream, "TIFF", exif=exif)
    answer = client.post("/picture", content=stream.getvalue())
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (20, 30)


def test_the_page_in_which_the_network_computes_is_served_under_its_own_policy(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        write_look(words[words.index("look") + 1], out=words[words.index("--out") + 1])
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", here)
    answer = client.get("/look")
    assert answer.status_code == 200
    assert "window.look" in answer.text
    assert answer.headers.get_list("content-security-policy") == [LOOK_POLICY]
    assert client.get("/look").text == answer.text


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    words = "predict explain localize picture model samples samples/{number} health metrics"
    assert set(described["paths"]) == {f"/{word}" for word in words.split()}
    fields = described["components"]["schemas"]["PredictResponse"]["properties"]
    assert set(client.post("/predict", content=digit(0)).json()) == set(fields)
    for path, schema in (("/explain", "ExplainResponse"), ("/localize", "LocalizeResponse")):
        expected = set(described["components"]["schemas"][schema]["properties"])
        assert set(client.post(path, content=digit(0)).json()) == expected


def test_metrics_count_what_was_asked(service: Service) -> None:
    with TestClient(create_app(service), base_url=ORIGIN) as client:
        for _ in range(3):
            client.post("/predict", content=digit(0))
        client.post("/predict", content=b"no")
        client.get("/nowhere/at/all")
        text = client.get("/metrics").text
    assert 'cnnlab_requests_total{path="/predict",status="200"} 3' in text
    assert 'cnnlab_requests_total{path="/predict",status="422"} 1' in text
    assert 'cnnlab_requests_total{path="other",status="404"} 1' in text
    assert "cnnlab_batch_pictures_total 3" in text
    assert 'cnnlab_request_seconds_bucket{path="/predict",le="+Inf"} 4' in text
    assert not [line for line in text.splitlines() if not re.fullmatch(r"# .+|[a-z_]+(\{[^}]+\})? [\d.e+-]+", line)]


# ---- many at once


def test_images_that_come_together_go_through_the_network_together() -> None:
    sizes: list[int] = []
    inside, go = threading.Event(), threading.Event()

    def compute(images: list[np.ndarray]) -> np.ndarray:
        inside.set()
        go.wait(10)
        return np.stack(images)

    async def ask() -> list[float]:
        first = batcher.ask(np.array([-1.0]))
        await asyncio.to_thread(inside.wait, 10)
        given_up, *others = [batcher.ask(np.array([float(number)])) for number in range(17)]
        with pytest.raises(QueueFull):
            batcher.ask(np.array([0.0]))
        given_up.cancel()
        go.set()
        async with asyncio.timeout(10):
            return [row.item() for row in await asyncio.gather(first, *others)]

    batcher = MicroBatcher(compute, largest=8, waiting=17, seen=sizes.append)
    assert asyncio.run(ask()) == [-1, *range(1, 17)]
    assert sizes == [1, 7, 8, 1]
    batcher.close()


def test_a_failure_in_the_network_reaches_who_asked_and_nobody_else() -> None:
    def compute(images: list[np.ndarray]) -> np.ndarray:
        if np.isnan(images[0]).any():
            raise ValueError("nan")
        return np.stack(images)

    async def ask() -> list[np.ndarray | BaseException]:
        async with asyncio.timeout(10):
            both = batcher.ask(np.array([np.nan])), batcher.ask(np.array([1.0]))
            return await asyncio.gather(*both, return_exceptions=True)

    batcher = MicroBatcher(compute, largest=1)
    failure, row = asyncio.run(ask())
    assert isinstance(failure, ValueError)
    assert row == 1
    batcher.close()


def test_an_answer_for_a_loop_that_has_ended_harms_nobody() -> None:
    inside, go = threading.Event(), threading.Event()

    def compute(images: list[np.ndarray]) -> np.ndarray:
        inside.set()
        go.wait(10)
        return np.stack(images)

    async def ask() -> None:
        batcher.ask(np.array([1.0]))
        await asyncio.to_thread(inside.wait, 10)

    async def ask_again() -> float:
        async with asyncio.timeout(10):
            return (await batcher.ask(np.array([2.0]))).item()

    batcher = MicroBatcher(compute)
    asyncio.run(ask())
    go.set()
    assert asyncio.run(ask_again()) == 2
    batcher.close()


def test_concurrent_questions_get_their_own_answers(client: TestClient, good_run: Path) -> None:
    predictor = cnnlab.Predictor.from_run(good_run)
    expected = [predictor.predict(digit(number))[0] for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: client.post("/predict", content=digit(n)).json(), range(40)))
    for answer, one in zip(answers, expected, strict=True):
        assert answer["label"] == one.label
        assert answer["probability"] == pytest.approx(one.probability, abs=1e-4)


def test_a_full_queue_answers_503_and_when_to_come_again(service: Service) -> None:
    app = create_app(service, at_once=1)
    gate, inside = threading.Event(), threading.Event()
    original = service.preprocess

    class Slow:
        layout, mean = original.layout, original.mean

        def normalise(self, stored: torch.Tensor) -> torch.Tensor:
            return original.normalise(stored)

        def pixels(self, image: Any) -> np.ndarray:
            inside.set()
            gate.wait(10)
            return original.pixels(image)

    service.preprocess = Slow()  # type: ignore[assignment]
    try:
        with TestClient(app, base_url=ORIGIN) as client, ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/predict", content=digit(1))
            inside.wait(10)
            refused = client.post("/predict", content=digit(1))
            assert client.get("/health").status_code == 200
            gate.set()
            assert first.result(20).status_code == 200
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "busy" in error_of(refused)
            assert client.post("/predict", content=digit(1)).status_code == 200
    finally:
        service.preprocess = original


# ---- clients that take their time


@contextmanager
def running(service: Service, **settings: Any) -> Iterator[tuple[str, int]]:
    """The address of a server with real sockets."""
    listening = bind("127.0.0.1", 0)
    app = create_app(service, **settings)
    config = uvicorn.Config(app, http=connections.Connection, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()


def half_sent(address: tuple[str, int], announced: int, body: bytes) -> socket.socket:
    """A connection on which a part of a body has come."""
    connection = socket.create_connection(address, timeout=30)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {announced}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def ask(address: tuple[str, int], path: str, content: bytes | None = None) -> int:
    method = "GET" if content is None else "POST"
    request = urllib.request.Request(f"http://127.0.0.1:{address[1]}{path}", content, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_others_are_answered_while_two_hundred_bodies_come_slowly(service: Service) -> None:
    with running(service) as address:
        slow = [half_sent(address, 5000, b"\x89PNG") for _ in range(200)]
        for _ in range(3):
            assert ask(address, "/predict", digit(1)) == 200
            assert ask(address, "/explain", digit(1)) == 200
            assert ask(address, "/model") == 200
            for connection in slow:
                connection.sendall(b"a")
        for connection in slow:
            connection.close()
        assert ask(address, "/predict", digit(1)) == 200


def test_others_are_answered_while_answers_are_not_taken(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """More clients than may be worked on, each with an answer that is too long for the buffers in between."""
    monkeypatch.setitem(service.card, "much", "x" * 8_000_000)
    with running(service, at_once=4) as address:
        deaf = [socket.create_connection(address, timeout=30) for _ in range(8)]
        for connection in deaf:
            connection.sendall(b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert ask(address, "/predict", digit(1)) == 200
        for connection in deaf:
            connection.close()


def test_where_bodies_hold_too_much_the_oldest_goes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body cannot keep the place of one that comes."""
    monkeypatch.setattr(uploads, "MAX_HELD", 500_000)
    with running(service) as address:
        slow = [half_sent(address, 90_001, bytes(90_000)) for _ in range(5)]
        large = digit(1) + bytes(200_000)  # what follows the image is not looked at
        for _ in range(3):
            assert ask(address, "/predict", large) == 200
        kinds = []
        for connection in slow:
            connection.settimeout(0.5)
            try:
                kinds.append(connection.recv(12))
            except TimeoutError:
                kinds.append(b"")
            connection.close()
    assert kinds[:2] == [b"HTTP/1.1 503"] * 2  # the first ones
    assert kinds[-1] == b""  # the last one may go on


def test_what_is_held_is_given_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Uploads] = []
    monkeypatch.setattr(app, "Uploads", lambda at_once: made.append(Uploads(at_once)) or made[0])
    form = {"picture": ("a.png", digit(0) + bytes(100_000))}
    with TestClient(create_app(service), base_url=ORIGIN, raise_server_exceptions=False) as client:
        for content in (digit(0), b"", b"no image", digit(0) + bytes(100_000), bytes(uploads.MAX_BYTES + 1)):
            client.post("/predict", content=content)
        assert client.post("/predict", files=form).status_code == 200
        assert client.post("/predict", files={"other": ("a.png", b"a")}).status_code == 400
    (kept,) = made
    assert (kept.held, kept.working, kept._arriving) == (0, 0, {})
    assert kept.memory._left == kept.memory.size


def test_large_images_wait_for_each_other_and_small_ones_do_not() -> None:
    memory = Memory(10)
    order: list[str] = []
    first_inside, go = threading.Event(), threading.Event()

    def take(name: str, amount: int) -> None:
        with memory.take(amount):
            order.append(name)
            first_inside.set()
            assert go.wait(10)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(take, "large", 7)
        first_inside.wait(10)
        small = pool.submit(take, "small", 3)
        while len(order) < 2:
            time.sleep(0.001)
        second = pool.submit(take, "large, too", 7)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        go.set()
        for done in (first, small, second):
            done.result(10)
    assert order == ["large", "small", "large, too"]


def test_a_prediction_is_answered_while_a_map_is_traced(service: Service) -> None:
    inside, go = threading.Event(), threading.Event()
    model = service._model
    forward_head = model.forward_head

    def held(features: Any) -> Any:
        if isinstance(features, torch.fx.Proxy):
            inside.set()
            assert go.wait(30)
        return forward_head(features)

    with TestClient(create_app(service), base_url=ORIGIN, raise_server_exceptions=False) as client:
        expected = client.post("/predict", content=digit(3)).json()["top"]
        model.forward_head = held  # type: ignore[assignment]
        try:
            with ThreadPoolExecutor(1) as pool:
                explained = pool.submit(client.post, "/explain", content=digit(3))
                assert inside.wait(30)
                answer = client.post("/predict", content=digit(3))
                go.set()
                assert explained.result(30).status_code == 200
        finally:
            go.set()
            del model.forward_head
    assert answer.status_code == 200
    assert answer.json()["top"] == expected


def test_uploads_leave_the_warnings_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same list for all threads."""
    before, seen = list(warnings.filters), []
    original = uploads.needed
    monkeypatch.setattr(uploads, "needed", lambda *given: seen.append(list(warnings.filters)) or original(*given))
    assert uploads.checked(digit(0)) > 0
    assert seen == [before]


# ---- who may ask


def test_a_token_is_asked_of_everything_that_is_the_run_s(service: Service) -> None:
    with TestClient(create_app(service, token="secret"), base_url=ORIGIN) as client:
        for path in ("/", "/app.js", "/health", "/docs"):
            assert client.get(path).status_code == 200
        for path in ("/model", "/samples", "/samples/0", "/metrics", "/openapi.json", "/nowhere"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic secret"},
                {"Authorization": "Bearer ü"},
            ):
                answer = client.get(path, headers=[(k, v.encode()) for k, v in headers.items()])
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "token" in error_of(answer)
        assert client.post("/predict", content=digit(0)).status_code == 401
        known = {"Authorization": "Bearer secret"}
        assert client.get("/model", headers=known).status_code == 200
        assert client.post("/predict", content=digit(0), headers=known).status_code == 200


def test_other_pages_and_other_names_are_refused(service: Service) -> None:
    with TestClient(create_app(service, hosts=("127.0.0.1", "localhost", "[::1]")), base_url=ORIGIN) as client:
        for host in ("127.0.0.1:8000", "localhost", "[::1]:8000", "[::1]"):
            assert client.get("/model", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
            assert client.get("/model", headers={"host": host}).status_code == 403, host
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            answer = client.post("/predict", content=digit(0), headers={"sec-fetch-site": site})
            assert answer.status_code == status
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        assert "access-control-allow-origin" not in client.options("/predict", headers=asked).headers
        assert "access-control-allow-origin" not in client.get("/model", headers=asked).headers


@pytest.mark.parametrize("path", ["/", "/model", "/nowhere", "/docs"])
def test_every_answer_carries_the_headers_that_keep_a_browser_safe(path: str, client: TestClient) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_the_page_asks_nothing_of_the_rest_of_the_web(client: TestClient) -> None:
    for path in ("/", "/docs", "/app.js", "/engine.js", "/pad.js", "/view.js", "/docs.js", "/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "https://" not in answer.text
        assert not re.findall(r"http://(?!www\.w3\.org)", answer.text)


def test_a_failure_of_ours_shows_no_path_and_no_traceback(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    original = service.explain
    service.explain = lambda *given: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    try:
        with TestClient(create_app(service), base_url=ORIGIN, raise_server_exceptions=False) as client:
            answer = client.post("/explain", content=digit(0))
    finally:
        service.explain = original  # type: ignore[method-assign]
    assert answer.status_code == 500
    assert "log" in error_of(answer)
    assert "Traceback" not in answer.text
    assert "ZeroDivision" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("GET", "/../../etc/passwd", 404), ("DELETE", "/model", 405)],
)
def test_wrong_paths_and_methods_are_one_sentence(method: str, path: str, status: int, client: TestClient) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error_of(answer)


def test_the_part_that_is_seen_is_that_of_the_preprocess(service: Service) -> None:
    layout = service.preprocess.layout
    assert kept_box((30, 20), layout) == (5, 0, 25, 20)
    assert kept_box((20, 30), layout) == (0, 5, 20, 25)


@pytest.fixture(scope="module")
def service_of_28() -> Service:
    """A network that was never trained, for images of 28 × 28 pixels."""
    torch.manual_seed(0)
    model = cnnlab.create_model("resnet", depth=8, width=4, num_classes=3, in_channels=1).eval()
    preprocess = Preprocess(Layout(28, 28, "L"), (0.5,), (0.25,)).to_dict()
    card = {"classes": ["a", "b", "c"], "preprocess": preprocess, "model": {"name": "resnet"}, "epoch": 1}
    return Service(model, card, None, [])


@pytest.mark.parametrize("size", [(29, 29), (58, 61), (116, 232), (246, 239), (506, 506), (28, 28)])
def test_an_image_is_answered_whatever_its_size(size: tuple[int, int], service_of_28: Service) -> None:
    content = as_png(np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.uint8))
    with TestClient(create_app(service_of_28), base_url=ORIGIN, raise_server_exceptions=False) as client:
        for path in ("/predict", "/explain", "/localize", "/picture"):
            assert client.post(path, content=content).status_code == 200, path
        left, top, right, bottom = client.post("/explain", content=content).json()["seen"]
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


# ---- from the command line


def test_demo_serves_until_it_is_stopped(command: CommandLine, good_run: Path, tmp_path: Path) -> None:
    running = command.start("demo", good_run, "--port", 0)
    try:
        assert running.wait_until(lambda: "http://" in running.printed())
        address = re.findall(r"http://[\d.:]+", running.printed())[0]
        assert address.startswith("http://127.0.0.1:")
        answer = httpx.post(f"{address}/predict", content=digit(2), timeout=30)
        assert answer.json()["label"] in "0123456789"
        began = time.monotonic()
    finally:
        running.send(signal.SIGINT)
    result = running.wait()
    assert time.monotonic() - began < 10
    assert result.code in (0, 130)
    assert "Traceback" not in result.err


@pytest.mark.skipif(os.name == "nt", reason="ports are shared otherwise there")
def test_an_address_that_cannot_be_had_is_one_line(good_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words in (
            ["--port", str(port)],
            ["--port", "99999"],
            ["--host", "no.such.host.invalid"],
            ["--host", "x" * 300],
        ):
            assert main(["demo", str(good_run), *words]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
        with pytest.raises(ConfigError, match="another --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("token", ["", "two words", "Grüße"])
def test_a_token_that_no_header_can_carry_is_one_line(
    token: str, good_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(good_run), "--token", token]) == 2
    assert "--token" in capsys.readouterr().err


def test_port_and_token_come_from_the_environment_of_a_container(command: CommandLine, good_run: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = command.start("demo", good_run, environment={"PORT": str(port), "CNNLAB_TOKEN": "from-outside"})
    try:
        assert running.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health") == 200)
        assert answers(f"http://127.0.0.1:{port}/model") == 401
        assert answers(f"http://127.0.0.1:{port}/model", "from-outside") == 200
    finally:
        running.send(signal.SIGTERM)
        running.wait()


def answers(address: str, token: str | None = None) -> int:
    """The status of an answer; 0 where nobody listens."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_port_of_the_environment_that_is_no_number_is_one_line(
    good_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    assert main(["demo", str(good_run)]) == 2
    assert "PORT='http'" in capsys.readouterr().err


def test_a_connection_on_which_no_request_comes_is_closed_and_a_busy_one_is_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    listening = bind("127.0.0.1", 0)
    config = uvicorn.Config(create_app(service), http=connections.Connection, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = listening.getsockname()
        silent, slow = (socket.create_connection(address, timeout=10) for _ in range(2))
        busy = http.client.HTTPConnection(*address, timeout=10)
        began = time.monotonic()
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(4):  # longer than the limit, a request at a time
            busy.request("GET", "/health")
            answer = busy.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
            time.sleep(0.2)
        assert silent.recv(1) == b"" == slow.recv(1)
        busy.sock.sendall(b"GET /health")  # a second head must come in time, too
        assert busy.sock.recv(1) == b""
        assert time.monotonic() - began < 5
    finally:
        server.should_exit = True
        thread.join()


def test_nothing_makes_an_answer_wait(service: Service) -> None:
    """Neither Nagle's algorithm, 40 ms an answer on a kept connection, nor the collector of garbage, 150 ms a time."""
    at_once: list[int] = []

    class Watched(connections.Connection):
        def connection_made(self, transport: Any) -> None:
            at_once.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    listening = bind("127.0.0.1", 0)
    config = uvicorn.Config(create_app(service), http=Watched, log_level="warning", lifespan="off")
    server = connections.Server(config, "up")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        connection = http.client.HTTPConnection(*listening.getsockname(), timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        assert at_once == [1]
        assert gc.get_freeze_count() > 0
    finally:
        server.should_exit = True
        thread.join()
        gc.unfreeze()


@pytest.mark.parametrize(
    "host", ["localhost:80@evil.example", "localhost:80:80", "localhost.", "[::1", "evil.example:80"]
)
def test_a_host_that_only_looks_like_ours_is_refused(host: str, service: Service) -> None:
    with TestClient(create_app(service, hosts=("127.0.0.1", "localhost", "[::1]")), base_url=ORIGIN) as client:
        assert client.get("/model", headers={"Host": host}).status_code == 403
        assert client.get("/model", headers={"Host": "localhost:1234"}).status_code == 200
