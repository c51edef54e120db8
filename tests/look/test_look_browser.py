"""The page in a real Chromium, from a file and without a request: PyTorch's numbers, and what one can do with them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import CLASSES, SMALL
from torch import Tensor, nn

from cnnlab.data.decode import Layout
from cnnlab.data.preprocess import Preprocess
from cnnlab.look.compute import node_values
from cnnlab.look.graph import Graph
from cnnlab.look.notebook import LookFrame
from cnnlab.look.page import LookImage, LookNetwork, render, write_layer

Exported = dict[str, tuple[nn.Module, Graph, Tensor]]
NAMES = [f"class {number}" for number in range(CLASSES)]


def written(exported: Exported, name: str, folder: Path) -> tuple[Path, Tensor]:
    """The page of a small model, and its images as the network sees them."""
    model, graph, images = exported[name]
    channels, height, width = images.shape[1:]
    layout = Layout(height, width, "L" if channels == 1 else "RGB")
    preprocess = Preprocess(layout, (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels])
    draws = np.random.Generator(np.random.PCG64(0))
    pixels = draws.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    batch = preprocess.normalise(torch.from_numpy(pixels)).contiguous()
    with torch.no_grad():
        logits = torch.stack([model(image[None]).flatten() for image in batch])
    task = "segmentation" if name == "unet" else "classification"
    card = {"model": {"name": name}, "classes": NAMES, "task": task, "data": "noise"}
    shown = [LookImage(f"{number}.png", NAMES[number], image) for number, image in enumerate(pixels)]
    file = folder / f"{name}.html"
    network = LookNetwork(name, graph, preprocess, logits, 1)
    file.write_text(render([network], card, shown, shown), encoding="utf-8")
    return file, batch


class Opened:
    """A page, all that it complains of and all that it asks for."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate("window.look.ready")

    def is_clean(self) -> bool:
        asked = [url for url in self.asked if not url.startswith(("file://", "blob:", "data:"))]
        return not self.complaints and not asked and len([url for url in self.asked if url.startswith("file:")]) == 1

    def close(self) -> None:
        self.context.close()


@pytest.mark.parametrize("name", [*SMALL, "own"])
def test_the_page_answers_as_pytorch_and_every_map_is_its_map(
    name: str, exported: Exported, browser: Any, tmp_path: Path
) -> None:
    file, batch = written(exported, name, tmp_path)
    model, graph, _ = exported[name]
    opened = Opened(browser, file)
    script = """async () => {
        const pack = (numbers) => {  // a list of so many numbers takes Playwright seconds
            let text = "";
            for (const byte of new Uint8Array(Float32Array.from(numbers).buffer)) text += String.fromCharCode(byte);
            return btoa(text);
        };
        const found = [];
        for (const i of [0, 1]) {
            const maps = await Promise.all(look.layers.map((layer) => look.activation(layer, i).then(pack)));
            found.push({ logits: await look.logits(i), maps });
        }
        return found;
    }"""
    found = opened.page.evaluate(script)
    layers = opened.page.evaluate("look.layers")
    for image, answer in zip(batch, found, strict=True):
        with torch.no_grad():
            expected = model(image[None])
        logits = torch.tensor(answer["logits"]).view_as(expected)
        assert (logits.softmax(1) - expected.softmax(1)).abs().max() < 1e-3
        values = {node.name: value for node, value in zip(graph.nodes, node_values(graph, image[None]), strict=True)}
        assert len(layers) > 5 or name == "mlp"
        for layer, numbers in zip(layers, answer["maps"], strict=True):
            shown = torch.frombuffer(bytearray(base64.b64decode(numbers)), dtype=torch.float32)
            off = (shown - values[layer].flatten()).abs().max()
            assert off <= 1e-3 * values[layer].abs().max(), layer
    assert opened.page.evaluate("look.check()") < 1e-3
    assert "Checked on 2 images" in opened.page.locator("#check").inner_text()
    drawn = "Math.max(...[...document.querySelectorAll('.tile canvas')].map((c) => c.width * c.height))"
    assert opened.page.evaluate(drawn) >= (1 if name == "mlp" else 16)
    assert opened.is_clean(), (opened.complaints, opened.asked)
    opened.close()


