"""The page of `cnnlab look` for a server that goes on answering: it is made in a process of its own.

torch.export replaces methods of `nn.Module` while it traces, and for all threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from cnnlab.errors import ModelError


class LookPage:
    """The page of a run folder, made when it is first asked for."""

    def __init__(self, run: Path, trust_code: bool) -> None:
        self.run, self.trust_code = run, trust_code
        self._lock = threading.Lock()
        self._text: str | None = None

    def text(self) -> str:
        """Raises ModelError where `cnnlab look` refuses the run."""
        with self._lock:
            if self._text is None:
                self._text = self._make()
        return self._text

    def _make(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "look.html"
            words = ["look", str(self.run), "--out", str(file), *(["--trust-code"] if self.trust_code else [])]
            done = subprocess.run([sys.executable, "-m", "cnnlab", *words], capture_output=True, text=True)
            if done.returncode:
                raise ModelError(f"this network has no such page: {done.stderr.strip().splitlines()[-1]}")
            return file.read_text(encoding="utf-8")
