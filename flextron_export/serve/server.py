"""A server process: listens, and ends gracefully on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import InputError, MissingDependencyError
from ..runtime.runner import Runner
from .settings import ServeSettings

_LAST_SECONDS = 5
"""For answers that were ended to reach their clients."""


def serve(
    runner: Runner, settings: ServeSettings, host: str, port: int, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until the process is told to stop; running answers may finish, then the runner is closed.

    Args:
        runner: what generates.
        settings: limits.
        host, port: where to listen; port 0 for any free one.
        ready: gets the address as soon as clients can connect.

    Raises:
        InputError: a setting cannot be used, or the port is taken.
        MissingDependencyError: the extra `serve` is not installed.
    """
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise MissingDependencyError(
            f"The server needs {error.name}.", fix="pip install 'flextron-export[serve]'"
        ) from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # As the base class does it, but a process that has ended in good order does not then kill itself.
            kept = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in kept.items():
                    signal.signal(number, handler)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Answers that are not complete by then end with an error that says so, rather than without a word.
            asyncio.get_running_loop().call_later(settings.grace_seconds, app.state.engine.cancel)
            await super().shutdown(sockets)

    app = make_app(runner, settings)
    listener = _listen(host, port)
    with listener:
        config = uvicorn.Config(
            app,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=math.ceil(settings.grace_seconds) + _LAST_SECONDS,
            limit_concurrency=settings.connections,
            h11_max_incomplete_event_size=64 * 1024,
            server_header=False,
        )
        address, number = listener.getsockname()[:2]
        ready(f"http://[{address}]:{number}" if ":" in address else f"http://{address}:{number}")
        Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{host}:{port} cannot be listened on: {error}.", fix="choose another --host or --port"
        ) from None
