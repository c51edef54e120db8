"""The page as a whole: it stands alone, survives hostile names and missing numbers, and stays small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

import cnnlab
from cnnlab.report.content import Area, Faithfulness, Insight, Layer, Report, Sample, Stage
from cnnlab.report.formatting import SPACE
from cnnlab.report.page import MAX_SAMPLES, render

VOID = {"meta", "link", "img", "input", "br", "wbr", "hr"}
NAN = float("nan")


class Page(HTMLParser):
    """Collects attributes and the text of each element; fails on a tag that is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace(SPACE, " ").split())


def row(epoch: int, **changes: Any) -> dict[str, Any]:
    values = {
        "epoch": epoch,
        "step": 100 * epoch,
        "lr": 0.1 / epoch,
        "train_loss": 2 / epoch,
        "train_accuracy": 1 - 0.5 / epoch,
        "val_loss": 2.2 / epoch,
        "val_accuracy": 1 - 0.6 / epoch,
        "seconds": 10.0,
        "images_per_second": 1000.0,
        "gradient_norm": 3 / epoch,
    }
    return values | changes


def make_report(classes: list[str] | None = None, epochs: int = 4, **changes: Any) -> Report:
    classes = classes or ["cat", "dog", "frog"]
    size = len(classes)
    matrix = np.full((size, size), 1) + np.diag(np.full(size, 17))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    report = Report(
        title="animals-resnet-20261121-230300",
        classes=classes,
        config={
            "seed": 7,
            "overrides": ["data=animals", "run.name=first try"],
            "run": {"dir": None},
            "model": {"name": "resnet", "depth": 20},
            "data": {"name": "animals"},
            "trainer": {"epochs": epochs},
        },
        environment={"versions": {"torch": "2.11.0"}, "command": "cnnlab train data=animals"},
        split={"sizes": {"train": 800, "val": 100, "test": 100}, "quarantined": [], "stratified": True},
        history=[row(epoch) for epoch in range(1, epochs + 1)],
        best_epoch=epochs,
        test={
            "loss": 0.3,
            "accuracy": 0.9,
            "top5_accuracy": 0.99,
            "macro_f1": 0.89,
            "ece": 0.02,
            "n": int(matrix.sum()),
            "split": "test",
            "accuracy_interval": [0.82, 0.95],
            "per_class": [{"class": name, "n": 20, "precision": 0.9, "recall": 0.9, "f1": 0.9} for name in classes],
            "confusion_matrix": matrix.tolist(),
        },
        samples=[
            Sample(image, f"test/{index}.png", classes[index % size], generator.dirichlet(np.ones(size)))
            for index, image in enumerate(images)
        ],
    )
    return replace(report, **changes)


