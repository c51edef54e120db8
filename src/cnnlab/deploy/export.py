"""Export a run to a file for other programs. It is written only after its outputs are verified."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.data.data import Data
from cnnlab.data.own import import_dataset
from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy import acceptance
from cnnlab.deploy.browser import fetch_runtime, write_web
from cnnlab.deploy.convert import from_pt2, to_onnx, to_pt2
from cnnlab.deploy.exported import OnnxModel, onnx_runtime
from cnnlab.deploy.quantize import to_int8
from cnnlab.deploy.service import Service
from cnnlab.errors import ConfigError, ExportError
from cnnlab.evaluation.evaluate import data_of_run
from cnnlab.evaluation.samples import samples_of
from cnnlab.explain import FullyConvolutional
from cnnlab.files import given_output, is_path
from cnnlab.models.folding import fold_batch_norm
from cnnlab.runs.environment import describe
from cnnlab.runs.files import read_json, write_json, write_whole
from cnnlab.runs.folder import RunFolder, read_config
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model
from cnnlab.tasks import DecisionRule

TESTED = 5000  # images of the test split at the most
CALIBRATION = 300  # images of the validation split
FORMATS = ("onnx", "pt2", "web")


@dataclass(frozen=True)
class Export:
    """The file that was written, and its entry in export.json."""

    file: Path
    results: dict[str, Any]


def export_run(
    run: str | Path,
    format: str = "onnx",
    int8: bool = False,
    fully_convolutional: bool = False,
    out: str | Path | None = None,
    data_root: str | None = None,
    trust_code: bool = False,
) -> Export:
    """Write the best model of a run as `model.onnx` or `model.pt2`, and what was measured into export.json beside it.

    Args:
        format: onnx, pt2, or web: a folder `web` with a page that runs the network in a browser.
        int8: compute in 8 bits (not pt2), calibrated on the validation split.
        fully_convolutional: logits of every window of an image of any size, see `FullyConvolutional`.
        out: folder; None: `export` in the run folder.
        data_root: where the images are now, or another set with the same classes to test on.
        trust_code: see `load_run`.

    Raises:
        ExportError: the extra is not installed, the model has no such form, or the export does not answer as the model
            does; then nothing is written.
        RunError, DataError: no weights, or no images to test on.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {format!r}.")
    if int8 and format == "pt2":
        raise ConfigError("int8 is for ONNX; leave out --format pt2 or --int8.")
    if fully_convolutional and format == "web":
        raise ConfigError("the page classifies whole images; leave out --format web or --fully-convolutional.")
    if format != "pt2":
        onnx_runtime()
    if format == "web":
        fetch_runtime()
    with opened_run(run, writes=True) as folder:
        return _export(RunFolder(folder), format, int8, fully_convolutional, out, data_root, trust_code)


def _export(
    folder: RunFolder,
    format: str,
    int8: bool,
    fully_convolutional: bool,
    out: str | Path | None,
    data_root: str | None,
    trust_code: bool,
) -> Export:
    """See `export_run`."""
    place = check_out(folder.path / "export" if out is None else given_output(out))
    model, card = load_model(folder, "cpu", trust_code)
    Preprocess.from_dict(card["preprocess"]).refuse_own()
    if trust_code:
        import_dataset(read_config(folder).data.name)
    changes = {} if data_root is None else {"root": str(data_root)}
    data, own = data_of_run(folder, card, torch.device("cpu"), "test", changes)
    split = "test" if len(data.split.test) else "val"
    images, labels = some_images(data, split, TESTED)

    net = exported_form(model, images, fully_convolutional)
    rule = folder.decision_rule(card)
    facts = facts_of(card, rule, int8, fully_convolutional)
    example = images[:2].repeat(2, 1, 1, 1)[:2].contiguous()
    content = to_pt2(net, example, facts) if format == "pt2" else to_onnx(net, example, facts)
    sizes = further_sizes(net)
    reference = net if isinstance(net, FullyConvolutional) else model
    candidate = from_pt2(content) if format == "pt2" else OnnxModel(content)
    found = acceptance.parity(reference, candidate, images, sizes)
    acceptance.check_parity(found)
    if int8:
        calibration = "val" if len(data.split.val) else "train"
        content = to_int8(content, some_images(data, calibration, CALIBRATION)[0], facts)
        candidate = OnnxModel(content)
        found = acceptance.parity(reference, candidate, images, sizes)  # reported; its accuracy is what counts
    right = acceptance.accuracy(reference, candidate, images, labels, rule)
    acceptance.check_accuracy(right, int8)

    name = file_name("onnx" if format == "web" else format, int8, fully_convolutional)
    file = place / "web" / "index.html" if format == "web" else place / name
    results = {
        "format": format,
        "int8": int8,
        "fully_convolutional": fully_convolutional,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "weights_bytes": folder.weights.stat().st_size,
        "model": {key: card[key] for key in ("model", "data", "epoch") if key in card},
        "parity": found,
        "accuracy": {"split": split, "own_pictures": own, **right},
        "latency_ms": acceptance.latency({"model": reference, "export": candidate}, images[:1].contiguous()),
        "made_with": made_with(),
    }
    with _empty_again(place):
        if format == "web":
            write_web(file.parent, content, Service(model, card, folder.test_metrics(), samples_of(folder, card), rule))
        else:
            write_whole(file, content)
        record(place, "web" if format == "web" else name, results)
    return Export(file, results)