@pytest.fixture(scope="module")
def resnet(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(exported, "resnet", tmp_path_factory.mktemp("resnet"))[0]


@pytest.fixture
def page(browser: Any, resnet: Path) -> Iterator[Any]:
    opened = Opened(browser, resnet)
    opened.page.locator("#unfold").click()
    opened.page.locator("[data-node]").nth(20).wait_for()
    yield opened.page
    assert opened.is_clean(), opened.complaints
    opened.close()


def probabilities(page: Any) -> list[str]:
    return sorted(page.locator("#answers li").all_inner_texts())


def row(page: Any, layer: str) -> Any:
    return page.locator(".layer").filter(has=page.locator("h3 .name", has_text=layer)).first


def test_a_number_of_a_convolution_is_the_sum_of_what_is_shown(page: Any) -> None:
    row(page, "stage1.0.conv1").locator(".tile").nth(2).click()
    detail = page.locator(".detail")
    detail.locator(".grid").nth(2).wait_for()
    window, kernel, products = (
        detail.locator(".grid").nth(n).locator("td").all_inner_texts() if n != 1 else
        [cell.input_value() for cell in detail.locator(".grid").nth(1).locator("input").all()]
        for n in range(3)
    )  # fmt: skip
    value = lambda text: float(text.replace("−", "-"))  # noqa: E731
    for a, b, c in zip(window, kernel, products, strict=True):
        assert value(a) * value(b) == pytest.approx(value(c), abs=0.02)
    part, others, total = (value(text) for text in detail.locator(".sum strong").all_inner_texts()[:3])
    assert sum(map(value, products)) == pytest.approx(part, abs=0.01)
    assert part + others == pytest.approx(total, abs=0.01)
    detail.locator("summary").click()
    assert "⌊(16 + 2·1 − 1·(3 − 1) − 1) / 1⌋ + 1 = 16" in detail.locator(".why").inner_text()
    before = detail.locator("h4").inner_text()
    detail.get_by_label("next place").click()
    assert detail.locator("h4").inner_text() != before
    page.keyboard.press("Escape")
    assert detail.count() == 0


def test_what_a_filter_likes_is_cut_by_its_receptive_field_and_can_be_looked_at(page: Any) -> None:
    row(page, "stem.0").locator(".tile").nth(1).click()
    patches = page.locator(".patches button")
    assert patches.count() == 2
    sizes = patches.locator("canvas").evaluate_all("(all) => all.map((c) => [c.width, c.height])")
    assert all(2 <= side <= 3 for size in sizes for side in size)
    before = probabilities(page)
    for number in (0, 1):  # one of them is the other image
        patches.nth(number).click()
        page.wait_for_timeout(100)
        changed = probabilities(page) != before
        if changed:
            break
    assert changed


def test_every_view_of_a_layer_opens(page: Any) -> None:
    words = {
        "stem.1": "one scale and one shift",
        "stem.2": "f(",
        "stage2.0.add": "added to those of the block",
        "pool.mean": "mean of",
        "head": "weighted sum",
    }
    for layer, text in words.items():
        row(page, layer).locator(".tile").first.click()
        page.locator(".detail .body", has_text=text).wait_for()
    assert "Σ e^z" in page.locator(".detail").inner_text()


def test_a_unit_that_sees_the_image_shows_its_weights_as_an_image(
    exported: Exported, browser: Any, tmp_path: Path
) -> None:
    file, batch = written(exported, "mlp", tmp_path)
    opened = Opened(browser, file)
    opened.page.locator("#unfold").click()
    row(opened.page, "hidden.1").locator(".tile").nth(5).click()
    detail = opened.page.locator(".detail")
    detail.get_by_text("Its weights, as an image").wait_for()
    layer = exported["mlp"][0].hidden[1]  # type: ignore[union-attr, index]
    products = (batch[0].flatten() * layer.weight[5]).detach()
    largest = int(products.abs().argmax())
    cells = detail.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[0] == f"pixel in row {largest // 8}, column {largest % 8}"
    value = lambda text: float(text.replace("−", "-"))  # noqa: E731
    assert value(cells[3]) == pytest.approx(float(products[largest]), rel=0.01)
    shown = detail.locator(".term")
    assert shown.locator("canvas").evaluate_all("(all) => all.map((c) => [c.width, c.height])") == [[8, 8]] * 3
    assert value(shown.locator("strong").inner_text()) == pytest.approx(float(products.sum()), rel=0.01)
    assert opened.is_clean()
    opened.close()


def test_the_receptive_field_of_what_is_pointed_at_is_told(page: Any) -> None:
    row(page, "stem.0").locator(".tile").first.hover()
    page.locator("#field", has_text="3×3 of 16×16 pixels").wait_for()
    assert row(page, "stage1.0.conv1").locator(".tile[style*=lit]").count() == 0
    row(page, "stage1.0.conv1").locator(".tile").first.hover()
    page.locator("#field", has_text="5×5 of").wait_for()
    assert row(page, "stem.2").locator(".tile[style*=lit]").count() > 0


def test_changes_are_answered_and_taken_back_at_once(page: Any) -> None:
    before = probabilities(page)
    row(page, "stage1.0.conv1").locator(".tile").nth(1).click()
    page.get_by_role("button", name="Mute this map").click()
    page.locator("#changes", has_text="map 1 of stage1.0.conv1 muted").wait_for()
    muted = probabilities(page)
    assert muted != before
    row(page, "stage2.0.add").locator(".link").nth(1).click()
    page.locator("#changes li").nth(1).wait_for()
    assert probabilities(page) != muted
    cell = page.locator(".grid input").first
    cell.fill("3")
    cell.press("Enter")
    page.locator("#changes", has_text="set to 3").wait_for()
    assert page.locator(".answers .up, .answers .down").count() > 0
    page.locator("#undo-all").click()
    page.locator("#changes").wait_for(state="hidden")
    assert probabilities(page) == before


def test_the_number_that_was_clicked_stays_and_nonsense_leaves_a_kernel_as_it_is(page: Any) -> None:
    tile = row(page, "stage1.0.conv1").locator(".tile").nth(1)
    tile.click()
    title = page.locator(".detail h4")
    page.locator(".grid input").first.wait_for()
    said = title.inner_text()
    row(page, "stage1.0.conv1").locator(".tile").nth(1).hover(position={"x": 3, "y": 3})
    page.locator("#field", has_text="pixels").wait_for()
    assert title.inner_text() == said
    cell = page.locator(".grid input").first
    number = cell.input_value()
    for nonsense in ("", "1e39"):
        cell.fill(nonsense)
        cell.press("Enter")
        cell.blur()
        assert cell.input_value() == number
    assert page.locator("#changes").is_hidden()


def test_the_image_that_is_chosen_is_marked_with_its_class(page: Any) -> None:
    pressed = page.locator(".thumb[aria-pressed=true]")
    assert pressed.count() == 1 and page.locator(".thumb").first.get_attribute("aria-pressed") == "true"
    page.locator(".thumb").nth(1).click()
    assert page.locator(".thumb").nth(1).get_attribute("aria-pressed") == "true" and pressed.count() == 1
    label = page.locator(".thumb").nth(1).get_attribute("title").partition(" (")[0]
    told = page.locator("#truth").inner_text()
    assert told == (f"It is labelled {label}." if page.evaluate("look.classes").count(label) else "")


def test_another_image_is_compared_map_by_map(page: Any) -> None:
    page.locator(".thumb").nth(0).click()
    page.locator("#pin").click()
    tile = row(page, "stage1.0.conv1").locator(".tile").first
    tile.scroll_into_view_if_needed()
    tile.locator(".second").wait_for()
    pixels = "(canvases) => canvases.map((c) => c.toDataURL())"
    kept, now = tile.locator("canvas").evaluate_all(pixels)
    assert kept == now
    assert page.locator(".answers .up").count() == 0
    page.locator(".thumb").nth(1).click()
    page.locator(".answers .up, .answers .down").first.wait_for()
    assert tile.locator("canvas").evaluate_all(pixels)[0] == kept != tile.locator("canvas").evaluate_all(pixels)[1]
    page.locator("#pin").click()
    page.locator(".second").first.wait_for(state="detached")


def test_a_part_of_the_image_can_be_covered(page: Any) -> None:
    before = probabilities(page)
    page.locator("#cover").click()
    box = page.locator("#image").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.26, box["y"] + box["height"] * 0.26)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.74, box["y"] + box["height"] * 0.74, steps=3)
    page.mouse.up()
    page.locator("#changes", has_text="8×8 pixels covered").wait_for()
    assert probabilities(page) != before
    page.locator("#changes .link").click()
    page.locator("#changes").wait_for(state="hidden")
    assert probabilities(page) == before


