"""Matrix products whose factors are rounded first, as other processors and GPUs do it.

    with rounded_factors("bf16"): x @ y      # as oneDNN on processors with AMX multiplies under short_products()

"bf16" keeps 8 bits of each factor, "tf32" 11 (tensor cores of GPUs), "fp32" all; products are summed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# The positions of the two factors among the arguments.
FACTORS = {aten.mm.default: (0, 1), aten.bmm.default: (0, 1), aten.addmm.default: (1, 2), aten.baddbmm.default: (1, 2)}


def round_to_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def round_to_tf32(x: Tensor) -> Tensor:
    """Nearest float32 with 10 explicit bits of mantissa."""
    bits = (x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)


ROUNDINGS = {"fp32": lambda x: x, "tf32": round_to_tf32, "bf16": round_to_bf16}


class rounded_factors(TorchDispatchMode):  # noqa: N801 (a context, written as one)
    """Rounds the factors of every float32 matrix product inside; convolutions are left alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.round = ROUNDINGS[kind]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in FACTORS:
            positions = FACTORS[function]
            args = tuple(
                self.round(a) if i in positions and a.dtype == torch.float32 else a for i, a in enumerate(args)
            )
        return function(*args, **(kwargs or {}))
