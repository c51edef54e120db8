"""What a result was made with: versions, machine, command, source revision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from cnnlab.device import instruction_set

PACKAGES = ("cnnlab", "torch", "torchvision", "numpy", "pillow", "hydra-core", "safetensors")


def describe(command: list[str] | None = None, processes: int = 1) -> dict[str, Any]:
    """A nested dictionary of plain values for environment.json; `processes` train together."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "command": command or [],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "instruction_set": instruction_set(),
            "gpus": gpus,
        },
        "git": git_revision(),
    }


def processor_name(machine: Mapping[str, Any]) -> str:
    """The processor of a `machine` in environment.json, with its instruction set: accuracies and times depend on it."""
    known = machine.get("instruction_set")  # environment.json had none at first
    return f"{machine.get('processor')} ({known})" if known else str(machine.get("processor"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # cnnlab itself, run from its source
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_revision() -> dict[str, Any] | None:
    """Commit of the folder the command runs in, and whether files differ from it; None outside git."""
    try:
        answers = [
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": answers[0], "modified": bool(answers[1])}
