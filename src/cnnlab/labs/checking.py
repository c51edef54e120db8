"""`check`: try a student's answer to an exercise, and say with one hint what is wrong."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cnnlab.errors import ConfigError
from cnnlab.labs import (
    arithmetic,
    blocks,
    domains,
    image_processing,
    maps,
    measuring,
    network,
    photographs,
    pipeline,
    residuals,
)
from cnnlab.labs.answers import NotAnswered, Wrong

Check = Callable[[Any, torch.Generator], None]  # returns if the answer is right, raises Wrong or NotAnswered if not

CHECKS: dict[str, Check] = {
    "0.1": pipeline.check_to_tensor,
    "0.2": arithmetic.check_convolve,
    "0.3": arithmetic.check_numerical_gradient,
    "0.4": pipeline.check_dataset,
    "0.5": pipeline.check_loaders,
    "0.6": pipeline.check_show_batch,
    "0.7": arithmetic.check_output_size,
    "0.8": arithmetic.check_output_shape,
    "0.9": network.check_cnn,
    "0.10": arithmetic.check_cross_entropy,
    "0.11": arithmetic.check_sgd,
    "0.12": arithmetic.check_momentum,
    "0.13": arithmetic.check_adam,
    "0.14": network.check_train_epoch,
    "0.15": network.check_evaluate,
    "0.16": network.check_overfit,
    "0.17": network.check_history,
    "0.18": network.check_save_and_load,
    "0.19": network.check_confusion_matrix,
    "1.1": image_processing.check_normalise,
    "1.2": image_processing.check_blur_and_edges,
    "1.3": image_processing.check_resize,
    "1.4": image_processing.check_saturate,
    "1.5": image_processing.check_augment,
    "1.6": image_processing.check_keeps,
    "1.7": image_processing.check_equal_images,
    "1.8": measuring.check_sizes,
    "1.9": measuring.check_expected_loss,
    "1.10": measuring.check_seeds,
    "1.11": measuring.check_judge,
    "1.12": measuring.check_wilson,
    "1.13": measuring.check_top_k,
    "1.14": measuring.check_shift,
    "1.15": measuring.check_filter,
    "2.1": blocks.check_vgg_block,
    "2.2": blocks.check_repaired,
    "2.3": blocks.check_residual_block,
    "2.4": blocks.check_transposed_size,
    "2.5": blocks.check_conv_transpose,
    "2.6": domains.check_mnist_m,
    "2.7": blocks.check_unet,
    "2.8": domains.check_mask_iou,
    "2.9": domains.check_transfer,
    "2.10": domains.check_adapt_batch_norm,
    "2.11": domains.check_occlusion_map,
    "3.1": residuals.check_mlp,
    "3.2": residuals.check_shortcut_a,
    "3.3": residuals.check_block,
    "3.4": residuals.check_network,
    "3.5": residuals.check_added_parameters,
    "3.6": residuals.check_record,
    "3.7": residuals.check_inner_products,
    "3.8": residuals.check_compare_depths,
    "3.9": residuals.check_without_shortcuts,
    "3.10": maps.check_class_activation_map,
    "3.11": maps.check_finer,
    "3.12": maps.check_group_mistakes,
    "3.13": maps.check_to_convolution,
    "3.14": maps.check_find_boxes,
    "3.15": maps.check_iou,
    "4.1": photographs.check_dataset,
    "4.2": photographs.check_letterbox,
    "4.3": photographs.check_alexnet_sizes,
    "4.4": photographs.check_experiment,
    "4.5": photographs.check_holds,
    "4.6": photographs.check_own_network,
    "4.7": photographs.check_mcnemar,
    "4.8": photographs.check_macro_f1,
    "4.9": photographs.check_shuffle_places,
}
_passed: set[str] = set()  # of this Python process: a new kernel begins at 0
COLOURS = {True: "#1a7f37", False: "#b35900"}


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        number: of the exercise, such as "0.4".
        passed: whether the answer is right.
        hint: what is wrong with it; "" if it passed.
        progress: how far the lab is, such as "Lab 0: 7 of 19".
    """

    number: str
    passed: bool
    hint: str
    progress: str

    @property
    def _said(self) -> str:
        return f"{self.number} passed" if self.passed else f"{self.number} not yet: {self.hint}"

    def __repr__(self) -> str:
        return f"{self._said}\n{self.progress}"

    def _repr_html_(self) -> str:
        mark = "✓" if self.passed else "✗"
        return (
            f'<div style="border-left:4px solid {COLOURS[self.passed]};padding-left:.6em">'
            f'<b style="color:{COLOURS[self.passed]}">{mark}</b> {html.escape(self._said)}'
            f'<br><span style="opacity:.65">{html.escape(self.progress)}</span></div>'
        )


def check(number: str, answer: Any) -> CheckResult:
    """Try an answer to an exercise of a lab on newly drawn inputs.

        >>> def output_size(size, kernel, stride=1, padding=0, dilation=1):
        ...     return (size + padding - dilation * (kernel - 1) - 1) // stride + 1
        >>> cnnlab.labs.check("0.7", output_size)
        0.7 not yet: the padding is added on both sides, so the input grows by 2P.
        Lab 0: 0 of 19

    Args:
        number: of the exercise, as text: "0.4" is the fourth of lab 0.
        answer: what the exercise asks for: a function, a class, a number, … .

    Returns:
        A `CheckResult` with `passed` and `hint`; a notebook shows it in colour. An error that the answer raises is a
        hint too. The seed of torch is left as it was.

    Raises:
        ConfigError: there is no exercise of this number.
    """
    if not isinstance(number, str) or number not in CHECKS:
        raise ConfigError(f"there is no exercise {number!r}; give one as text: {_known(str(number))}.")
    draw = torch.Generator()
    draw.seed()
    hint = ""
    try:
        if answer is None or answer is ...:
            raise NotAnswered
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            CHECKS[number](answer, draw)
    except NotAnswered:
        hint = "not answered yet. Replace the `...` in the cell above, run it, and run this one again."
    except Wrong as wrong:
        hint = str(wrong)
    (_passed.discard if hint else _passed.add)(number)
    return CheckResult(number, not hint, hint, _progress(number.split(".")[0]))


def _of_lab(lab: str) -> list[str]:
    return [number for number in CHECKS if number.split(".")[0] == lab]


def _known(number: str) -> str:
    """The exercises of the lab that was asked for, or of all."""
    labs = list(dict.fromkeys(number.split(".")[0] for number in CHECKS))
    asked = number.split(".")[0]
    return "; ".join(f"{_of_lab(lab)[0]} to {_of_lab(lab)[-1]}" for lab in ([asked] if asked in labs else labs))


def _progress(lab: str) -> str:
    numbers = _of_lab(lab)
    return f"Lab {lab}: {len(_passed.intersection(numbers))} of {len(numbers)}"
