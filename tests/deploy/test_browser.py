"""The page in a real Chromium: every way to an image, what is drawn over it, and what goes wrong."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import CommandLine

SIZES = {"desktop": (1280, 900), "phone": (375, 740)}


@dataclass
class Server:
    """`cnnlab demo` as a process of its own."""

    command: CommandLine
    run: Path
    more: list[str] = field(default_factory=list)

    def __enter__(self) -> Server:
        self.process = self.command.start("demo", self.run, "--port", 0, *self.more)
        assert self.process.wait_until(lambda: "\n" in self.process.printed()), self.process.wait()
        self.address = self.process.printed().split()[0] + "/"
        return self

    def stop(self) -> None:
        self.process.send(signal.SIGTERM)
        self.process.wait()

    def __exit__(self, *rest: object) -> None:
        self.stop()


@pytest.fixture(scope="module")
def server(command: CommandLine, good_run: Path) -> Iterator[Server]:
    with Server(command, good_run) as started:
        yield started


class Page:
    """One page with all that it complains of."""

    def __init__(self, browser: Any, size: str = "desktop", **options: Any) -> None:
        width, height = SIZES[size]
        phone = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2} if size == "phone" else {}
        self.context = browser.new_context(viewport={"width": width, "height": height}, **phone, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.locator("#strip button").nth(20).wait_for()
        return self.page

    def pixels(self) -> list[int]:
        """The stage as it is seen, as numbers."""
        from io import BytesIO

        from PIL import Image

        shown = Image.open(BytesIO(self.page.locator("#stage").screenshot())).convert("RGB").resize((32, 32))
        return list(shown.tobytes())

    def fits(self) -> bool:
        width: int = self.page.evaluate("document.documentElement.scrollWidth")
        return width <= self.page.viewport_size["width"]


@pytest.fixture(params=list(SIZES))
def page(request: pytest.FixtureRequest, browser: Any, server: Server) -> Iterator[Page]:
    made = Page(browser, request.param)
    made.open(server.address)
    yield made
    made.context.close()


desktop = pytest.mark.parametrize("page", ["desktop"], indirect=True)  # what no size of the window changes


def answer(page: Any) -> str:
    """The label that is shown, once there is one."""
    page.locator("#bars button").first.wait_for()
    page.locator(".answers:not(.busy)").wait_for()
    label: str = page.locator("#bars button span").first.inner_text()
    return label


def test_a_sample_is_answered_and_its_map_is_laid_over_it(page: Page) -> None:
    seen = page.page
    assert seen.title().endswith("trained on digits")
    assert page.fits()
    seen.locator("#strip button", has_text="4").first.click()
    seen.locator("#note", has_text="The map shows").wait_for()
    assert answer(seen) == "4"
    assert seen.locator("#bars button").count() == 5
    assert "True class: 4." in seen.locator("#note").inner_text()
    assert "4, " in str(seen.locator("#view").get_attribute("aria-label"))
    with_map = page.pixels()
    seen.locator("#opacity").fill("10")
    fainter = page.pixels()
    seen.locator("#map").uncheck()
    seen.locator("#note", has_text="True class: 4.").wait_for()
    seen.wait_for_timeout(100)
    without = page.pixels()
    spread = [sum(abs(a - b) for a, b in zip(without, other, strict=True)) for other in (with_map, fainter)]
    assert spread[0] > 2 * spread[1] > 0
    assert "on the server" in seen.locator("#times").inner_text()
    assert page.fits()
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {seen.url.split("/")[2]}


def test_another_class_can_be_asked_about_and_boxes_are_drawn(page: Page) -> None:
    seen = page.page
    seen.locator("#strip button", has_text="0").first.click()
    seen.locator("#note", has_text="evidence for 0").wait_for()
    other = seen.locator("#bars button").nth(1)
    name = other.locator("span").first.inner_text()
    other.click()
    seen.locator("#note", has_text=f"evidence for {name}").wait_for()
    assert other.get_attribute("aria-pressed") == "true"
    before = page.pixels()
    seen.locator("#boxes").check()
    seen.locator("#note", has_text="bject").wait_for()
    found = "Objects:" in seen.locator("#note").inner_text()
    assert (page.pixels() != before) == found
    assert page.complaints == []


def test_files_are_answered_and_what_is_not_an_image_is_said_so(
    page: Page, digit_files: list[Path], tmp_path: Path
) -> None:
    seen = page.page
    seen.locator("#file").set_input_files(digit_files[2])
    assert answer(seen) == "2"
    complaints = len(page.complaints)
    (tmp_path / "a.png").write_bytes(b"no image")
    seen.locator("#file").set_input_files(tmp_path / "a.png")
    seen.locator("#message", has_text="cannot be read").or_(
        seen.locator("#message", has_text="not an image")
    ).wait_for()
    assert seen.locator("#bars button span").first.inner_text() == "2"
    assert all("status of 422" in text for text in page.complaints[complaints:])
    (tmp_path / "big.png").write_bytes(bytes(11_000_000))
    seen.locator("#file").set_input_files(tmp_path / "big.png")
    seen.locator("#message", has_text="larger than 10 MB").wait_for()
    from PIL import Image

    Image.open(digit_files[3]).save(tmp_path / "a.tif")  # which this browser cannot show itself
    seen.locator("#file").set_input_files(tmp_path / "a.tif")
    seen.locator("#message").wait_for(state="hidden")
    seen.locator("#view[aria-label*='a.tif']").wait_for()
    assert answer(seen) == "3"
    assert page.fits()


def test_what_is_drawn_is_answered_after_each_stroke(page: Page) -> None:
    seen = page.page
    seen.locator("#draw").click()
    assert seen.locator("#looks").is_hidden()
    box = seen.locator("#pad").bounding_box()

    def stroke(points: list[tuple[float, float]]) -> None:
        for number, (x, y) in enumerate(points):
            seen.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if not number:
                seen.mouse.down()
        seen.mouse.up()

    stroke([(0.5, 0.2), (0.5, 0.8)])
    answer(seen)
    seen.locator("#clear").click()
    assert seen.locator("#bars button").count() == 0
    around = [
        (0.5, 0.15),
        (0.3, 0.3),
        (0.25, 0.5),
        (0.3, 0.7),
        (0.5, 0.85),
        (0.7, 0.7),
        (0.75, 0.5),
        (0.7, 0.3),
        (0.5, 0.15),
    ]
    stroke(around)
    assert answer(seen) == "0"
    assert page.complaints == []


@desktop
def test_the_camera_gives_an_image(page: Page) -> None:
    seen = page.page
    seen.locator("#camera").click()
    seen.locator("#shoot").click()
    answer(seen)
    assert seen.locator("#view").is_visible()
    assert seen.locator("#video").is_hidden()
    assert page.complaints == []


@desktop
def test_an_image_can_be_dropped_and_pasted(page: Page, digit_files: list[Path]) -> None:
    for event, carrier in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        name, number = ("dataTransfer", 3) if event == "drop" else ("clipboardData", 4)
        script = f"""(bytes) => {{
            const all = new DataTransfer();
            all.items.add(new File([new Uint8Array(bytes)], "{event}.png", {{ type: "image/png" }}));
            document.dispatchEvent(new {carrier}("{event}", {{ {name}: all, bubbles: true }}));
        }}"""
        page.page.evaluate(script, list(digit_files[number].read_bytes()))
        page.page.locator(f"#view[aria-label*='{event}' i], #view[aria-label*='pasted']").wait_for()
        assert answer(page.page) == str(number)


def test_the_page_can_be_used_with_the_keyboard_and_every_control_has_a_name(page: Page) -> None:
    seen = page.page
    names = seen.evaluate(
        """() => [...document.querySelectorAll("button, input, summary")].filter((e) => e.offsetParent).map((e) =>
            e.getAttribute("aria-label") || e.textContent.trim() || [...e.labels].map((l) => l.textContent).join(""))"""
    )
    assert len(names) > 20
    assert all(names)
    seen.locator("#strip button").first.focus()
    seen.keyboard.press("Enter")
    assert answer(seen) == "0"
    seen.locator("summary").focus()
    seen.keyboard.press("Enter")
    assert seen.locator("#layers tr").count() > 3
    assert page.fits()


def test_a_server_that_was_stopped_meanwhile_is_said_so(browser: Any, command: CommandLine, good_run: Path) -> None:
    with Server(command, good_run) as server:
        made = Page(browser)
        seen = made.open(server.address)
        server.stop()
        seen.locator("#strip button").first.click()
        seen.locator("#message", has_text="The server does not answer").wait_for()
        made.context.close()


def test_the_token_is_asked_for_and_remembered(browser: Any, command: CommandLine, good_run: Path) -> None:
    with Server(command, good_run, ["--token", "secret"]) as server:
        made = Page(browser, color_scheme="dark")
        seen = made.page
        seen.goto(server.address)
        seen.locator("#token").fill("wrong")
        seen.keyboard.press("Enter")
        seen.locator("#message", has_text="token").wait_for()
        seen.locator("#token").fill("secret")
        seen.keyboard.press("Enter")
        seen.locator("#strip button").nth(20).wait_for()
        seen.reload()
        seen.locator("#strip button").nth(20).click()
        answer(seen)
        seen.goto(server.address + "docs")
        seen.locator("h2", has_text="POST /predict").wait_for()
        made.context.close()
