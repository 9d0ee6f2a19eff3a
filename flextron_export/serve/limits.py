"""Limits on what a client may send, before anything looks at it: size and speed of a body, and the key."""

from __future__ import annotations

import asyncio
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusals import Refusal
from .settings import ServeSettings


class Limits:
    """ASGI middleware: reads the whole body, at most so large and within so many seconds, then hands it on."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            self._check_key(scope["path"], headers.get(b"authorization", b""))
            body = await asyncio.wait_for(self._body(headers, receive), self.settings.body_seconds)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        except asyncio.TimeoutError:
            late = f"The body did not arrive within {self.settings.body_seconds:g} seconds."
            await Refusal(408, late, "request_timeout", {"connection": "close"}).response()(scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        await self.app(scope, again, send)

    def _check_key(self, path: str, given: bytes) -> None:
        key = self.settings.api_key
        if key is None or path == "/health":
            return
        if not secrets.compare_digest(given, f"Bearer {key}".encode()):
            raise Refusal(401, "The key is missing or wrong: send it as a bearer token.", "invalid_api_key")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        most = self.settings.body_bytes
        refusal = Refusal(
            413, f"The body is larger than the {most} bytes that are allowed.", "too_large", {"connection": "close"}
        )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > most:
            raise refusal
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise refusal
            if not message.get("more_body"):
                return b"".join(parts)