def test_page_asks_nothing_of_the_network() -> None:
    html = render(make_report())
    page = Page(html)
    addresses = [
        str(value) for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert any(address.startswith("data:image/png") for address in addresses)
    assert {address for address in addresses if not address.startswith(("data:", "#"))} == {"look.html"}  # beside it
    assert "@import" not in html and "url(" not in html
    policy = next(str(a["content"]) for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_within_the_page_lead_somewhere_and_ids_are_unique() -> None:
    page = Page(render(make_report(split={"quarantined": [{"name": "x.jpg", "reason": "truncated"}]})))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in page.tags if tag == "a" and str(a["href"]).startswith("#")}
    assert targets and targets <= set(ids)


def test_header_tells_the_result_with_interval_n_and_baseline() -> None:
    words = Page(render(make_report())).words
    assert "Test accuracy 90.0 %" in words
    assert "95 % interval 82.0 % to 95.0 %. n = 60 images, 54 of them correct." in words
    assert "most common class (the vertical tick) would score 33.3 %" in words
    assert "Validation accuracy 85.0 % best epoch, 4; n = 100 images" in words
    assert "Top-5" not in words  # of three classes
    assert "Training time 40.0 s" in words
    assert "resnet trained on animals · 3 classes" in words


BINS = [{"low": i / 15, "n": i, "confidence": i / 15 + 0.01, "accuracy": 0.5} for i in range(15)]


def with_test(**changes: Any) -> dict[str, Any]:
    return dict(make_report().test or {}) | changes


def insight(**changes: Any) -> Insight:
    sample = make_report().samples[0]
    values: dict[str, Any] = {
        "mistakes": [replace(sample, overlay=np.zeros((128, 128, 3), np.uint8), loss=4.25)],
        "method": "Grad-CAM",
        "legend": ["#000000", "#ffffff"],
        "traced": sample,
        "stages": [Stage("stem", (32, 4, 4), np.zeros((16, 4, 4)))],
        "faithfulness": Faithfulness(
            n=32,
            steps=10,
            maps=(Area(0.2, 0.1, 0.03), Area(0.9, 0.1, 0.03)),
            random=(Area(0.4, 0.1, 0.03), Area(0.8, 0.1, 0.03)),
            better=(30, 25),
        ),
        "layers": [Layer("head", "Linear", "10", ("(8 + 2×1 − 3)/1 + 1 = 8",), 650, 640, "global")],
        "totals": {"parameters": "650"},
    }
    return Insight(**values | changes)


def ids(html: str) -> set[str]:
    return {str(attributes["id"]) for _, attributes in Page(html).tags if "id" in attributes}


def test_metrics_stand_above_their_intervals() -> None:
    words = Page(render(make_report(test=with_test(intervals={"macro_f1": [0.85, 0.93], "loss": [0.25, 0.4]})))).words
    assert "Macro F1 89.0 % 85.0 to 93.0 %" in words
    assert "Loss 0.3 0.25 to 0.4" in words
    assert "Calibration error 2.0 % confidence" in words  # which has none here


def test_calibration_is_drawn_without_and_with_the_temperature() -> None:
    calibration = {
        "temperature": 1.834,
        "n": 500,
        "before": {"loss": 0.5, "ece": 0.08, "bins": BINS},
        "after": {"loss": 0.4, "ece": 0.02, "bins": BINS},
    }
    html = render(make_report(test=with_test(calibration=calibration)))
    words = Page(html).words
    assert {"calibration", "reliability-before-title", "reliability-after-title"} <= ids(html)
    assert "(ECE) 8.0 %, loss 0.5" in words and "(ECE) 2.0 %, loss 0.4" in words
    assert "With the temperature 1.83" in words and "fitted on 500 validation images" in words
    none = calibration | {"temperature": None, "after": None}
    words = Page(render(make_report(test=with_test(calibration=none | {"n": 0})))).words
    assert "there are no validation images" in words
    words = Page(render(make_report(test=with_test(calibration=none)))).words
    assert "every validation image is classified correctly" in words


def test_the_gradient_is_drawn_and_left_out_of_runs_that_did_not_measure_it() -> None:
    assert "gradient-title" in ids(render(make_report()))
    old = [{key: value for key, value in row(epoch).items() if key != "gradient_norm"} for epoch in (1, 2)]
    assert "gradient-title" not in ids(render(make_report(history=old, best_epoch=2)))


def test_what_the_network_does_with_images_has_its_sections() -> None:
    html = render(make_report(insight=insight()))
    assert {"mistakes", "images", "faithfulness", "stages", "layers"} <= ids(html)
    words = Page(html).words
    assert "loss 4.25" in words
    assert "Grad-CAM for the predicted class" in words
    assert "Deletion lower is better 0.200 ± 0.030 s 0.100 0.400 ± 0.030 s 0.100 30 of 32" in words
    assert "Insertion higher is better 0.900 ± 0.030 s 0.100 0.800 ± 0.030 s 0.100 25 of 32" in words
    assert "stem 32×4×4, 16 of 32 shown" in words
    assert "head Linear (8 + 2×1 − 3)/1 + 1 = 8 10 650 640 global" in words


def test_without_maps_the_page_says_why_and_leaves_no_gap() -> None:
    silent = insight(method=None, without_maps="MLP has no spatial features.", stages=[], faithfulness=None)
    html = render(make_report(insight=silent))
    assert "There are no activation maps: MLP has no spatial features." in Page(html).words
    assert not {"faithfulness", "stages"} & ids(html)


def test_of_pixels_nothing_is_said_that_holds_of_images() -> None:
    pixels = {
        "split": "test",
        "task": "segmentation",
        "accuracy": 0.97,
        "accuracy_interval": [0.96, 0.98],
        "mean_iou": 0.8,
        "mean_iou_interval": [0.78, 0.82],
        "n": 40,
        "confusion_matrix": [[900, 10, 0], [20, 300, 0], [0, 0, 80]],
    }
    words = Page(render(make_report(test=pixels, samples=[]))).words
    assert "Test mean IoU 80.0 %" in words and "n = 40 images." in words and "of them correct" not in words
    assert "Pixel accuracy 97.0 % 96.0 to 98.0 %" in words
    assert "predicted class pixels share dog cat 20 of 320" in words


HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\"b'&amp;", "{{ 7*7 }}", "שלום 猫"]


