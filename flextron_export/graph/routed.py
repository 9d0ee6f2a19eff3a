"""Layout `routed`: the panels of a layer run as a dynamic router chooses, token by token (docs/routers.md).

Every token's choice is computed in the graph, from the latency target of its sequence and the normed hidden state that
the part reads. A panel runs if any token of the call wants it, and gives nothing to the tokens that do not. Keys and
values are computed and cached for all groups, and attention runs for all heads: only the query heads, the output
projection and the FFN follow the choices.
"""

from __future__ import annotations

import onnx_ir as ir

from ..elastic.architecture import Architecture
from ..elastic.router import FILE, SLOPE, RouterRecord
from ..elastic.safetensors import SafetensorsFile
from ..elastic.widths import Candidates
from .builder import INT64, GraphBuilder
from .contract import TARGET_INPUT, choice_name
from .layouts import FlatPanels, Panels, Values, WeightsFile
from .matrices import Matrices


class RoutedPanels(Panels):
    """`Panels` whose choices come from a router's networks instead of inputs; its weights are ranges of its own file.

    Args:
        router: what the router chooses among; its file lies beside the weights file.
    """

    def __init__(
        self,
        g: GraphBuilder,
        architecture: Architecture,
        candidates: Candidates,
        weights: WeightsFile,
        matrices: Matrices,
        router: RouterRecord,
    ) -> None:
        self.record, self.networks = router, SafetensorsFile(weights.file.path.with_name(FILE))
        super().__init__(g, architecture, candidates, weights, matrices)

    def prepare(self) -> None:
        g, targets = self.g, len(self.record.targets)
        code = g.input(TARGET_INPUT, ("B", targets), ir.DataType.FLOAT)
        ids = next(v for v in g.inputs if v.name == "ids")
        every_token = g.at_top("Concat", g.op("Shape", ids), g.constant([targets]), axis=0)
        of_tokens = g.op("Expand", g.op("Unsqueeze", code, g.constant([1])), every_token)  # [B, S, targets]
        self.code = g.op("Reshape", of_tokens, g.constant([-1, targets]))
        first = g.op("Slice", self.code, g.constant([0]), g.constant([1]), g.constant([1]))
        full = g.op("Cast", g.op("GreaterOrEqual", first, g.constant(1, "float32")), to=INT64)
        # Target 1 is the full model: no token may choose less than the last candidate.
        self.least = {
            kind: g.op("Mul", full, g.constant(len(getattr(self.candidates, kind)) - 1))
            for kind in ("groups", "neurons")
        }
        self.choice: dict[str, ir.Value] = {}
        self.widest: dict[str, ir.Value] = {}

    def choose(self, i: int, part: str, kind: str, x: ir.Value) -> None:
        """Every token's choice in a part of layer i, int64 [T, 1], and the widest of them, from x [T, hidden]."""
        g = self.g

        def weight(name: str) -> ir.Value:
            name = f"layers.{i}.{part}.{name}"
            return g.external(f"router.{name}", self.networks.path, self.networks.tensors[name])

        # Routers compute in float32 whatever the precision of the model: their choices are discrete.
        x = x if g.float == ir.DataType.FLOAT else g.op("Cast", x, to=ir.DataType.FLOAT)
        hidden = g.op("Gemm", self.code, weight("target"), transB=1)
        hidden = g.op("Gemm", x, weight("input"), hidden, transB=1)
        logits = g.op("Gemm", g.op("LeakyRelu", hidden, alpha=SLOPE), weight("output"), transB=1)
        # Of equal logits the first counts, which is ArgMax's default.
        self.choice[kind] = g.op("Max", g.op("ArgMax", logits, axis=-1), self.least[kind])
        self.choice[kind].name = choice_name(i, part)
        self.widest[kind] = g.op("ReduceMax", self.choice[kind], keepdims=0)

    def wanted(self, kind: str, i: int, b: int) -> ir.Value:
        return self.g.op("GreaterOrEqual", self.widest[kind], self.g.constant(b))

    def masked(self, kind: str, b: int, x: ir.Value) -> ir.Value:
        if b == 0:
            return x
        wants = self.g.op("GreaterOrEqual", self.choice[kind], self.g.constant(b))
        return self.g.op("Mul", x, self.g.op("Cast", wants, to=self.g.float))

    def query_key_value(self, i: int, x: ir.Value) -> Values:
        self.choose(i, "attention", "groups", x)
        # Attention has all heads, so that keys and values need no cutting; what nobody wants is zero.
        (q,) = self.projected(i, "q", x)
        return q, self.linear(i, "k", x), self.linear(i, "v", x)

    def ffn(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        self.choose(i, "ffn", "neurons", x)
        return super().ffn(i, x, residual)


class FlatRoutedPanels(FlatPanels, RoutedPanels):
    """`routed` as TensorRT takes it."""