def test_a_drawing_and_a_file_go_through_the_runs_own_preprocess(page: Any, tmp_path: Path) -> None:
    before = probabilities(page)
    page.locator("#draw").click()
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.7, steps=5)
    page.wait_for_function("(before) => JSON.stringify([...document.querySelectorAll('#answers li')]"
                           ".map((e) => e.innerText).sort()) !== before", arg=json.dumps(before))  # fmt: skip
    page.mouse.up()
    (tmp_path / "a.txt").write_text("no image")
    page.locator("#file").set_input_files(tmp_path / "a.txt")
    page.locator("#message", has_text="a.txt is not an image").wait_for()


def test_the_network_answers_to_the_camera_until_it_is_stopped(page: Any) -> None:
    pixels = "document.getElementById('image').toDataURL()"
    before = page.evaluate(pixels)
    page.locator("#camera").click()
    page.wait_for_function(f"(before) => {pixels} !== before", arg=before)
    filmed = page.evaluate(pixels)
    page.wait_for_function(f"(before) => {pixels} !== before", arg=filmed)  # the pretended camera's picture moves
    page.locator("#camera").click()
    page.wait_for_timeout(300)
    stopped = page.evaluate(pixels)
    page.wait_for_timeout(300)
    assert page.evaluate(pixels) == stopped
    assert page.locator("#camera").get_attribute("aria-pressed") == "false"
    assert page.locator("#message").is_hidden()


