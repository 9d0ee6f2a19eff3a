"""Numbers for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..runtime.generation import Generation

_STEPS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Counting:
    """ASGI middleware: counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Only paths that exist: anybody can ask for any number of others.
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, watched)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "flextron_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.running = Gauge("flextron_requests_running", "Requests being answered", registry=registry)
        self.waiting = Gauge("flextron_requests_waiting", "Requests waiting for a place", registry=registry)
        self.prompt_tokens = Counter("flextron_prompt_tokens", "Tokens of prompts", registry=registry)
        self.cached_tokens = Counter(
            "flextron_prompt_tokens_cached",
            "Tokens of prompts that an earlier generation had computed",
            registry=registry,
        )
        self.tokens = Counter("flextron_generated_tokens", "Tokens generated", ["budget"], registry=registry)
        self.ended = Counter(
            "flextron_generations", "Generations by how they ended", ["budget", "reason"], registry=registry
        )
        self.targets = Counter(
            "flextron_targets",
            "Generations with a latency target, by whether they met it",
            ["budget", "met"],
            registry=registry,
        )
        self.first = Histogram(
            "flextron_first_token_seconds", "To the first token", ["budget"], buckets=_STEPS, registry=registry
        )
        self.step = Histogram(
            "flextron_token_seconds", "Per further token", ["budget"], buckets=_STEPS, registry=registry
        )

    def count(self, generation: Generation[str]) -> None:
        """Add a generation that has ended."""
        timings, budget = generation.timings, generation.selection.budget.name
        self.ended.labels(budget, generation.stopped_by or "failed").inc()
        if not timings.tokens:
            return
        self.prompt_tokens.inc(timings.prompt_tokens)
        self.cached_tokens.inc(timings.reused_tokens)
        self.tokens.labels(budget).inc(timings.tokens)
        self.first.labels(budget).observe(timings.first_token_ms / 1e3)
        for milliseconds in timings.token_ms:
            self.step.labels(budget).observe(milliseconds / 1e3)
        if timings.met is not None:
            self.targets.labels(budget, "yes" if timings.met else "no").inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
