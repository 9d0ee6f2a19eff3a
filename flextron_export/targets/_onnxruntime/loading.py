"""Loading a graph of a bundle into ONNX Runtime, on one of its execution providers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle
from ...errors import TargetError
from .provider import CPU, Provider, library


def load_graph(
    bundle: Bundle,
    graph: Path | bytes,
    *,
    threads: int,
    low_memory: bool = False,
    provider: Provider = CPU,
    settings: Mapping[str, str] | None = None,
    dimensions: Mapping[str, int] | None = None,
) -> Any:
    """An `InferenceSession` for a graph of a bundle, or one made of it.

    Args:
        settings: the provider's options.
        dimensions: sizes for symbols of the graph.

    Raises:
        TargetError: ONNX Runtime refuses the graph, or the provider fell away.
    """
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Graphs lie in graphs/, the weights they refer to beside the manifest.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path.resolve()))
    if low_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for name, size in (dimensions or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    source, name = (graph, "a graph") if isinstance(graph, bytes) else (str(graph), str(graph))
    try:
        session = ort.InferenceSession(source, options, **provider.selected(options, settings or {}))
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base but Exception
        raise TargetError(
            f"ONNX Runtime {ort.__version__} refuses {name}: {error}",
            cause="the graph or the weights it refers to are damaged, or this release lacks operators",
            fix=f"flextron-export verify {bundle.path}, or install onnxruntime 1.30 or newer",
        ) from error
    if provider.name not in session.get_providers():
        # ONNX Runtime goes on with the processor where a provider's libraries cannot be loaded.
        raise TargetError(
            f"ONNX Runtime {ort.__version__} left out the {provider.title}.",
            cause="its libraries could not be loaded; ONNX Runtime's messages above name the one that is missing",
            fix=provider.install,
        )
    return session
