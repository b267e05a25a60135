"""The HTTP application: routes, life cycle, middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from jslm.errors import JslmError
from jslm.serve.call import call_of
from jslm.serve.chat_completions import chat_completions
from jslm.serve.completions import completions
from jslm.serve.engine import Engine
from jslm.serve.errors import ApiError
from jslm.serve.gate import REQUEST_ID_HEADER, Gate
from jslm.serve.http import IGNORED_HEADER
from jslm.serve.keyring import Keyring
from jslm.serve.keys import single_key
from jslm.serve.limits import Limits
from jslm.serve.metrics import CONTENT_TYPE, Metrics
from jslm.serve.models import ServedModel
from jslm.serve.openapi import openapi_document, openapi_page
from jslm.serve.request_log import RequestLog
from jslm.serve.rewrite import rewrite
from jslm.serve.run_card import run_card
from jslm.serve.service import Service

_STATIC = Path(__file__).parent / "static"
_PROTECTED = ("/v1", "/metrics")
# Headers that a page of another origin may read.
_EXPOSED = [
    IGNORED_HEADER,
    REQUEST_ID_HEADER,
    "Retry-After",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
]


def create_app(
    models: Mapping[str, ServedModel],
    limits: Limits,
    *,
    token: str | None = None,
    keys: Keyring | None = None,
    log: RequestLog | None = None,
    cors_origins: Sequence[str] = (),
    hosts: Collection[str] = (),
) -> Starlette:
    """The application over loaded models; its engine starts and stops with it (ASGI's lifespan).

    `keys`: of which callers of /v1 and /metrics must send one; or `token`, the only one. `log`: hears of each request.
    `cors_origins`: web pages elsewhere that may call.
    `hosts`: what a request may call this server by in its Host header; empty: anything.
    """
    loop: list[asyncio.AbstractEventLoop] = []

    def post(call: Callable[[], None]) -> None:
        loop[0].call_soon_threadsafe(call)

    engine = Engine({name: served.model for name, served in models.items()}, limits, post=post)
    if keys is None and token is not None:
        keys = Keyring([single_key(token)])
    service = Service(models, engine, Metrics(engine), limits, keys=keys, log=log)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loop.append(asyncio.get_running_loop())
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
    )
    routes = _routes()
    paths = [route.path for route in routes]
    gate = Middleware(Gate, service=service, hosts=hosts, protected=_PROTECTED, paths=paths)
    app = Starlette(
        routes=routes,
        middleware=[*([cors] if cors_origins else []), gate],
        exception_handlers={HTTPException: _http_error, Exception: _crash},
        lifespan=lifespan,
    )
    app.state.service = service
    # Those that the log has named.
    app.state.ignored_fields = set[str]()
    app.state.protected = keys is not None
    return app


def _routes() -> list[Route | Mount]:
    routes: list[Route | Mount] = [
        Route("/v1/models", _list_models),
        Route("/v1/models/{model:path}", _show_model),
        Route("/v1/runs/{model:path}", _show_run),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/rewrite", rewrite, methods=["POST"]),
        *(Route(path, _health) for path in ("/healthz", "/health")),
        *(Route(path, _ready) for path in ("/readyz", "/ready")),
        Route("/metrics", _metrics),
        Route("/openapi.json", _openapi),
        Route("/docs", _docs),
    ]
    if (_STATIC / "index.html").is_file():
        routes += [Route("/", _page), Mount("/static", StaticFiles(directory=_STATIC))]
    return routes


async def _list_models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse(
        {"object": "list", "data": [_describe(served) for served in service.visible(call_of(request.scope))]}
    )


async def _show_model(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse(_describe(service.model(call_of(request.scope), request.path_params["model"])))


async def _show_run(request: Request) -> Response:
    served = request.app.state.service.model(call_of(request.scope), request.path_params["model"])
    if served.path is None:
        raise ApiError(404, f"{served.name} was made in memory: there is no run to show", code="no_run")
    try:
        return JSONResponse(await asyncio.to_thread(run_card, served.path))
    except JslmError as error:
        raise ApiError(404, f"the run of {served.name} cannot be read now: {error}", code="no_run") from None


def _describe(served: ServedModel) -> dict[str, object]:
    sample = served.model.config.sample
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "jslm",
        "context_length": served.context,
        "max_tokens": served.new_limit,
        "vocab_size": served.model.config.model.vocab_size,
        "chat": served.chat is not None,
        "rewrites": served.rewrites,
        "conditions": served.conditions,
        "defaults": sample.model_dump(exclude={"every", "prompts"}),
    }


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    engine = request.app.state.service.engine
    if engine.ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": engine.status, "reason": engine.reason}, 503, {"Retry-After": "1"})


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE)


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi_document(protected=request.app.state.protected))


async def _docs(request: Request) -> Response:
    return HTMLResponse(openapi_page(openapi_document(protected=request.app.state.protected)))


async def _page(request: Request) -> Response:
    return FileResponse(_STATIC / "index.html")


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    known = {404: f"no such path: {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    message = known.get(error.status_code, error.detail)
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def _crash(request: Request, error: Exception) -> Response:
    """A fault of the server: its own log says more than the client is told."""
    return ApiError(500, "the server has failed at this request; its log says how").response()