def test_hostile_names_stay_text_everywhere() -> None:
    report = make_report(HOSTILE)
    samples = [replace(sample, name=HOSTILE[1]) for sample in report.samples]
    html = render(
        replace(
            report,
            title=HOSTILE[0],
            samples=samples,
            config={HOSTILE[1]: HOSTILE[0], "overrides": HOSTILE},
            insight=insight(
                mistakes=samples,
                traced=samples[0],
                without_maps=HOSTILE[1],
                layers=[Layer(HOSTILE[0], HOSTILE[1], "1", (HOSTILE[0],), 1, 1, "1")],
                stages=[Stage(HOSTILE[1], (1, 1, 1), np.zeros((1, 1, 1)))],
            ),
            split={"quarantined": [{"name": HOSTILE[1], "reason": HOSTILE[0]}]},
        )
    )
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(name in page.words for name in HOSTILE)


def test_hostile_names_stay_text_in_the_heat_map() -> None:
    page = Page(render(make_report([f"{HOSTILE[1]} {index}" for index in range(30)])))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_name_that_is_not_utf8_can_still_be_written() -> None:
    report = make_report(split={"quarantined": [{"name": "caf\udce9.jpg", "reason": "truncated"}]})
    assert b"caf\\udce9.jpg" in render(report).encode("utf-8")


def test_one_epoch() -> None:
    words = Page(render(make_report(epochs=1))).words
    assert "Epochs 1 of 1 planned" in words
    assert "best: 1" in words


def test_thousand_epochs_stay_under_a_megabyte() -> None:
    assert len(render(make_report(epochs=1000)).encode()) < 1_000_000


def test_untested_run_shows_the_validation_accuracy_and_says_so() -> None:
    page = Page(render(make_report(test=None)))
    assert "Validation accuracy 85.0 % Not tested yet." in page.words
    assert not any(attributes.get("id") in ("confusion", "classes") for _, attributes in page.tags)


def test_numbers_that_are_not_numbers_are_dashes() -> None:
    report = make_report()
    test = dict(report.test or {}, accuracy=NAN, accuracy_interval=[NAN, NAN], loss=NAN, macro_f1=None)
    test["per_class"] = [{"class": "cat", "n": 0, "precision": NAN, "recall": None, "f1": NAN}]
    page = Page(render(replace(report, test=test)))
    assert "Test accuracy –" in page.words
    assert "nan" not in page.words.lower()
    assert {a["data-value"] for tag, a in page.tags if "data-value" in a} == {"0.0", ""}


def test_history_without_validation_leaves_gaps() -> None:
    history = [row(epoch, val_loss=None, val_accuracy=None) if epoch == 3 else row(epoch) for epoch in range(1, 6)]
    html = render(make_report(history=history, best_epoch=5))
    loss = html[html.index('id="loss-title"') : html.index('id="accuracy-title"')]
    assert len(re.findall('<polyline class="curve validation"', loss)) == 2
    assert len(re.findall('<polyline class="curve training"', loss)) == 1


