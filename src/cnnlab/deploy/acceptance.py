"""Whether an export predicts as its run does: parity of logits, accuracy on real images, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.errors import ExportError
from cnnlab.finite import check_answers
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4  # of the largest logit; rounding in another order is below 1e-5
LOST = 0.001  # accuracy that another order of rounding may cost
LOST_INT8 = 0.005  # accuracy that 8 bits may cost
BUSY = 2.0  # median over fastest call from which on a machine is called busy
ROUNDS = 30  # timings

Net = Callable[[Tensor], Tensor]  # (B, C, H, W) → (B, K, …) logits


@torch.inference_mode()
def parity(model: Net, export: Net, images: Tensor, sizes: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """Largest difference of the logits at batches of 1, 3 and 8, and on 3 images of each further size.

    Args:
        images: (n, C, H, W) real images; repeated where there are fewer than 8.
        sizes: (height, width) to enlarge the images to.

    Returns:
        difference: {"1": …, "3": …, "8": …, "40×52": …}; largest_logit: of the model; both in logits.
    """
    images = images.repeat(-(-max(BATCHES) // len(images)), 1, 1, 1)
    views = {str(count): images[:count] for count in BATCHES}
    views |= {f"{h}×{w}": F.interpolate(images[:3], (h, w), mode="bilinear") for h, w in sizes}
    differences, largest = {}, 0.0
    for name, view in views.items():
        expected = check_answers(model(view).float())
        answer = _answer(export, view)
        if answer.shape != expected.shape:
            raise ExportError(
                f"the export gives {tuple(answer.shape)} numbers for images of shape {tuple(view.shape)}, the model"
                f" {tuple(expected.shape)}: it was not written. This model cannot be exported in this form."
            )
        differences[name] = float((answer - expected).abs().max())
        largest = max(largest, float(expected.abs().max()))
    return {"difference": differences, "largest_logit": largest}


def check_parity(found: dict[str, Any]) -> None:
    """Raises ExportError where a difference is more than rounding (also where it is no number)."""
    worst = max(found["difference"], key=lambda name: (found["difference"][name] != 0, found["difference"][name]))
    allowed = TOLERANCE * found["largest_logit"]
    if not all(value <= allowed for value in found["difference"].values()):
        raise ExportError(
            f"the logits of the export differ from the model's by {found['difference'][worst]:.2g} at {worst} (allowed:"
            f" {allowed:.2g}): it was not written. This model cannot be exported in this form."
        )


@torch.inference_mode()
def accuracy(
    model: Net, export: Net, images: Tensor, labels: Tensor, rule: DecisionRule = SINGLE_LABEL, batch: int = 64
) -> dict[str, Any]:
    """Of the model and of the export on the same images, in [0, 1], and the share of equal answers.

    Args:
        images: (n, C, H, W); labels: (n,), or (n, H, W) for a model that classifies every pixel, whose pixels count, or
            (n, K) of 0 and 1 for a multi-label model (`rule`), whose every yes and no counts.
    """
    sums = torch.zeros(3, dtype=torch.int64)
    for part, truth in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        expected, answer = _classes(model(part), truth, rule), _classes(_answer(export, part), truth, rule)
        sums += torch.stack([(expected == truth).sum(), (answer == truth).sum(), (answer == expected).sum()])
    shares = (sums.double() / labels.numel()).tolist()
    return {"n": len(images), "model": shares[0], "export": shares[1], "same_answers": shares[2]}


def check_accuracy(found: dict[str, Any], int8: bool) -> None:
    """Raises ExportError where the export is right less often than it may."""
    lost, allowed = found["model"] - found["export"], LOST_INT8 if int8 else LOST
    if lost > allowed + 1e-9:
        fix = "the range of its activations does not fit 8 bits; export it without --int8." if int8 else "report this."
        raise ExportError(
            f"the export is right on {100 * found['export']:.2f} % of {found['n']:,} images, the model on"
            f" {100 * found['model']:.2f} %: {100 * lost:.2f} points lower where {100 * allowed:.1f} are allowed."
            f" It was not written; {fix}"
        )


@torch.inference_mode()
def latency(nets: dict[str, Net], images: Tensor, rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds per call, the nets in turn, so that a busy machine is as busy for each.

    Other programs can only make a call slower, and a net of several threads many times slower than one of one: the
    fastest call is what the nets are compared by.

    Returns:
        n, and for each net {"fastest": …, "median": …, "quartiles": [low, high]}; "busy" tells that one's median was
        more than BUSY times its fastest.
    """
    spent: dict[str, list[float]] = {name: [] for name in nets}
    for turn in range(rounds + 3):
        for name, net in nets.items():
            began = time.perf_counter()
            net(images)
            if turn >= 3:
                spent[name].append(1000 * (time.perf_counter() - began))
    results: dict[str, Any] = {"n": rounds, "batch": len(images)}
    for name, values in spent.items():
        low, middle, high = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        times = {"fastest": min(values), "median": middle, "quartiles": [low, high]}
        results[name] = {
            key: [round(v, 4) for v in t] if isinstance(t, list) else round(t, 4) for key, t in times.items()
        }
    results["busy"] = any(results[name]["median"] > BUSY * results[name]["fastest"] for name in nets)
    return results


def _answer(export: Net, images: Tensor) -> Tensor:
    try:
        return export(images).float()
    except Exception as error:  # a runtime has its own classes of error
        reason = str(error).strip().splitlines()[0][:160]
        raise ExportError(
            f"the export does not take images of shape {tuple(images.shape)} ({reason}): it was not written. This"
            " model cannot be exported in this form."
        ) from None


def _classes(logits: Tensor, truth: Tensor, rule: DecisionRule) -> Tensor:
    """Answers in the shape of the labels; a fully-convolutional form gives one place for an image of its window."""
    if rule.multi_label:
        return rule.chosen(rule.probabilities(logits.flatten(1))).to(truth.dtype)
    answers = logits.argmax(1)
    answers = answers.flatten(1)[:, 0] if answers.shape[1:] == (1, 1) and truth.ndim == 1 else answers
    assert answers.shape == truth.shape, (answers.shape, truth.shape)
    return answers
