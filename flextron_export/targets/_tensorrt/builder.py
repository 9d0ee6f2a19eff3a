"""From a graph of the bundle to a serialized engine. The library, TensorRT or TensorRT-RTX, is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ...bundle.manifest import Bundle
from ...elastic.architecture import Architecture
from ...errors import MissingDependencyError, TargetError
from ...graph.contract import ROUTED, cache_names
from ...progress import Track, silent
from .flavour import Flavour
from .profiles import PlanSpec, Profile
from .progress import monitored
from .timing_cache import keep_timing_cache, use_timing_cache
from .versions import NATIVE, PLUGIN, Lowering, prepare


def compile_plan(
    flavour: Flavour,
    bundle: Bundle,
    spec: PlanSpec,
    out: Path,
    *,
    layout: str,
    dtype: str,
    sm: tuple[int, ...] = (),
    timings: Path | None = None,
    track: Track = silent,
) -> tuple[int, ...]:
    """Compile one engine.

    Args:
        out: file to write the serialized engine to; piece by piece where the library can.
        timings: the timing cache to use and to add to.

    Returns:
        The compute capabilities it is for; () stands for the GPU at hand.

    Raises:
        TargetError: the library refuses the graph; the message ends with its own words.
        MissingDependencyError: the library, or `onnx`, is not installed.
    """
    library = flavour.load()
    lowering = flavour.lowering(library)
    log = _logger(library)
    builder = library.Builder(log)
    graph = bundle.graph(layout, dtype, spec.budget)
    network, parser = _parse(flavour, library, log, builder, bundle, graph, spec.capacity, lowering)
    if lowering == NATIVE and attention_may_decompose(bundle, layout):
        _allow_decomposition(library, network)
    config = builder.create_builder_config()
    prepare(library, config, lowering)
    if timings is not None:
        use_timing_cache(config, timings)
    devices = flavour.set_devices(library, config, sm)
    _add_profiles(flavour, builder, config, spec.profiles, log)
    with out.open("wb") as file:
        done = monitored(
            library,
            config,
            track,
            f"compiling {spec.file}",
            lambda: _serialize(library, builder, network, config, file),
        )
    del parser  # held until here: the network refers to weights that the parser keeps
    if not done:
        raise _refused(flavour, library, graph, log.errors)
    if timings is not None:
        keep_timing_cache(config, timings)
    return devices


def _serialize(library: Any, builder: Any, network: Any, config: Any, file: BinaryIO) -> bool:
    """Build the engine into a file; False if the library refuses. Releases from 10.13 write as they serialize."""
    if not hasattr(library, "IStreamWriter"):
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            file.write(plan)
        return plan is not None
    failed: list[OSError] = []

    class Writer(library.IStreamWriter):
        def __init__(self) -> None:
            library.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:  # an exception must not pass through the library
                failed.append(error)
                return 0

    done = builder.build_serialized_network_to_stream(network, config, Writer())
    if failed:
        raise failed[0]
    return bool(done)


def attention_may_decompose(bundle: Bundle, layout: str) -> bool:
    """Whether attention may fall back to primitive operators, slower, where the library has no fused kernel.

    Found by compiling with TensorRT-RTX 1.7.1: fused kernels exist for head sizes 16 to 256 in steps of 8; and with
    conditionals in the graph (`panels`, `routed`) it stops finding them in models of about 7 layers and more.
    """
    size = bundle.architecture.head_dim
    return layout in ("panels", ROUTED) or not (16 <= size <= 256 and size % 8 == 0)


def static_graph(graph: Path, architecture: Architecture, capacity: int, lowering: Lowering = NATIVE) -> bytes:
    """The graph with its symbolic cache capacity replaced by a number, which TensorRT's KV-cache update demands.

    Weights stay outside, as byte ranges of the weights file.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx is not installed.", fix="pip install 'flextron-export[export]'") from error
    model = onnx.load(str(graph), load_external_data=False)
    if lowering == PLUGIN:
        from ...graph.plugin_lowering import lower_to_plugins

        model = lower_to_plugins(model, architecture)
    caches = cache_names(architecture)
    names = {*caches, *(f"{name}.out" for name in caches)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in names:
            value.type.tensor_type.shape.dim[2].dim_value = capacity
    return bytes(model.SerializeToString())


def _parse(
    flavour: Flavour,
    library: Any,
    log: Any,
    builder: Any,
    bundle: Bundle,
    graph: Path,
    capacity: int,
    lowering: Lowering,
) -> tuple[Any, Any]:
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    model = static_graph(graph, bundle.architecture, capacity, lowering)
    # The parser looks for the weights file beside the path it is given, and weights lie in the bundle's root.
    if not parser.parse(model, str(bundle.path.resolve() / graph.name)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise _refused(flavour, library, graph, errors)
    return network, parser


def _allow_decomposition(library: Any, network: Any) -> None:
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == library.LayerType.ATTENTION_INPUT:
            layer.__class__ = library.IAttentionInputLayer  # get_layer returns the base class
            layer.attention.decomposable = True


def _add_profiles(flavour: Flavour, builder: Any, config: Any, chosen: Sequence[Profile], log: Any) -> None:
    for profile in chosen:
        made = builder.create_optimization_profile()
        for name, shapes in profile.shapes.items():
            made.set_shape(name, *shapes)
        if config.add_optimization_profile(made) < 0:
            raise TargetError(
                f"{flavour.title} refuses the shapes of budget {profile.budget}, {profile.phase}: {_last(log.errors)}"
            )


def _logger(library: Any) -> Any:
    class Log(library.ILogger):
        """Keeps errors for our own message instead of printing them."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _refused(flavour: Flavour, library: Any, graph: Path, errors: Sequence[str]) -> TargetError:
    return TargetError(
        f"{flavour.title} {library.__version__} cannot compile {graph.name}: {_last(errors)}",
        cause="this release does not support a shape or operator of the graph",
        fix=f"try layout shared, another release of {flavour.title}, or --target onnxruntime-cpu",
    )


def _last(errors: Sequence[str]) -> str:
    # Builds on a machine without a GPU also log that there is none, which is no news.
    lines = [line.strip() for text in errors for line in text.splitlines() if "catchCudaError" not in line]
    return lines[-1] if lines else "no reason was given"
