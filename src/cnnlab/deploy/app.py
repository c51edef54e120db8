"""The web application of a demonstration: one page and a JSON interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import resources
from typing import IO, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cnnlab import __version__
from cnnlab.deploy.batching import LARGEST, WAITING, MicroBatcher, QueueFull
from cnnlab.deploy.guard import Guard, refusal
from cnnlab.deploy.metrics import Metrics
from cnnlab.deploy.service import Service
from cnnlab.deploy.uploads import FIELD, Refused, Uploads
from cnnlab.errors import CnnlabError
from cnnlab.evaluation.samples import png

FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/pad.js": ("pad.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/engine.js": ("engine-server.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
FREE = (*FILES, "/health")  # nothing in them is the run's
DECODERS = 2  # images decoded at once, as far as memory goes (uploads.py)
SECONDS = 30.0  # until an answer is given up

LOOK_POLICY = (  # its scripts are in the page
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline';"
    " img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class Problem(BaseModel):
    """Every answer that is no result."""

    error: str


class Likely(BaseModel):
    label: str
    probability: float


class PredictResponse(BaseModel):
    """`label` is the likeliest class; `labels` are those given to the image, by a multi-label model any number."""

    label: str
    probability: float
    labels: list[str]
    top: list[Likely]
    milliseconds: float


class ExplainResponse(BaseModel):
    """`overlay` is a data URI: a transparent PNG for the part `seen` (left, top, right, bottom) of `size` pixels."""

    label: str
    target: str
    method: str
    size: list[int]
    seen: list[float]
    overlay: str
    milliseconds: float


class Thing(BaseModel):
    """`box`: left, top, right, bottom in pixels."""

    label: str
    probability: float
    box: list[float]


class LocalizeResponse(BaseModel):
    size: list[int]
    objects: list[Thing]
    milliseconds: float


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 408, 413, 422, 503)
}
IMAGE_OR_PROBLEM = PROBLEMS | {200: {"content": {"image/png": {}}}, 404: {"model": Problem}}


def create_app(
    service: Service,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    batch: int = LARGEST,
    waiting: int = WAITING,
    at_once: int = 64,
) -> FastAPI:
    """Args:
    token: that every question must bring; None asks for none.
    hosts: names the server may be called by; None for any.
    batch: images that go through the network together; 1 for each alone.
    waiting: images that may wait for the network; at_once: requests whose image is there. Beyond either, 503.
    """
    metrics, uploads = Metrics(), Uploads(at_once)
    batcher = MicroBatcher(service.probabilities, batch, waiting, metrics.batch)
    pool = ThreadPoolExecutor(DECODERS, "decode")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown(cancel_futures=True)
        batcher.close()

    app = FastAPI(
        title="cnnlab",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=lifespan,
    )

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(CnnlabError)
    async def wrong(request: Request, error: CnnlabError) -> JSONResponse:
        return refusal(Refused(422, str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refusal(Refused(422, f"{first['loc'][-1]}: {first['msg']}."))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        sentences = {404: "There is no such page.", 405: "This path needs another HTTP method."}
        return refusal(Refused(error.status_code, sentences.get(error.status_code, "The request cannot be processed.")))

    async def in_pool(work: Callable[[Image.Image], Any], file: IO[bytes]) -> Any:
        """What `work` makes of the image in a file."""

        def decode_and_work() -> Any:
            with uploads.decoded(file) as image:
                return work(image)

        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.get_running_loop().run_in_executor(pool, decode_and_work)
        except TimeoutError:
            raise Refused(503, f"The answer took longer than {SECONDS:.0f} seconds; send a smaller image.", 5) from None

    @app.post("/predict", response_model=PredictResponse, responses=PROBLEMS, openapi_extra=BODY)
    async def predict(request: Request, topk: int = Query(5, ge=1, le=1000)) -> Response:
        """The likeliest classes of an image."""
        async with uploads.received(request) as file:
            began = time.perf_counter()
            pixels = await in_pool(service.preprocess.pixels, file)
            try:
                async with asyncio.timeout(SECONDS):
                    row = await batcher.ask(pixels)
            except QueueFull:
                raise Refused(503, "The server is busy; try again in a moment.", 1) from None
            except TimeoutError:
                raise Refused(503, f"The answer took longer than {SECONDS:.0f} seconds; try again.", 5) from None
        top = service.top(row, topk)
        return JSONResponse({**top[0], "labels": service.labels(row), "top": top, "milliseconds": since(began)})

    @app.post("/explain", response_model=ExplainResponse, responses=PROBLEMS, openapi_extra=BODY)
    async def explain(request: Request, target: str | None = Query(None, max_length=200)) -> Response:
        """Where the network sees the class target, by default the one it answers."""
        async with uploads.received(request) as file:
            began = time.perf_counter()
            found = await in_pool(lambda image: service.explain(image, target), file)
        return JSONResponse(found | {"milliseconds": since(began)})

    @app.post("/localize", response_model=LocalizeResponse, responses=PROBLEMS, openapi_extra=BODY)
    async def localize(request: Request) -> Response:
        """Boxes around the objects of an image."""
        async with uploads.received(request) as file:
            began = time.perf_counter()
            found = await in_pool(service.localize, file)
        return JSONResponse(found | {"milliseconds": since(began)})

    @app.post(
        "/picture",
        response_class=Response,
        responses=PROBLEMS | {200: {"content": {"image/png": {}}}},
        openapi_extra=BODY,
    )
    async def image(request: Request) -> Response:
        """The image as an upright PNG, for a browser that does not know its format."""
        async with uploads.received(request) as file:
            return Response(await in_pool(png, file), media_type="image/png")

    @app.get("/model", responses=PROBLEMS)
    async def model() -> dict[str, Any]:
        """The card of the model: what it was trained on, how well it does, and its layers."""
        return service.card

    @app.get("/samples", responses=PROBLEMS)
    async def samples() -> list[dict[str, Any]]:
        """Images of the test split, with their true classes."""
        return [{"number": number, "label": sample.label} for number, sample in enumerate(service.samples)]

    @app.get("/samples/{number}", response_class=Response, responses=IMAGE_OR_PROBLEM)
    async def sample(number: int) -> Response:
        """One of them."""
        if not 0 <= number < len(service.samples):
            raise Refused(404, "There is no such sample.")
        return Response(service.samples[number].content, media_type="image/png")

    @app.get("/look", include_in_schema=False)
    async def look() -> Response:
        """The page in which the network computes and can be experimented with."""
        if service.look is None:
            raise Refused(404, "There is no such page.")
        page = await asyncio.to_thread(service.look.text)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": LOOK_POLICY})

    @app.get("/health")
    async def health() -> dict[str, str]:
        """That the server is alive."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> str:
        """Counts and times, for Prometheus."""
        return metrics.text(batcher.waiting)

    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _file(name, kind), include_in_schema=False)
    app.add_middleware(Guard, metrics=metrics, token=token, free=FREE, hosts=hosts)  # type: ignore[arg-type]
    return app


def since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = (resources.files("cnnlab.deploy") / "web" / name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer
