"""The operators of domain `flextron` as ONNX local functions of standard operators, for runtimes without our kernels.

A node has exactly the inputs that its attributes say (no empty names), so each combination is a function of its own,
told apart by its `overload`. The functions mask what is not active: right everywhere, but no faster for fewer rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from ..contract import OPSET

DOMAIN = "flextron"
VERSION = 1


def node(
    function: onnx.FunctionProto, inputs: Iterable[str], outputs: Iterable[str], **attributes: object
) -> onnx.NodeProto:
    """A node that calls a function of this module. `attributes` add to those that chose the function."""
    chosen = {a.name: onnx.helper.get_attribute_value(a) for a in function.attribute_proto}
    return onnx.helper.make_node(
        function.name,
        list(inputs),
        list(outputs),
        domain=DOMAIN,
        overload=function.overload,
        **{**chosen, **attributes},
    )


def elastic_linear(
    elastic: str = "outputs", *, bits: int = 0, bias: bool = False, addend: bool = False
) -> onnx.FunctionProto:
    """See `plugins/elastic_linear/README.md`; inputs in the order of its TensorRT plugin, as far as asked for."""
    names = ["input", "weight", "active_rows"]
    names += ["scales"] * (bits != 0) + ["bias"] * bias + ["addend"] * addend
    weight, body = _weights(["weight"], ["scales"], bits, "weight" if elastic == "inputs" else "")
    body += _mask(weight[0])
    if elastic == "outputs":
        body += f"""
            transposed = Transpose<perm = [1, 0]>({weight[0]})
            product = MatMul(input, transposed)
            {_add("sum", "product", "bias", bias)}
            output = Where(mask, sum, zero)"""
    else:
        body += f"""
            seen = Where(mask, input, zero)
            product = MatMul(seen, {weight[0]})
            {_add("output", "product", "addend", addend)}"""
    attributes = f'elastic: string = "{elastic}", {_presence(bits, bias, addend)}'
    return _function("ElasticLinear", _variant(elastic, bits, bias, addend), attributes, names, ["output"], body)


def elastic_feed_forward(
    activation: str = "silu", *, bits: int = 0, bias: bool = False, addend: bool = False
) -> onnx.FunctionProto:
    """See `plugins/elastic_linear/README.md`; inputs in the order of its TensorRT plugin, as far as asked for."""
    matrices = ["gate", "up", "down"]
    scales = [f"{name}_scales" for name in matrices]
    names = ["input", *matrices, "active_rows", *(scales if bits else [])]
    names += ["gate_bias", "up_bias"] * bias + ["addend"] * addend
    (gate, up, down), body = _weights(matrices, scales, bits, "down")
    body += _mask(down)
    gelu = 'activated = Gelu<approximate = "tanh">(gated)'
    silu = "sigmoid = Sigmoid(gated) activated = Mul(gated, sigmoid)"
    body += f"""
        gate_transposed = Transpose<perm = [1, 0]>({gate})
        up_transposed = Transpose<perm = [1, 0]>({up})
        gate_product = MatMul(input, gate_transposed)
        up_product = MatMul(input, up_transposed)
        {_add("gated", "gate_product", "gate_bias", bias)}
        {_add("raised", "up_product", "up_bias", bias)}
        {silu if activation == "silu" else gelu}
        hidden = Mul(activated, raised)
        seen = Where(mask, hidden, zero)
        product = MatMul(seen, {down})
        {_add("output", "product", "addend", addend)}"""
    attributes = f'activation: string = "{activation}", {_presence(bits, bias, addend)}'
    return _function(
        "ElasticFeedForward", _variant(activation, bits, bias, addend), attributes, names, ["output"], body
    )


def head_subset_attention(*, rotary: bool = False) -> onnx.FunctionProto:
    """See `plugins/head_subset_attention/README.md`; inputs in its order, the tables if `rotary`.

    New tokens must fit into the cache: the standard operator that writes them does not drop slots outside.
    """
    names = ["query", "key", "value", "key_cache", "value_cache", "positions", "write", "active_groups"]
    names += ["cosine", "sine"] * rotary
    rotated = "RotaryEmbedding({0}_rows, cosine, sine)" if rotary else "Identity({0}_rows)"
    body = f"""
        query_rows = Transpose<perm = [0, 2, 1, 3]>(query)
        key_rows = Transpose<perm = [0, 2, 1, 3]>(key)
        value_rows = Transpose<perm = [0, 2, 1, 3]>(value)
        query_rotated = {rotated.format("query")}
        key_rotated = {rotated.format("key")}
        key_cache_out = TensorScatter<axis = 2>(key_cache, key_rotated, write)
        value_cache_out = TensorScatter<axis = 2>(value_cache, value_rows, write)

        zero_index = Constant<value_int = 0>()
        one_index = Constant<value_int = 1>()
        last = Constant<value_ints = [-1]>()
        capacity = Shape<start = 2, end = 3>(key_cache)
        capacity_scalar = Squeeze(capacity)
        slots = Range(zero_index, capacity_scalar, one_index)
        position = Unsqueeze(positions, last)
        causal = LessOrEqual(slots, position)
        asked_window = Constant<value_int: int = @window>()
        unlimited = Equal(asked_window, zero_index)
        most = Constant<value_int = 4611686018427387904>()
        window = Where(unlimited, most, asked_window)
        before = Sub(position, window)
        near = Greater(slots, before)
        visible = And(causal, near)
        one_axis = Constant<value_ints = [1]>()
        mask = Unsqueeze(visible, one_axis)

        visible_number = Cast<to = 6>(visible)
        by_any = ReduceMax<keepdims = 0>(visible_number, one_axis)
        slot_axes = Constant<value_ints = [1, 3]>()
        by_any_rows = Unsqueeze(by_any, slot_axes)
        live = Cast<to = 9>(by_any_rows)
        zero_number = Constant<value_float = 0.0>()
        zero = CastLike(zero_number, query)
        keys = Where(live, key_cache_out, zero)
        values = Where(live, value_cache_out, zero)

        asked_scale = Constant<value_float: float = @scale>()
        head_dim = Shape<start = 3, end = 4>(query)
        head_dim_number = Cast<to = 1>(head_dim)
        root = Sqrt(head_dim_number)
        usual = Reciprocal(root)
        is_usual = Equal(asked_scale, zero_number)
        scale_number = Where(is_usual, usual, asked_scale)
        scale = CastLike(scale_number, query)
        scaled = Mul(query_rotated, scale)
        attended_rows = Attention<scale = 1.0>(scaled, keys, values, mask)
        attended = Transpose<perm = [0, 2, 1, 3]>(attended_rows)

        last_axis = Constant<value_ints = [2]>()
        by_token = ReduceMax<keepdims = 1>(visible_number, last_axis)
        sees = Cast<to = 9>(by_token)
        heads = Shape<start = 2, end = 3>(query)
        groups = Shape<start = 2, end = 3>(key)
        heads_scalar = Squeeze(heads)
        per_group = Div(heads, groups)
        head = Range(zero_index, heads_scalar, one_index)
        group = Div(head, per_group)
        {_per_token("active_groups", "active")}
        wanted = Less(group, active)
        shown = And(wanted, sees)
        shown_rows = Unsqueeze(shown, last)
        output = Where(shown_rows, attended, zero)"""
    attributes = f"window: int = 0, scale: float = 0.0, rotary: int = {int(rotary)}"
    outputs = ["output", "key_cache_out", "value_cache_out"]
    return _function("HeadSubsetAttention", "rotary" if rotary else "plain", attributes, names, outputs, body)


def _variant(first: str, bits: int, bias: bool, addend: bool) -> str:
    return ".".join([first, *([f"int{bits}"] if bits else []), *(["bias"] * bias), *(["addend"] * addend)])


def _presence(bits: int, bias: bool, addend: bool) -> str:
    return f"bits: int = {bits}, bias: int = {int(bias)}, addend: int = {int(addend)}"


def _function(
    name: str, overload: str, attributes: str, inputs: list[str], outputs: list[str], body: str
) -> onnx.FunctionProto:
    text = f"""
        <domain: "{DOMAIN}", opset_import: ["" : {OPSET}], overload: "{overload}">
        {name} <{attributes}> ({", ".join(inputs)}) => ({", ".join(outputs)}) {{ {body} }}"""
    return onnx.parser.parse_function(text)


def _add(result: str, left: str, right: str, present: bool) -> str:
    return f"{result} = Add({left}, {right})" if present else f"{result} = Identity({left})"


def _per_token(source: str, result: str) -> str:
    """int32 [B, S], [B] or [1] as int64 [B, S, 1], broadcasting."""
    return f"""
        pad = Constant<value_ints = [1, 1]>()
        {result}_shape = Shape({source})
        {result}_padded = Concat<axis = 0>({result}_shape, pad)
        begin = Constant<value_ints = [0]>()
        end = Constant<value_ints = [3]>()
        {result}_three = Slice({result}_padded, begin, end)
        {result}_column = Reshape({source}, {result}_three)
        {result} = Cast<to = 7>({result}_column)"""


def _mask(weight: str) -> str:
    """`mask` [B, S, rows]: which rows a token uses; and a `zero` of the input's type."""
    return f"""
        {_per_token("active_rows", "active")}
        rows = Shape<start = 0, end = 1>({weight})
        rows_scalar = Squeeze(rows)
        zero_index = Constant<value_int = 0>()
        one_index = Constant<value_int = 1>()
        row = Range(zero_index, rows_scalar, one_index)
        mask = Less(row, active)
        zero_number = Constant<value_float = 0.0>()
        zero = CastLike(zero_number, input)"""


