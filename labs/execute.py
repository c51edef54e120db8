"""Execute a notebook and keep its outputs, for build.py; pages of `cnnlab.look` as images (Chromium)."""

from __future__ import annotations

import base64
import html
import io
import os
import re
import shutil
import tempfile
from pathlib import Path

from nbclient import NotebookClient
from nbformat import NotebookNode

# The frame of cnnlab.look: its page and height.
FRAME = re.compile(r'<iframe title="[^"]*"[^>]* srcdoc="([^"]*)" style="[^"]*height: (\d+)px')
FOLDER = Path(__file__).parent


def execute(notebook: NotebookNode, folder: Path, seconds_a_cell: int | None = None) -> NotebookNode:
    """Run all cells in a fresh kernel in `folder`. Raises CellExecutionError at the first that fails."""
    settings = {"timeout": seconds_a_cell, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings).execute()
    return notebook


def without_machine(notebook: NotebookNode) -> NotebookNode:
    """Only what belongs to a reader stays: no versions of the machine's Python, no path to this folder."""
    notebook.metadata["language_info"] = {"name": "python"}
    here = f"{FOLDER.resolve()}{os.sep}"
    for output in [output for cell in notebook.cells for output in cell.get("outputs", [])]:
        for texts in (output, output.get("data", {})):
            for kind in ("text", "text/plain", "text/html"):
                if kind in texts:
                    texts[kind] = texts[kind].replace(here, "")
    return notebook


def with_screenshots(notebook: NotebookNode) -> NotebookNode:
    """Pages of `cnnlab.look` as images: frames would add half a megabyte each, and GitHub shows none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found = FRAME.match(output.get("data", {}).get("text/html", ""))
            if found:
                picture = screenshot(html.unescape(found[1]), int(found[2]))
                text = "The page as an image. Run the cell to use it."
                output["data"] = {"image/png": base64.b64encode(picture).decode(), "text/plain": text}
    return notebook


def screenshot(page: str, height: int) -> bytes:
    """A page of `cnnlab.look` → PNG of 256 colours, once its network has answered."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        tab = browser.new_page(viewport={"width": 1000, "height": height})
        tab.goto(file.as_uri())
        tab.evaluate("window.look.check()")
        picture = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    small = io.BytesIO()
    picture.convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()
