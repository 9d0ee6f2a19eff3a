"""The routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..errors import FlextronError
from ..runtime.runner import Runner
from .answers import DONE, Writer, event
from .engine import Engine, Job
from .limits import Limits
from .metrics import Counting, Metrics
from .prepare import Prepared, models, prepare
from .refusals import Refusal, refusal_of
from .schema import ChatRequest, CompletionRequest, Request, known
from .settings import ServeSettings

R = TypeVar("R", bound=Request)

log = logging.getLogger(__name__)


def make_app(runner: Runner, settings: ServeSettings) -> FastAPI:
    """The application over a runner, which its end closes."""
    settings.validate()
    metrics, started = Metrics(), int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = Engine(settings, metrics)
        yield
        app.state.engine.cancel()
        await asyncio.to_thread(app.state.engine.wait)
        runner.close()

    app = FastAPI(title="flextron-export", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Limits, settings=settings)
    app.add_middleware(Counting, metrics=metrics)

    @app.exception_handler(Refusal)
    async def refuse(_request: HttpRequest, refusal: Refusal) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(FlextronError)
    async def fail(_request: HttpRequest, error: FlextronError) -> JSONResponse:
        refusal = refusal_of(error)
        if refusal.status >= 500:
            log.error("A request failed: %s", error)
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def other(_request: HttpRequest, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return Refusal(error.status_code, f"{error.detail}.", code, dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unexpected(_request: HttpRequest, _error: Exception) -> JSONResponse:
        return Refusal(500, "The server failed; its log says why.", "internal_error").response()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def about(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "flextron-export"}

    @app.get("/v1/models")
    async def model_list() -> dict[str, Any]:
        return {"object": "list", "data": [about(name) for name in models(runner, settings)]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in models(runner, settings):
            raise Refusal(404, f"There is no model {name!r}.", "model_not_found")
        return about(name)

    @app.post("/v1/completions")
    async def completions(request: HttpRequest) -> Response:
        return await answer(request, CompletionRequest)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: HttpRequest) -> Response:
        return await answer(request, ChatRequest)

    async def answer(http: HttpRequest, kind: type[Request]) -> Response:
        request = await read(http, kind)
        engine: Engine = app.state.engine
        await engine.enter(http.is_disconnected)
        try:
            prepared = await asyncio.to_thread(prepare, runner, settings, request)
            job = Job(prepared.generations, metrics)
            engine.start(job)
        except BaseException:
            engine.leave()
            raise
        return await respond(http, request, prepared, job)

    async def respond(http: HttpRequest, request: Request, prepared: Prepared, job: Job) -> Response:
        chat = isinstance(request, ChatRequest)
        tokenizer = runner.tokenizer if prepared.logprobs else None
        writer = Writer(chat, request.model, tokenizer, prepared.selection)
        headers = {"x-flextron-budget": prepared.selection.budget.name}
        if not request.stream:
            pieces = [piece async for piece in job.pieces(http.is_disconnected)]
            return JSONResponse(writer.whole(pieces, prepared.generations), headers=headers)

        async def events() -> AsyncIterator[str]:
            try:
                async for piece in job.pieces(http.is_disconnected):
                    yield writer.chunk(piece, prepared.generations[piece.index])
            except Refusal as refusal:
                yield event(refusal.json())
                return
            if request.stream_options is not None and request.stream_options.include_usage:
                yield writer.usage_chunk(prepared.generations)
            yield DONE

        headers["cache-control"] = "no-cache"
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    return app


async def read(http: HttpRequest, kind: type[R]) -> R:
    """The request in the body; Refusal names everything that is wrong with it."""
    try:
        body = json.loads(await http.body())
        if not isinstance(body, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is no JSON: {error}.", "invalid_json") from None
    try:
        return kind.model_validate(known(body))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:8])
        raise Refusal(400, f"The request cannot be used: {found}.", "invalid_request") from None
