"""The demonstration under load: a second process with 32 clients, with micro-batches and without, in turn.

    uv run --group dev python benchmarks/serve.py [MODEL key=value ...]  default: resnet depth=20, 32 pixels

Every client sends a PNG file, waits for its answer and sends the next. Both servers run all the time; the load goes to
one after the other, so the machine is as busy for each.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from PIL import Image

from cnnlab.runs.environment import describe, processor_name

CLIENTS = 32
ROUNDS = 3
SECONDS = 20.0
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


def start_server(batch: int, words: list[str]) -> tuple[subprocess.Popen[str], int]:
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(batch), *words], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def serve(batch: int, words: list[str]) -> None:
    """A model with weights as drawn: what it answers costs as much as what a trained one does."""
    import uvicorn

    from cnnlab.deploy.app import create_app
    from cnnlab.deploy.connections import Connection, Server
    from cnnlab.deploy.demo import bind
    from cnnlab.deploy.service import Service
    from cnnlab.models.arguments import model_from_words

    model, shape = model_from_words(words[0], words[1:])
    channels, height, width = shape
    layout = {"height": height, "width": width, "mode": "RGB" if channels == 3 else "L", "fit": "crop"}
    preprocess = {"layout": layout, "mean": [0.5] * channels, "std": [0.25] * channels}
    classes = [str(number) for number in range(model.num_classes)]
    card = {"model": {"name": words[0]}, "classes": classes, "preprocess": preprocess, "epoch": 0}
    listening = bind("127.0.0.1", 0)
    app = create_app(Service(model.eval(), card, None, []), batch=batch)
    config = uvicorn.Config(app, http=Connection, log_level="warning", access_log=False)
    Server(config, str(listening.getsockname()[1])).run(sockets=[listening])


def images(count: int = 64) -> list[bytes]:
    numbers, files = np.random.Generator(np.random.PCG64(0)), []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


async def client(port: int, files: list[bytes], until: float, spent: list[float], wrong: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < until:
        body = files[number % len(files)]
        number += 1
        began = time.perf_counter()
        writer.write(HEAD % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert length is not None
        content = await reader.readexactly(int(length.group(1)))
        spent.append(time.perf_counter() - began)
        if not answer.startswith(b"HTTP/1.1 200") or b'"label"' not in content:
            wrong.append(answer + content)
    writer.close()


async def load(port: int, files: list[bytes], seconds: float) -> tuple[list[float], list[bytes]]:
    spent: list[float] = []
    wrong: list[bytes] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, files[i:] + files[:i], until, spent, wrong) for i in range(CLIENTS)))
    return spent, wrong


def memory(process: int) -> float:
    """Megabytes that a process holds now."""
    with open(f"/proc/{process}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("VmRSS"))


def processor_seconds(process: int) -> float:
    """That a process has used; unlike the clock, it does not know how busy the machine is."""
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    words = sys.argv[1:] or ["resnet", "depth=20"]
    facts = describe()
    print(f"{processor_name(facts['machine'])}, {facts['machine']['cores']} cores, torch {facts['versions']['torch']}.")
    print(f"{' '.join(words)}; {CLIENTS} clients, {ROUNDS} × {SECONDS:.0f} s each, in turn.\n")
    servers = {name: start_server(batch, words) for name, batch in (("micro-batches", 64), ("one by one", 1))}
    files, measured = images(), {name: [] for name in servers}
    try:
        for _, port in servers.values():
            asyncio.run(load(port, files, 3.0))
        used = {name: -processor_seconds(server.pid) for name, (server, _) in servers.items()}
        before = {name: memory(server.pid) for name, (server, _) in servers.items()}
        for _ in range(ROUNDS):
            for name, (_, port) in servers.items():
                measured[name].append(asyncio.run(load(port, files, SECONDS)))
        used = {name: used[name] + processor_seconds(server.pid) for name, (server, _) in servers.items()}
        print("| | answers/s (range) | p50 ms | p99 ms | processor ms an answer | errors | memory, MB |")
        print("|---|---|---|---|---|---|---|")
        for name, (server, _) in servers.items():
            rates = [len(spent) / SECONDS for spent, _ in measured[name]]
            times = torch.tensor([value for spent, _ in measured[name] for value in spent]) * 1000
            errors = sum(len(wrong) for _, wrong in measured[name])
            low, high = (times.sort().values[int(q * (len(times) - 1))].item() for q in (0.5, 0.99))
            rate = f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"
            held = f"{before[name]:.0f} → {memory(server.pid):.0f}"
            each = 1000 * used[name] / len(times)
            print(f"| {name} | {rate} | {low:.1f} | {high:.1f} | {each:.2f} | {errors} of {len(times):,} | {held} |")
        pairs = zip(*([len(spent) for spent, _ in rounds] for rounds in measured.values()), strict=True)
        print(f"\nThroughput with micro-batches over one by one: {statistics.median(a / b for a, b in pairs):.2f}")
    finally:
        for server, _ in servers.values():
            server.terminate()
            server.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), sys.argv[3:])
    else:
        main()