def test_a_camera_that_is_not_wanted_any_more_is_switched_off(page: Any) -> None:
    """Leave to use it may come late: after a second press, or after another image was chosen."""
    page.evaluate(
        """() => {
            const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            window.tracks = [];
            navigator.mediaDevices.getUserMedia = async (what) => {
                await new Promise((done) => setTimeout(done, 300));
                const stream = await ask(what);
                window.tracks.push(...stream.getTracks());
                return stream;
            };
        }"""
    )
    ended = "(count) => window.tracks.length === count && window.tracks.every((track) => track.readyState === 'ended')"
    page.locator("#camera").click()
    page.locator("#camera").click()
    page.wait_for_function(ended, arg=1)
    page.locator("#camera").click()
    page.locator(".thumb").nth(1).click()
    page.wait_for_function(ended, arg=2)
    assert page.locator("#camera").get_attribute("aria-pressed") == "false"
    assert page.locator(".thumb").nth(1).get_attribute("aria-pressed") == "true"


def test_what_is_covered_stays_covered_from_one_image_of_the_camera_to_the_next(page: Any) -> None:
    page.locator("#camera").click()
    page.locator(".thumb[aria-pressed=true]").wait_for(state="detached")
    page.locator("#cover").click()
    page.locator("#cover-wide").fill("5")
    page.locator("#changes", has_text="5×4 pixels covered").wait_for()
    page.wait_for_timeout(400)
    assert page.locator("#changes li").count() == 1
    page.locator("#changes .link").click()
    page.locator("#changes").wait_for(state="hidden")
    page.locator("#camera").click()


