"""The network in a browser: the same pixels and the same probabilities as in Python, without a server's help."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cnnlab
from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy.browser import fetch_runtime
from cnnlab.deploy.export import export_run
from cnnlab.errors import ConfigError, ExportError

pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine"),
]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def golden() -> dict[str, bytes]:
    """Files in which browsers and Pillow could see different things."""
    numbers = np.random.Generator(np.random.PCG64(0))
    digit = Image.fromarray(np.rint(load_digits().images[3] * (255 / 16)).astype(np.uint8))
    noise = Image.fromarray(numbers.integers(0, 256, (37, 53, 3), dtype=np.uint8))
    smooth = digit.resize((61, 45), Image.Resampling.BICUBIC)
    turned = smooth.getexif()
    turned[274] = 6
    return {
        "as large as the input": saved(digit),
        "enlarged": saved(digit.resize((64, 64), Image.Resampling.BICUBIC)),
        "wide": saved(smooth),
        "tall": saved(smooth.rotate(90, expand=True)),
        "colour": saved(noise),
        "small": saved(noise.resize((3, 5))),
        "one pixel": saved(noise.resize((1, 1))),
        "palette": saved(noise.convert("P")),
        "transparent": saved(Image.merge("RGBA", (*noise.split(), noise.split()[0]))),
        "turned": saved(smooth, "JPEG", exif=turned, quality=95),
        "jpeg": saved(smooth.convert("RGB"), "JPEG", quality=95),
        "webp": saved(smooth.convert("RGB"), "WEBP", lossless=True),
        "gif": saved(smooth, "GIF"),
    }


@pytest.fixture(scope="module")
def folder(good_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        fetch_runtime()
    except ExportError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("web")
    assert export_run(good_run, "web", out=out).file == out / "web" / "index.html"
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "web"]
    return out / "web"


@pytest.fixture(scope="module")
def page(folder: Path, browser: Any) -> Iterator[Any]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    opened = browser.new_page(viewport={"width": 375, "height": 740})
    opened.complaints, opened.asked = [], []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(address)
    opened.locator("#strip button").nth(20).wait_for()
    yield opened
    opened.close()
    server.shutdown()


@pytest.mark.parametrize("name", list(golden()))
def test_probabilities_in_the_browser_are_those_of_python(name: str, page: Any, good_run: Path) -> None:
    script = """async (bytes) => {
        const engine = await import("./engine.js");
        return engine.probabilities(new Blob([new Uint8Array(bytes)]));
    }"""
    found = page.evaluate(script, list(golden()[name]))
    predictor = cnnlab.Predictor.from_run(good_run)
    expected = predictor.predict(golden()[name])[0].probabilities
    assert found == pytest.approx([expected[label] for label in predictor.classes], abs=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (20, 31), (48, 64), (37, 53)])
@pytest.mark.parametrize(("mode", "fit"), [("RGB", "crop"), ("RGB", "squash"), ("L", "crop")])
def test_pixels_in_the_browser_are_those_of_python_within_a_level(
    size: tuple[int, int], mode: str, fit: str, page: Any
) -> None:
    height, width = size
    channels = 1 if mode == "L" else 3
    layout = {"height": height, "width": width, "mode": mode, "fit": fit}
    facts = {"layout": layout, "mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.25, 0.3][:channels]}
    script = """async ([bytes, facts]) => {
        const { prepare } = await import("./preprocess.js");
        return Array.from(await prepare(new Blob([new Uint8Array(bytes)]), facts));
    }"""
    for name in ("wide", "tall", "colour", "small", "enlarged"):
        content = golden()[name]
        found = torch.tensor(page.evaluate(script, [list(content), facts])).view(channels, height, width)
        off = ((found - Preprocess.from_dict(facts)(content)).abs() * torch.tensor(facts["std"])[:, None, None]) * 255
        assert off.max() < 1.01, name
        assert off.mean() < 0.15, name


def test_the_page_works_without_a_server_and_asks_nothing_of_others(page: Any, folder: Path) -> None:
    page.locator("#strip button", has_text="4").first.click()
    page.locator("#bars button").first.wait_for()
    assert page.locator("#bars button span").first.inner_text() == "4"
    assert "in this browser" in page.locator("#times").inner_text()
    assert "do not leave" in page.locator("#footer").inner_text()
    assert page.locator("#looks").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"none"})
    page.locator("#message", has_text="cannot be read").wait_for()
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {page.url.split("/")[2]}
    text = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".html", ".css"))
    assert "https://" not in text


def test_the_card_in_the_folder_is_whole(folder: Path, good_run: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    assert card["accuracy"]["value"] == json.loads((good_run / "test.json").read_text())["accuracy"]
    assert len(card["sample_files"]) == len(list((folder / "samples").iterdir())) == 24


def test_an_older_folder_is_replaced_whole(good_run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out / "web")
    (out / "web" / "old.txt").write_text("")
    export_run(good_run, "web", int8=True, out=out)
    assert not (out / "web" / "old.txt").exists()
    assert (out / "web" / "model.onnx").stat().st_size < 0.8 * (folder / "model.onnx").stat().st_size
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "web"]


def test_the_fully_convolutional_form_is_not_for_the_page(good_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--fully-convolutional"):
        export_run(good_run, "web", fully_convolutional=True, out=tmp_path)