def _weights(names: list[str], scales: list[str], bits: int, down: str) -> tuple[list[str], str]:
    """Names of the weights as floats, and the nodes that make them from integers; of `down`, rows are the inputs."""
    if not bits:
        return names, ""
    body = """
        keep = Constant<value_ints = [0, -1]>()
        open = Constant<value_ints = [-1]>()
        second = Constant<value_ints = [1]>()
        third = Constant<value_ints = [2]>()"""
    if bits == 4:
        body += """
            sixteen = Constant<value = int32 {16}>()
            eight = Constant<value = int32 {8}>()"""
    for name, scale in zip(names, scales, strict=True):
        body += f"{name}_integers = Cast<to = 6>({name})"
        flat = f"{name}_integers"
        if bits == 4:  # two to a byte, the first in the low half; above 7 stands for 16 less
            body += f"""
                {name}_low = Mod({flat}, sixteen)
                {name}_rest = Sub({flat}, {name}_low)
                {name}_shifted = Div({name}_rest, sixteen)
                {name}_high = Mod({name}_shifted, sixteen)
                {name}_low_columns = Unsqueeze({name}_low, third)
                {name}_high_columns = Unsqueeze({name}_high, third)
                {name}_pairs = Concat<axis = 2>({name}_low_columns, {name}_high_columns)
                {name}_unsigned = Reshape({name}_pairs, keep)
                {name}_raised = Add({name}_unsigned, eight)
                {name}_wrapped = Mod({name}_raised, sixteen)
                {name}_signed = Sub({name}_wrapped, eight)"""
            flat = f"{name}_signed"
        body += f"""
            {name}_number = CastLike({flat}, {scale})
            {name}_scale_columns = Shape<start = 1>({scale})"""
        if name == down:  # [rows / group, group, hidden]
            body += f"""
            {name}_scale_rows = Shape<start = 0, end = 1>({scale})
            {name}_grouped_shape = Concat<axis = 0>({name}_scale_rows, open, {name}_scale_columns)
            {name}_shape = Concat<axis = 0>(open, {name}_scale_columns)
            {name}_each = Unsqueeze({scale}, second)"""
        else:  # [rows, hidden / group, group]
            body += f"""
            {name}_scale_shape = Shape({scale})
            {name}_grouped_shape = Concat<axis = 0>({name}_scale_shape, open)
            {name}_shape = Identity(keep)
            {name}_each = Unsqueeze({scale}, third)"""
        body += f"""
            {name}_grouped = Reshape({name}_number, {name}_grouped_shape)
            {name}_scaled = Mul({name}_grouped, {name}_each)
            {name}_float = Reshape({name}_scaled, {name}_shape)"""
    return [f"{name}_float" for name in names], body