def test_a_comparison_is_with_what_is_shown_also_before_its_answer(page: Any) -> None:
    page.evaluate("() => { document.querySelectorAll('.thumb')[1].click(); document.querySelector('#pin').click(); }")
    page.locator(".second").first.wait_for()
    page.wait_for_timeout(300)
    assert page.locator(".answers .up, .answers .down").count() == 0


def test_a_row_is_one_stop_of_the_tab_key_and_arrows_lead_on(page: Any) -> None:
    stops = page.locator(".maps").evaluate_all("(all) => all.map((m) => m.querySelectorAll('[tabindex=\"0\"]').length)")
    assert set(stops) == {1}
    focused = "document.activeElement.getAttribute('aria-label')"
    page.locator(".kernels .tile").first.focus()
    walk = [
        ("ArrowRight", "kernel of map 1 of stem.0"),
        ("ArrowDown", "map 1 of stem.0"),
        ("ArrowDown", "map 1 of stem.1"),
        ("End", "map 3 of stem.1"),
        ("ArrowUp", "map 3 of stem.0"),
        ("ArrowLeft", "map 2 of stem.0"),
        ("Home", "map 0 of stem.0"),
    ]
    for key, label in walk:
        page.keyboard.press(key)
        assert page.evaluate(focused) == label
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "map 3 of stem.1"  # where one was in that row
    page.keyboard.press("Enter")
    assert page.locator(".detail h4").inner_text().startswith("Map 3 of stem.1")


def test_the_first_kernels_are_shown_and_open_their_map(page: Any) -> None:
    kernels = row(page, "stem.0").locator(".kernels canvas")
    assert kernels.count() == row(page, "stem.0").locator(".maps:not(.kernels) .tile").count()
    assert kernels.first.evaluate("(c) => [c.width, c.height]") == [3, 3]
    row(page, "stem.0").locator(".kernels .tile").nth(2).click()
    assert page.locator(".detail h4").inner_text().startswith("Map 2 of stem.0")
    before = kernels.nth(2).evaluate("(c) => c.toDataURL()")
    cell = page.locator(".grid input").first
    cell.fill("9")
    cell.press("Enter")
    page.locator("#changes", has_text="set to 9").wait_for()
    assert kernels.nth(2).evaluate("(c) => c.toDataURL()") != before
    assert row(page, "stage1.0.conv1").locator(".kernels").count() == 0


def test_a_layer_that_keeps_the_size_names_the_layer_that_made_it(page: Any) -> None:
    row(page, "stage2.0.relu").locator(".tile").first.click()
    why = page.locator(".detail .why")
    why.locator("summary").click()
    assert "Why is it 8 wide?" in why.inner_text()
    why.locator(".link", has_text="stage2.0.conv1").click()
    page.locator(".detail .why", has_text="⌊(16 + 2·1 − 1·(3 − 1) − 1) / 2⌋ + 1 = 8").wait_for()


def test_a_part_is_covered_with_the_keyboard(page: Any) -> None:
    page.locator("#cover").click()
    for name, value in (("left", 2), ("top", 3), ("wide", 5), ("high", 4)):
        page.locator(f"#cover-{name}").fill(str(value))
    page.locator("#changes", has_text="5×4 pixels covered").wait_for()
    assert page.locator("#changes li").count() == 1
    page.locator("#cover-wide").press("ArrowRight")
    page.locator("#changes", has_text="6×4 pixels covered").wait_for()
    page.locator("#cover-high").fill("0")
    page.locator("#changes").wait_for(state="hidden")