def as_text(export: Export) -> str:
    """The file, its size, and what was measured: parity, accuracy and latency, a line each."""
    results = export.results
    right, times = results["accuracy"], results["latency_ms"]
    worst = max(results["parity"]["difference"].values())
    busy = ", the fastest calls: the machine was busy" if times["busy"] else ""
    return (
        f"{export.file}  {results['bytes'] / 1e6:.2f} MB\n"
        f"  logits      differ by at most {worst:.2g} from the model's\n"
        f"  accuracy    {100 * right['export']:.2f} %, the model's {100 * right['model']:.2f} %"
        f" ({right['n']:,} {right['split']} images)\n"
        f"  one image   {times['export']['fastest']:.2f} ms, the model {times['model']['fastest']:.2f} ms{busy}"
    )


def exported_form(model: nn.Module, images: Tensor, fully_convolutional: bool) -> nn.Module:
    """What goes into the file: the model with batch norm folded into convolutions, or its fully-convolutional form."""
    if fully_convolutional:
        return FullyConvolutional(model, tuple(images.shape[1:])).eval()  # type: ignore[arg-type]
    return fold_batch_norm(model, images[:2])


def further_sizes(net: nn.Module) -> list[tuple[int, int]]:
    """Sizes besides the window that a fully-convolutional form is held to."""
    if not isinstance(net, FullyConvolutional):
        return []
    height, width = net.window
    return [(height + net.stride, width), (height + 5, 2 * width + 3)]


def facts_of(card: dict[str, Any], rule: DecisionRule, int8: bool, fully_convolutional: bool) -> dict[str, Any]:
    """What an exported file says of itself."""
    kept: dict[str, Any] = {
        key: card[key] for key in ("classes", "preprocess", "task", "model", "data", "epoch") if key in card
    }
    kept |= {"thresholds": list(rule.thresholds)} if rule.thresholds is not None else {}
    return kept | {"int8": int8, "fully_convolutional": fully_convolutional}


def file_name(format: str, int8: bool, fully_convolutional: bool) -> str:
    return f"model{'-fully-convolutional' if fully_convolutional else ''}{'-int8' if int8 else ''}.{format}"


def some_images(data: Data, split: str, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` images of a split, evenly spaced: (n, C, H, W) preprocessed, and their (n, …) targets."""
    members = data.split[split]
    if not len(members):
        raise ExportError(f"the {split} split is empty: there are no images to verify the export with.")
    chosen = members[np.linspace(0, len(members) - 1, min(count, len(members))).astype(int)]
    batches = list(data.evaluation_loader(chosen).epoch())
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.targets for batch in batches])


def check_out(place: Path) -> Path:
    """Raises ExportError now for a folder that could not be written into at the end."""
    if not is_path(place):
        raise ExportError(f"{str(place)[:80]!r} cannot be a folder's name; give another one with --out.")
    above = next((parent for parent in (place, *place.absolute().parents) if parent.exists()), place)
    if not above.is_dir():
        raise ExportError(f"{above} is a file, not a folder; give another one with --out.")
    return place


def record(place: Path, name: str, results: dict[str, Any]) -> None:
    """Put the results of one file into export.json, which keeps those of the others."""
    file = place / "export.json"
    known = read_json(file) if file.exists() else {}
    write_json(file, (known if isinstance(known, dict) else {}) | {name: results})


def made_with() -> dict[str, Any]:
    from importlib import metadata

    facts = describe()
    packages = {}
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {key: facts[key] for key in ("started", "python", "machine")} | {"versions": facts["versions"] | packages}


class _empty_again:  # noqa: N801
    """Make a folder, and take it away again if what was to be in it could not be written."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        self.made = [p for p in (self.place, *self.place.absolute().parents) if not p.exists()]
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(
                f"cannot make the folder {self.place} ({error.strerror}); give another one with --out."
            ) from None

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for place in self.made if kind else []:
            with contextlib.suppress(OSError):
                place.rmdir()
