"""The instructions that a processor may use, as the environment limits them."""

from __future__ import annotations

import pytest
import torch

from cnnlab.device import INSTRUCTION_SETS, instruction_set, multiplies_bf16
from cnnlab.runs.environment import describe, processor_name

XEON = dict.fromkeys(INSTRUCTION_SETS.values(), True) | {"amx_fp16": False}


@pytest.mark.parametrize(
    ("has", "limit", "expected", "bf16"),
    [
        (XEON, "", "AVX512_CORE_AMX", True),
        (XEON, "AVX512_CORE_BF16", "AVX512_CORE_BF16", True),
        (XEON, "avx512_core", "AVX512_CORE", False),
        (XEON, "AVX10_1_512", "AVX512_CORE_FP16", True),
        (XEON, "AVX2", "AVX2", False),
        (XEON, "no such set", "AVX512_CORE_AMX", True),  # which oneDNN ignores too
        ({"avx2": True, "avx": True}, "AVX512_CORE_AMX", "AVX2", False),
        ({"neon": True}, "", "", False),
    ],
)
def test_the_least_of_what_is_there_and_what_is_allowed(
    has: dict[str, bool], limit: str, expected: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert instruction_set() == expected
    assert multiplies_bf16() == bf16
    assert describe()["machine"]["instruction_set"] == expected


def test_the_older_name_of_the_limit_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: XEON)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert instruction_set() == "AVX2"


def test_a_record_says_which_instructions_it_was_made_with() -> None:
    machine = {"processor": "AMD EPYC", "instruction_set": "AVX2"}
    assert processor_name(machine) == "AMD EPYC (AVX2)"
    assert processor_name({"processor": "AMD EPYC"}) == "AMD EPYC"  # as environment.json was before
