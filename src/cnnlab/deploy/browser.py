"""A folder that runs a network in a browser: the page of the demonstration, ONNX Runtime for the web, and the model."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from cnnlab.data.store import cache_folder
from cnnlab.deploy.service import Service
from cnnlab.errors import ExportError
from cnnlab.runs.files import write_whole
from cnnlab.values import to_json

VERSION = "1.30.0"  # of onnxruntime-web
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = ("index.html", "style.css", "app.js", "pad.js", "view.js", "preprocess.js", "icon.svg")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'"
)


def write_web(place: Path, content: bytes, service: Service) -> None:
    """Write the folder, whole or not at all; an older one is replaced.

    Args:
        content: of the .onnx file.
        service: the run's card and samples.

    Raises:
        ExportError: npm is missing or cannot fetch the runtime, or the folder cannot be written.
    """
    if service.preprocess.layout.rearrange != "none":
        raise ExportError(
            f"data.rearrange={service.preprocess.layout.rearrange} is for experiments, and a page of its own cannot"
            " rearrange images; export a run without it."
        )
    runtime = fetch_runtime()
    page = resources.files("cnnlab.deploy") / "web"
    files = {name: (page / name).read_bytes() for name in PAGE}
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    files["index.html"] = files["index.html"].replace(
        b'<meta charset="utf-8">', b'<meta charset="utf-8">\n' + meta.encode()
    )
    files["engine.js"] = (page / "engine-browser.js").read_bytes()
    files |= {name: (runtime / name).read_bytes() for name in RUNTIME}
    files["model.onnx"] = content
    listed = []
    for number, sample in enumerate(service.samples):
        files[f"samples/{number}.png"] = sample.content
        listed.append({"file": f"samples/{number}.png", "label": sample.label})
    card = service.card | {"explains": False, "localizes": False, "looks": False}
    card |= {"preprocess": service.preprocess.to_dict(), "sample_files": listed}
    files["model.json"] = to_json(card, ensure_ascii=False).encode()

    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process of this number
    try:
        temporary.mkdir(parents=True)  # not a link that was put there
        for name, data in files.items():
            write_whole(temporary / name, data)
        if place.exists():
            shutil.rmtree(place)
        os.replace(temporary, place)
    except OSError as error:
        raise ExportError(f"cannot write {place} ({error.strerror}); give another folder with --out.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch_runtime() -> Path:
    """Folder with ONNX Runtime for the web: fetched with npm the first time, then kept in the cache.

    Raises ExportError where that cannot be.
    """
    kept = cache_folder() / f"onnxruntime-web-{VERSION}"
    if all((kept / name).is_file() for name in RUNTIME):
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            "--format web fetches onnxruntime-web with npm, which is not installed; install Node.js and try again."
        )
    with tempfile.TemporaryDirectory() as name:
        words = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", name]
        done = subprocess.run([*words, f"onnxruntime-web@{VERSION}"], capture_output=True, text=True, cwd=name)
        found = Path(name) / "node_modules" / "onnxruntime-web" / "dist"
        if done.returncode or not all((found / file).is_file() for file in RUNTIME):
            raise ExportError(
                f"npm could not fetch onnxruntime-web {VERSION}; see what `npm install onnxruntime-web@{VERSION}` says,"
                " and try again."
            )
        for file in RUNTIME:
            write_whole(kept / file, (found / file).read_bytes())
    return kept
