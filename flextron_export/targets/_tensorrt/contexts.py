"""Execution contexts: one for each budget and phase, so that switching budgets sets nothing anew.

They run one after another and share one buffer for activations. A decode step that comes again with the same shapes and
addresses is captured as a CUDA graph, by TensorRT-RTX itself or here, and launched from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from ...errors import TargetError
from .cuda import Cuda


class Context:
    """One execution context, at one optimisation profile.

    Args:
        execution: TensorRT's.
        capturable: whether repeated work is to be captured here.

    Attributes:
        key: what its shapes and addresses were set for, or None.
    """

    def __init__(self, execution: Any, cuda: Cuda, capturable: bool) -> None:
        self.execution = execution
        self.key: Hashable | None = None
        self._cuda, self._capturable, self._runs = cuda, capturable, 0
        self._graph: Any = None

    def renew(self, key: Hashable | None) -> None:
        """Shapes or addresses changed: what was captured no longer holds."""
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
        self.key, self._graph, self._runs = key, None, 0

    def run(self, repeats: bool) -> bool:
        """Put the work on the stream; False if TensorRT refuses.

        Args:
            repeats: the same work will probably come again.
        """
        # TensorRT finishes deferred work in the first run after a change, which must not be part of a graph.
        if self._graph is None and repeats and self._capturable and self._runs:
            self._graph = self._cuda.capture(self._enqueue)
            self._capturable = self._graph is not None
        self._runs += 1
        if self._graph is not None:
            self._cuda.launch(self._graph)
            return True
        return self._enqueue()

    def _enqueue(self) -> bool:
        return bool(self.execution.execute_async_v3(self._cuda.stream))


class Contexts:
    """The contexts of an engine folder, made when they are first used.

    Args:
        library: the TensorRT module; the runtime is made from it.
        capturable: whether engines without conditionals are being run, whose work can be captured.
        rebuild: the command for messages.
    """

    def __init__(self, library: Any, cuda: Cuda, directory: Path, capturable: bool, rebuild: Callable[[], str]) -> None:
        self._library, self._cuda, self._directory, self._rebuild = library, cuda, directory, rebuild
        self._log = library.Logger(library.Logger.ERROR)
        self._runtime = library.Runtime(self._log)
        self._capturable = capturable
        self._engines: dict[str, Any] = {}
        self._made: dict[tuple[str, int], Context] = {}
        self._address, self._size = 0, 0
        self._plan_bytes = 0

    def get(self, plan: str, profile: int) -> Context:
        """The context of a plan file at a profile; TargetError if the engine cannot be loaded."""
        if (plan, profile) not in self._made:
            engine = self._engine(plan)
            self._reserve(engine)
            execution, by_library = self._create(engine)
            execution.set_device_memory(self._address, self._size)
            if not execution.set_optimization_profile_async(profile, self._cuda.stream):
                raise TargetError(f"The engine {plan} has no profile {profile}.", fix=self._rebuild())
            self._cuda.wait()
            self._made[plan, profile] = Context(execution, self._cuda, self._capturable and not by_library)
        return self._made[plan, profile]

    def memory(self) -> int:
        """Bytes of plans and of activations on the device."""
        return self._plan_bytes + self._size

    def close(self) -> None:
        for context in self._made.values():
            context.renew(None)
        self._made.clear()
        self._engines.clear()
        if self._address:
            self._cuda.free(self._address)
        self._address, self._size = 0, 0

    def _engine(self, plan: str) -> Any:
        if plan not in self._engines:
            content = (self._directory / plan).read_bytes()
            engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise TargetError(f"The engine {plan} could not be loaded.", fix=self._rebuild())
            self._engines[plan] = engine
            self._plan_bytes += len(content)
        return self._engines[plan]

    def _create(self, engine: Any) -> tuple[Any, bool]:
        """A context whose activation memory is ours, and whether the library captures graphs for it."""
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(engine, "create_runtime_config"):
            return engine.create_execution_context(strategy), False
        # TensorRT-RTX compiles kernels while it runs, and knows when a graph must be captured again.
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if self._capturable:
            config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config), True

    def _reserve(self, engine: Any) -> None:
        """Make the shared buffer large enough for every profile of an engine."""
        sizes = map(engine.get_device_memory_size_for_profile_v2, range(engine.num_optimization_profiles))
        needed = max((*sizes, 1))
        if needed > self._size:
            self._cuda.wait()
            if self._address:
                self._cuda.free(self._address)
            self._address, self._size = self._cuda.allocate(needed), needed
            for context in self._made.values():
                context.renew(None)
                context.execution.set_device_memory(self._address, self._size)
