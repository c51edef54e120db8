"""When memory runs out: how that is recognised, in the words of every library that may say so."""

from __future__ import annotations

import torch

NO_MEMORY = (  # in the words of glibc, GPUs, oneDNN, cuBLAS and cuDNN
    "can't allocate memory",
    "out of memory",
    "could not create a primitive",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a batch does not fit, on a processor or an accelerator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in NO_MEMORY)
