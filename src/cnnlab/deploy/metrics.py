"""Counts of a server in the text format that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """Requests by path and status, their times, and the sizes of batches. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, list[int]] = {}  # per path: requests in each bucket, the last one without a bound
        self._seconds: Counter[str] = Counter()
        self._batches = self._images = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[path, status] += 1
            buckets = self._times.setdefault(path, [0] * (len(BOUNDS) + 1))
            buckets[sum(seconds > bound for bound in BOUNDS)] += 1
            self._seconds[path] += seconds  # type: ignore[assignment]

    def batch(self, size: int) -> None:
        with self._lock:
            self._batches += 1
            self._images += size

    def text(self, waiting: int) -> str:
        """Args:
        waiting: images in the queue now.
        """
        with self._lock:
            lines = ["# HELP cnnlab_requests_total Answers sent.", "# TYPE cnnlab_requests_total counter"]
            for (path, status), count in sorted(self._requests.items()):
                lines.append(f'cnnlab_requests_total{{path="{path}",status="{status}"}} {count}')
            lines += ["# HELP cnnlab_request_seconds Time to the answer.", "# TYPE cnnlab_request_seconds histogram"]
            for path, buckets in sorted(self._times.items()):
                total = 0
                for bound, count in zip((*BOUNDS, "+Inf"), buckets, strict=True):
                    total += count
                    lines.append(f'cnnlab_request_seconds_bucket{{path="{path}",le="{bound}"}} {total}')
                lines.append(f'cnnlab_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
                lines.append(f'cnnlab_request_seconds_count{{path="{path}"}} {total}')
            for name, kind, meaning, value in (
                ("cnnlab_batches_total", "counter", "Batches computed.", self._batches),
                ("cnnlab_batch_pictures_total", "counter", "Images in them.", self._images),
                ("cnnlab_queue_pictures", "gauge", "Images that wait.", waiting),
            ):
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
