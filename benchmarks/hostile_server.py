"""Everything a client can do to `cnnlab demo` but ask nicely: a really running server, real sockets.

    uv run --group dev python benchmarks/hostile_server.py [COUNT]  COUNT of each cheap thing: 300

After each row the server must still answer a good question. No answer may show a path of this machine or a traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from hostile import change_bytes

TOKEN = "right-token"
HEAD, BODY, SEND = 10.0, 20.0, 20.0  # seconds that the server gives a head, a body, and the taking of an answer
LEAKS = re.compile(r"Traceback|\.py\b|/usr/|/tmp/|/home/|/root/|site-packages")
Answer = tuple[int, bytes]  # status, 0 if the connection was closed without one; the whole answer


class Server:
    """`cnnlab demo` of a run, in a process of its own."""

    def __init__(self, run: Path, *words: str) -> None:
        command = [sys.executable, "-m", "cnnlab", "demo", str(run), "--port", "0", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RuntimeError(line + (self.process.stderr.read() if self.process.stderr else ""))
        self.port = int(found.group(1))
        self.shown: list[bytes] = []

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(self, request: bytes, wait: float = 60.0) -> Answer:
        """Send bytes, read until the answer is whole or the connection is closed."""
        with self.connect() as connection:
            connection.settimeout(wait)
            with contextlib.suppress(OSError):  # it may close before it has read all; what it says is still there
                connection.sendall(request)
            return self.read(connection)

    def read(self, connection: socket.socket) -> Answer:
        content = b""
        try:
            while True:
                head, mark, body = content.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if mark and length and len(body) >= int(length.group(1)):
                    break
                piece = connection.recv(65536)
                if not piece:
                    break
                content += piece
        except TimeoutError:
            return -1, content
        except OSError:
            pass
        self.shown.append(content)
        found = re.match(rb"HTTP/1\.1 (\d+)", content)
        return int(found.group(1)) if found else 0, content

    def well(self) -> bool:
        """Whether a good question gets a good answer."""
        status, content = self.ask(request("POST", "/predict", IMAGE))
        return status == 200 and b'"label"' in content


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    named = {"Host": "127.0.0.1", "Content-Length": str(len(body)), "Connection": "close"}
    named |= {key.replace("_", "-"): value for key, value in headers.items()}
    lines = "".join(f"{key}: {value}\r\n" for key, value in named.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def image() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()


IMAGE = image()


# ---- what is tried: each gives (tried, held)


def changed_requests(server: Server, count: int) -> tuple[int, int]:
    """Requests with wrong bytes: an answer below 500, or a closed connection."""
    good = request("POST", "/predict", IMAGE, Content_Type="image/png")

    def one(number: int) -> bool:
        changed = change_bytes(good, np.random.Generator(np.random.PCG64([1, number])))
        return 0 <= server.ask(changed, wait=BODY + 10)[0] < 500

    with ThreadPoolExecutor(16) as pool:  # many wait until the server gives them up
        return count, sum(pool.map(one, range(count)))


def changed_bodies(server: Server, count: int) -> tuple[int, int]:
    """Images with wrong bytes and odd forms: 200 or a 4xx with one sentence."""
    held = 0
    for number in range(count):
        draw = np.random.Generator(np.random.PCG64([2, number]))
        path = ["/predict", "/explain", "/localize"][number % 3]
        form = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n' + IMAGE + b"\r\n--b--\r\n"
        kind, body = ("multipart/form-data; boundary=b", form) if number % 2 else ("image/png", IMAGE)
        status, content = server.ask(request("POST", path, change_bytes(body, draw), Content_Type=kind))
        answer = content.partition(b"\r\n\r\n")[2]
        held += status == 200 or (400 <= status < 500 and set(json.loads(answer)) == {"error"})
    return count, held


def lying_lengths(server: Server, count: int) -> tuple[int, int]:
    lengths = [
        "-1",
        "1e3",
        "99999999999999999999",
        "10000001",
        "0x10",
        "1, 2",
        "",
        " ",
        "1\x00",
        "+5",
        "18446744073709551616",
    ]
    answers = [server.ask(request("POST", "/predict", IMAGE, Content_Length=length)) for length in lengths if length]
    both = request("POST", "/predict", IMAGE, Transfer_Encoding="chunked")
    answers.append(server.ask(both))
    return len(answers), sum(0 <= status < 500 for status, _ in answers)


def endless_bodies(server: Server, count: int) -> tuple[int, int]:
    """Chunks without end, as fast as they are taken: 413 after ten megabytes."""
    held, tries = 0, 3
    for _ in range(tries):
        with server.connect() as connection:
            connection.sendall(request("POST", "/predict", Content_Length="", Transfer_Encoding="chunked"))
            sent = 0
            try:
                while sent < 200_000_000:
                    connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                    sent += 65536
            except OSError:
                pass
            status, _ = server.read(connection)
            held += status in (413, 0) and sent < 60_000_000
    return tries, held


def header_floods(server: Server, count: int) -> tuple[int, int]:
    floods = [
        request("GET", "/health", **{f"X_{i}": "a" * 100 for i in range(10_000)}),
        request("GET", "/health", X="a" * 5_000_000),
        b"GET /" + b"a" * 5_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET " * 1_000_000,
        b"\r\n" * 1_000_000,
    ]
    answers = [server.ask(flood, wait=HEAD + 5) for flood in floods]
    return len(answers), sum(0 <= status < 500 for status, _ in answers)


def slow_heads(server: Server, count: int) -> tuple[int, int]:
    """One byte per second, for ever: closed after ten seconds, and others are answered meanwhile."""
    connections = [server.connect() for _ in range(min(count, 200))]
    silent = [server.connect() for _ in range(min(count, 200))]
    began, line = time.monotonic(), b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 1000
    closed: set[socket.socket] = set()
    answered = True
    for second in range(int(HEAD) + 4):
        for connection in [*connections, *silent]:
            if connection in closed:
                continue
            try:
                if connection in connections:
                    connection.send(line[second : second + 1])
                connection.setblocking(False)
                if connection.recv(1) == b"":
                    closed.add(connection)
            except BlockingIOError:
                pass
            except OSError:
                closed.add(connection)
            connection.setblocking(True)
        answered = answered and server.well()
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    for connection in [*connections, *silent]:
        connection.close()
    return len(connections) + len(silent), len(closed) if answered else 0


def slow_bodies(server: Server, count: int) -> tuple[int, int]:
    """200 clients that send ten bytes of an image and then one byte per second: 408, or closed, and others are answered
    meanwhile, whatever they ask."""
    connections = [server.connect() for _ in range(200)]
    for connection in connections:
        connection.sendall(request("POST", "/predict", bytes(1000))[:-990])
    began, answered = time.monotonic(), True
    for second in range(5):
        for path in ("/predict", "/explain", "/localize", "/picture"):
            answered = answered and server.ask(request("POST", path, IMAGE))[0] == 200
        answered = answered and server.ask(request("GET", "/model"))[0] == 200
        for connection in connections:
            connection.sendall(b"a")
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    held = 0
    for connection in connections:
        connection.settimeout(BODY + 10)
        held += server.read(connection)[0] in (408, 0)
        connection.close()
    return len(connections), held if answered else 0


def large_slow_bodies(server: Server, count: int) -> tuple[int, int]:
    """Nearly ten megabytes, then nothing: more of them than the server holds, and others are answered meanwhile."""
    connections = [server.connect() for _ in range(30)]
    for connection in connections:
        connection.settimeout(10)
        with contextlib.suppress(OSError):
            connection.sendall(request("POST", "/predict", bytes(9_900_000))[:-1000])
    large = IMAGE + bytes(3_000_000)  # what follows the image is not looked at
    held = [server.ask(request("POST", "/predict", large))[0] == 200 for _ in range(10)]
    for connection in connections:
        connection.close()
    return len(held), sum(held)


def large_images(server: Server, count: int) -> tuple[int, int]:
    """Small files of 49 million pixels in every mode, three at once: an answer, 413 for what takes too much memory, or
    503 where it takes too long. The row of the memory says the rest."""
    side = (7000, 7000)
    grey, rgb = Image.new("L", side, 7), Image.new("RGB", side, (9, 99, 30))
    turned = Image.Exif()
    turned[0x0112] = 6
    files: list[tuple[Image.Image, str, dict[str, object]]] = [
        (Image.new("I;16", side, 700), "PNG", {}),
        (Image.new("F", side, 0.3), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (Image.new("I", side, 700), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (Image.new("RGBA", side, (9, 99, 30, 77)), "PNG", {}),
        (Image.new("LA", side, (9, 77)), "PNG", {}),
        (grey.convert("P"), "PNG", {"transparency": 7}),
        (rgb, "PNG", {"exif": turned}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
        (grey, "GIF", {"save_all": True, "append_images": [Image.new("L", side, 9)]}),
        (rgb, "WEBP", {}),
        (Image.new("RGBA", (4000, 4000), (9, 99, 30, 77)), "WEBP", {"lossless": True}),
    ]
    held = 0
    paths = ("/predict", "/explain", "/picture")
    with ThreadPoolExecutor(len(paths)) as pool:
        tried = files[: max(2, count // 20)]
        for shown, kind, more in tried:
            stream = io.BytesIO()
            shown.save(stream, kind, **more)
            asked = [request("POST", path, stream.getvalue()) for path in paths]
            statuses = [status for status, _ in pool.map(server.ask, asked)]
            held += all(status in (200, 413, 503) for status in statuses) and statuses != [503] * 3
    return len(tried), held


def maps_meanwhile(server: Server, count: int) -> tuple[int, int]:
    """Two clients ask for predictions while one asks for maps: all are answered."""

    def one(number: int) -> bool:
        path = "/predict" if number % 3 else "/explain"
        return server.ask(request("POST", path, IMAGE))[0] == 200

    with ThreadPoolExecutor(3) as pool:
        return 10 * count, sum(pool.map(one, range(10 * count)))


def answers_not_taken(server: Server, count: int) -> tuple[int, int]:
    """Thousands of questions at once, and no answer read: closed in the end, and others are answered meanwhile."""
    connections = []
    for _ in range(10):
        connection = server.connect()
        connection.settimeout(1.0)
        try:
            for _ in range(200):
                connection.sendall(request("GET", "/openapi.json", Connection="keep-alive") * 20)
        except OSError:
            pass  # it reads no more before its answers are taken
        connections.append(connection)
    answered = server.well()
    time.sleep(SEND + 4)
    held = 0
    for connection in connections:
        connection.settimeout(20)
        try:
            while connection.recv(1 << 20):
                pass
            held += 1
        except ConnectionError:
            held += 1
        except TimeoutError:
            pass
        connection.close()
    return len(connections), held if answered else 0


def wrong_hosts(server: Server, count: int) -> tuple[int, int]:
    """A page elsewhere whose name is made to point here."""
    wrong = [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "0.0.0.0",
        "[::2]",
        "@127.0.0.1",
    ]
    wrong += [
        "127.0.0.1@evil.example",
        "localhost:80@evil",
        "evil.example#127.0.0.1",
        "127.0.0.2",
        " ",
        "LOCALHOST.",
        "::1:80:x",
    ]
    right = [
        "127.0.0.1",
        f"127.0.0.1:{server.port}",
        "localhost",
        f"localhost:{server.port}",
        "[::1]",
        f"[::1]:{server.port}",
    ]
    held = sum(server.ask(request("GET", "/model", Host=host))[0] in (400, 403) for host in wrong)
    held += sum(server.ask(request("GET", "/model", Host=host))[0] == 200 for host in right)
    held += server.ask(b"GET /model HTTP/1.1\r\n\r\n")[0] in (400, 403)
    twice = b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    held += server.ask(twice)[0] in (400, 403)
    return len(wrong) + len(right) + 2, held


def other_origins(server: Server, count: int) -> tuple[int, int]:
    """No answer lets a page elsewhere read it; one that asks for work is refused."""
    held, tries = 0, 0
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        for method, path in (("GET", "/model"), ("OPTIONS", "/predict"), ("POST", "/predict"), ("GET", "/metrics")):
            more = {"Sec_Fetch_Site": "cross-site"} if method == "POST" else {}
            body = IMAGE if method == "POST" else b""
            status, content = server.ask(
                request(method, path, body, Origin=origin, Access_Control_Request_Method="POST", **more)
            )
            head = content.partition(b"\r\n\r\n")[0].lower()
            safe = b"access-control-" not in head and b"nosniff" in head and b"frame-ancestors 'none'" in head
            held += safe and (status == 403 if method == "POST" else status < 500)
            tries += 1
    return tries, held


def wrong_tokens(server: Server, count: int) -> tuple[int, int]:
    """Asked of a server with a token; the right one is taken, too."""
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xe9\xff",
    ]
    wrong += [f"Bearer {TOKEN.upper()}", "Bearer " + "a" * 10_000, f"Bearer {TOKEN}, Bearer x", "Bearer \x80" + TOKEN]
    paths = ("/model", "/samples", "/metrics", "/openapi.json", "/samples/0")
    held = 0
    for path in paths:
        for value in wrong:
            held += server.ask(request("GET", path, Authorization=value))[0] in (401, 400)
    held += server.ask(request("GET", "/model", Authorization=f"Bearer {TOKEN}"))[0] == 200
    return len(wrong) * len(paths) + 1, held


def described(server: Server, count: int) -> tuple[int, int]:
    """Schemathesis: what the description allows and what it forbids, answered as the description says."""
    words = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    words += ["--max-examples", str(max(10, count // 6)), "--seed", "1", "--no-color", "--exclude-path", "/metrics"]
    # The description cannot say which bytes are an image; nor does a page need the Allow header.
    words += ["--exclude-checks", "positive_data_acceptance,unsupported_method"]
    with tempfile.TemporaryDirectory() as place:  # it keeps what it made in the working directory
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    found = re.search(r"([\d,]+) generated", done.stdout)
    if found is None:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-1000:])
    tried = int(found.group(1).replace(",", ""))
    failures = re.search(r"([\d,]+) found", done.stdout)
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
    return tried, tried - (int(failures.group(1).replace(",", "")) if failures else int(done.returncode != 0))


def stopped_in_between(run: Path, count: int) -> tuple[int, int]:
    """SIGTERM and SIGINT while images are sent and answers awaited: it ends within eight seconds."""
    held, tried = 0, 2 if count < 100 else 4
    for number in range(tried):
        server = Server(run)
        connections = [server.connect() for _ in range(20)]
        for i, connection in enumerate(connections):
            whole = request("POST", "/predict", IMAGE)
            connection.sendall(whole[: -20 if i % 2 else None])
        server.process.send_signal(signal.SIGTERM if number % 2 else signal.SIGINT)
        began = time.monotonic()
        try:
            _, said = server.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            _, said = server.process.communicate()
        held += time.monotonic() - began < 8 and "Traceback" not in said
        for connection in connections:
            connection.close()
    return tried, held


ROWS: dict[str, tuple[str, Callable[[Server, int], tuple[int, int]]]] = {
    "requests with changed bytes": ("below 500, or closed", changed_requests),
    "images and forms with changed bytes": ("200, or 4xx with one sentence", changed_bodies),
    "lengths that lie": ("below 500, or closed", lying_lengths),
    "bodies without end": ("413 or closed within 60 MB", endless_bodies),
    "floods of headers": ("below 500, or closed", header_floods),
    "heads that come slowly or not at all": (f"closed after {HEAD:.0f} s; others answered", slow_heads),
    "bodies that stop coming": (f"408 or closed after {BODY:.0f} s; others answered", slow_bodies),
    "bodies of 10 MB that stop coming": ("others answered", large_slow_bodies),
    "images of 49 million pixels, every mode": ("200, 413 or 503", large_images),
    "predictions while maps are made": ("200", maps_meanwhile),
    "answers that are not taken": (f"closed after {SEND:.0f} s; others answered", answers_not_taken),
    "Host headers": ("own names alone", wrong_hosts),
    "other origins": ("no CORS; work refused; headers there", other_origins),
    "what the description says, and against it (schemathesis)": ("as described; no 5xx", described),
}


def memory(process: int) -> float:
    """Most megabytes that a process has held."""
    with open(f"/proc/{process}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("VmHWM"))


@contextmanager
def serving(run: Path, *words: str) -> Iterator[Server]:
    server = Server(run, *words)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    failed = False
    print("| what a client does | trials | expected | passed | seconds |\n|---|---|---|---|---|", flush=True)

    def row(name: str, promise: str, tried: int, held: int, began: float) -> None:
        nonlocal failed
        failed = failed or held != tried
        print(f"| {name} | {tried} | {promise} | {held} | {time.monotonic() - began:.0f} |", flush=True)

    with tempfile.TemporaryDirectory(prefix="cnnlab-server-") as folder:
        run = Path(folder) / "run"
        words = [
            "train",
            "data=digits",
            "data.limit=200",
            "model=resnet",
            "model.depth=8",
            "model.width=4",
            "trainer.epochs=1",
            f"run.dir={run}",
        ]
        subprocess.run([sys.executable, "-m", "cnnlab", *words], check=True, capture_output=True)
        with serving(run) as server:
            before = memory(server.process.pid)
            for name, (promise, attack) in ROWS.items():
                began = time.monotonic()
                tried, held = attack(server, count)
                row(name, promise, tried, held if server.well() else 0, began)
            shown = sum(LEAKS.search(content.decode(errors="replace")) is None for content in server.shown)
            row("all these answers", "no path, no traceback", len(server.shown), shown, time.monotonic())
            grown = memory(server.process.pid) - before
            row(f"the most memory, +{grown:.0f} MB", "below 400 MB", 1, int(grown < 400), time.monotonic())
        began = time.monotonic()
        with serving(run, "--token", TOKEN) as server:
            row("tokens", "the right one alone", *wrong_tokens(server, count), began)
        began = time.monotonic()
        row("stopped while images come in", "ends within 8 s", *stopped_in_between(run, count), began)
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    sys.exit(main())