def test_two_networks_answer_to_one_image(browser: Any, exported: Exported, tmp_path: Path) -> None:
    """The second has other statistics: the same image, as it takes it; a change of one leaves the other alone."""
    networks, pixels = [], np.random.Generator(np.random.PCG64(1)).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for name, mean in (("resnet", 0.5), ("vgg", 0.3)):
        model, graph, images = exported[name]
        assert images.shape[1:] == (3, 16, 16)
        preprocess = Preprocess(Layout(16, 16, "RGB"), (mean, 0.4, 0.5), (mean / 2, 0.2, 0.3))
        batch = preprocess.normalise(torch.from_numpy(pixels)).contiguous()
        with torch.no_grad():
            logits = torch.stack([model(image[None]).flatten() for image in batch])
        networks.append(LookNetwork(name, graph, preprocess, logits, 1))
    card = {"model": {"name": "resnet"}, "classes": NAMES, "task": "classification", "data": "noise"}
    shown = [LookImage(f"{number}.png", None, image) for number, image in enumerate(pixels)]
    (tmp_path / "two.html").write_text(render(networks, card, shown, shown), encoding="utf-8")
    opened = Opened(browser, tmp_path / "two.html")
    page = opened.page
    assert page.evaluate("look.check()") < 1e-3
    shares = {}
    for number, place in enumerate(("#answers", "#answers-2")):
        expected = networks[number].logits[0].softmax(0)
        for line in page.locator(f"{place} li").all():
            share = float(line.locator(".share").inner_text().rstrip(" %")) / 100
            assert share == pytest.approx(expected[NAMES.index(line.get_attribute("data-class"))].item(), abs=1e-3)
        shares[place] = page.locator(place).inner_text()
    page.locator("#layers .tile").first.click()
    page.get_by_role("button", name="Mute this map").click()
    page.locator("#changes", has_text="resnet: map 0 of stem.0 muted").wait_for()
    page.wait_for_function(
        "(before) => document.querySelector('#answers').innerText !== before", arg=shares["#answers"]
    )
    assert page.locator("#answers-2").inner_text() == shares["#answers-2"]
    page.locator(".thumb").nth(1).click()
    page.wait_for_function(
        "(before) => document.querySelector('#answers-2').innerText !== before", arg=shares["#answers-2"]
    )
    page.locator("#undo-all").click()
    page.get_by_role("button", name="Close").click()
    seen, mini = set(), "document.getElementById('mini').toDataURL()"
    for number in (0, 1):
        page.locator(".thumb").nth(number).click()
        seen.add(page.evaluate(mini))
    for number in (0, 1):  # of the second network, which has other statistics
        page.locator("#layers-2 .tile").first.click()
        page.locator(".patches button").nth(number).click()
        page.get_by_role("button", name="Close").click()
        page.evaluate("document.activeElement.blur()")  # else its receptive field is lit
        page.mouse.move(0, 0)
        assert page.evaluate(mini) in seen
    assert opened.is_clean(), opened.complaints
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_every_control_has_a_name(browser: Any, resnet: Path, scheme: str) -> None:
    opened = Opened(browser, resnet, width=375, color_scheme=scheme, has_touch=True, is_mobile=True)
    opened.page.locator("#unfold").click()
    row(opened.page, "stage1.0.conv1").locator(".tile").first.tap()
    opened.page.locator(".detail .grid").nth(2).wait_for()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    names = opened.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, summary")].filter((e) => e.offsetParent)
            .map((e) => e.getAttribute("aria-label") || e.textContent.trim()
                || [...(e.labels ?? [])].map((l) => l.textContent).join(""))"""
    )
    assert len(names) > 100
    assert all(names)
    assert opened.is_clean()
    opened.close()


def test_the_page_runs_in_the_frame_of_a_notebook(browser: Any, resnet: Path) -> None:
    page = browser.new_page()
    page.set_content(LookFrame(resnet, 400)._repr_html_())
    frame = page.locator("iframe").element_handle().content_frame()
    frame.wait_for_function("window.look")
    frame.evaluate("look.ready")
    assert frame.locator("#answers li").count() == CLASSES
    page.close()


def test_the_live_page_of_the_docs_answers_as_pytorch_did(browser: Any) -> None:
    opened = Opened(browser, Path(__file__).parents[2] / "docs" / "look-digits.html")
    assert opened.page.evaluate("look.check()") < 1e-3
    assert opened.page.evaluate("look.classes") == [str(number) for number in range(10)]
    assert opened.is_clean(), (opened.complaints, opened.asked)
    opened.close()


def test_a_convolution_can_be_played_with(browser: Any, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.html")
    page = browser.new_page(viewport={"width": 375, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "layer.html").as_uri())
    page.locator("#chain", has_text="⌊(9 + 2·1 − 1·(3 − 1) − 1) / 1⌋ + 1 = 9").wait_for()
    page.locator("#add").click()
    page.locator("#next").click()
    page.locator("#field", has_text="row 4, column 3 of layer 2 depends on 5×5 pixels").wait_for()
    page.locator("#add").click()
    for name, value in (("padding", 0), ("kernel", 7), ("dilation", 3)):
        page.locator(f"[data-name='1 {name}']").fill(str(value))
    page.locator(".notice", has_text="Impossible: the kernel reaches over 19 places").wait_for()
    page.locator(".notice", has_text="Layer 3 has no input: layer 2 is impossible").wait_for()
    assert page.locator("[data-name='2 kernel']").is_visible()
    page.locator("[data-name='1 transposed']").check()
    page.locator("#chain", has_text="(9 − 1)·1 − 2·0 + 3·(7 − 1) + 1 = 27").wait_for()
    assert page.locator(".notice").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert complaints == []
    page.close()


def test_the_kernel_that_is_played_with_is_the_sum_of_what_is_shown_and_can_be_typed(
    browser: Any, tmp_path: Path
) -> None:
    write_layer(tmp_path / "layer.html")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto((tmp_path / "layer.html").as_uri())
    page.locator("#image").select_option("ramp 0, 1, 2, …")
    page.locator("#size").fill("4")
    page.locator("[data-name='0 padding']").fill("0")
    page.locator("[data-name='0 numbers']").select_option("0, 1, 2, …")
    frame = page.locator(".map .frame").bounding_box()
    page.mouse.click(frame["x"] + frame["width"] * 0.75, frame["y"] + frame["height"] * 0.25)
    page.locator("h5", has_text="row 0, column 1 of layer 1").wait_for()
    window, products = (page.locator(".grid").nth(n).locator("td").all_inner_texts() for n in (0, 2))
    assert window == ["1", "2", "3", "5", "6", "7", "9", "10", "11"]
    assert products == ["0", "2", "6", "15", "24", "35", "54", "70", "88"]
    assert page.locator(".total").inner_text() == "294"
    page.locator(".map").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".total").inner_text() == "438"
    cell = page.locator(".grid input").nth(8)
    cell.fill("-1.5")
    cell.press("Enter")
    assert page.locator(".total").inner_text() == str(438 - 8 * 15 - 1.5 * 15)
    assert page.locator("[data-name='0 numbers']").input_value() == "numbers of your own"
    page.locator("#play").click()
    page.locator("h5", has_text="row 0, column 0").wait_for()  # after the last place comes the first
    page.locator(".grid input").first.focus()
    assert page.locator("#play").inner_text() == "Play"  # it waits while a number is typed
    page.close()


def test_a_slider_of_a_layer_is_dragged_without_letting_go(browser: Any, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.html")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto((tmp_path / "layer.html").as_uri())
    box = page.locator("[data-name='0 kernel']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    assert page.locator("[data-name='0 kernel']").input_value() == "7"
    assert page.locator(".grid").first.locator("td").count() == 49
    page.close()
