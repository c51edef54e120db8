"""Weights in 7 bits and activations in 8: ONNX Runtime's static quantization, calibrated on images.

Weights get 7 bits since x86 processors without VNNI add pairs of products of 8-bit numbers into 16 bits, which
overflow: the same file would be right on one processor and wrong on another.

Scales are found once, from the range that each activation takes on the calibration images; weights have one scale a
channel (Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, section 3; Krishnamoorthi 2018, section 3.1).
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnlab.deploy.convert import with_facts
from cnnlab.deploy.exported import missing_extra

BATCH = 16  # calibration images at once: all activations of a batch are kept


def to_int8(content: bytes, images: Tensor, facts: dict[str, Any]) -> bytes:
    """A float ONNX file → one whose convolutions and products of matrices compute in 8 bits.

    Args:
        content: from `to_onnx`.
        images: (n, C, H, W) preprocessed images, a few hundred, to calibrate on.
        facts: what the file is to say of itself.

    Raises:
        ExportError: the extra is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise missing_extra("export") from None

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(torch.split(images.contiguous(), BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with tempfile.TemporaryDirectory() as name, _quiet():
        plain, ready, done = (Path(name) / f"{stage}.onnx" for stage in ("plain", "ready", "done"))
        plain.write_bytes(content)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)  # joins batch norm to convolutions, infers shapes
        quantize_static(
            ready,
            done,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # × int8 weights: the pair that x86 has instructions for
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits of the weights
            calibrate_method=CalibrationMethod.MinMax,
        )
        return with_facts(onnx.load(done), facts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice on what was done the line before."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