def test_run_that_diverged_at_once_renders() -> None:
    broken = row(1, train_loss=NAN, train_accuracy=None, val_loss=NAN, val_accuracy=None, seconds=None, lr=None)
    page = Page(render(make_report(history=[broken], best_epoch=1, test=None)))
    assert "Validation accuracy –" in page.words


def test_report_with_nothing_but_a_title_renders() -> None:
    empty = Report("bare", ["a", "b"], {}, {}, {}, [], best_epoch=0, test=None, samples=[])
    words = Page(render(empty)).words
    assert "cnnlab test runs/bare" in words


def test_counts_are_printed_for_few_classes() -> None:
    page = Page(render(make_report()))
    shaded = [a for tag, a in page.tags if tag == "td" and "--shade" in str(a.get("style"))]
    assert len(shaded) == 9
    assert "cat → dog: 1" in {a["title"] for a in shaded}


def test_101_classes_are_a_heat_map_below_three_megabytes() -> None:
    names = [f"a dish with a rather long name {index}" for index in range(101)]
    photograph = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    samples = [Sample(photograph, "x.jpg", names[0], np.full(101, 1 / 101)) for _ in range(12)]
    html = render(make_report(names, epochs=200, samples=samples))
    assert len(html.encode()) < 3_000_000
    assert 'class="heat"' in html and 'class="confusion' not in html


def test_many_samples_are_cut_and_the_page_says_so() -> None:
    report = make_report()
    words = Page(render(replace(report, samples=list(report.samples) * 30))).words
    assert f"The first {MAX_SAMPLES} of 120 images" in words


def test_right_and_wrong_are_words_and_the_true_class_is_marked() -> None:
    image = np.zeros((8, 8), dtype=np.uint8)
    samples = [
        Sample(image, "1", "cat", np.array([0.7, 0.2, 0.1])),
        Sample(image, "2", "frog", np.array([0.7, 0.2, 0.1])),
    ]
    words = Page(render(make_report(samples=samples))).words
    assert "✓ right ▸ cat 70.0 %" in words
    assert "✗ wrong cat 70.0 % dog 20.0 % ▸ frog 10.0 %" in words


def test_quarantined_images_are_counted_named_and_explained() -> None:
    quarantined = [{"name": f"a/{index}.jpg", "reason": "truncated file"} for index in range(3)]
    words = Page(render(make_report(split={"sizes": {"train": 9}, "quarantined": quarantined}))).words
    assert "3 images quarantined before training: truncated file (3)." in words
    assert all(entry["name"] in words for entry in quarantined)


def test_commands_are_quoted_for_the_shell() -> None:
    words = Page(render(make_report())).words
    assert "cnnlab train data=animals 'run.name=first try'" in words
    assert "cnnlab test runs/animals-resnet-20261121-230300" in words


def test_command_falls_back_to_the_environment_and_run_dir_is_taken() -> None:
    words = Page(render(make_report(config={"run": {"dir": "my runs/1"}}))).words
    assert "cnnlab train data=animals" in words
    assert "cnnlab test 'my runs/1'" in words


def test_accuracy_on_another_split_is_not_called_test_accuracy() -> None:
    report = make_report()
    words = Page(render(replace(report, test=dict(report.test or {}, split="val")))).words
    assert "Validation accuracy 90.0 %" in words
    assert "Test accuracy" not in words


def test_same_report_gives_the_same_page() -> None:
    assert render(make_report()) == render(make_report())


def test_rendering_imports_neither_torch_nor_matplotlib() -> None:
    code = """
import sys
import numpy as np
from cnnlab.report.content import Report, Sample
from cnnlab.report.page import render
sample = Sample(np.zeros((8, 8), dtype=np.uint8), "0", "a", np.array([0.5, 0.5]))
test = {"accuracy": 1.0, "confusion_matrix": [[1, 0], [0, 1]]}
render(Report("run", ["a", "b"], {}, {}, {}, [{"epoch": 1, "train_loss": 1.0}], 1, test, [sample]))
print(sorted({"torch", "matplotlib"} & set(sys.modules)))
"""
    source = str(Path(cnnlab.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert done.stdout.strip() == "[]"
