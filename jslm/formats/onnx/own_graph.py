"""The decoder as jslm runs it in onnxruntime: the graph of `decoder.py` over the same weights, in fewer operators.

The file that is exported has ONNX's own operators, whose caches grow by copying. Here attention is onnxruntime's
GroupQueryAttention (its `docs/ContribOperators.md`), which turns queries and keys and writes them in place, and the
head computes no more rows than are asked for. The weights stay in the exported file, of which they are a view.

Inputs `input_ids` `[batch, sequence]` int64; `last` `[batch]` int32, the place of each row's last token; `slots`
`[]` int32, the largest of them plus one; `position_ids` `[batch, sequence]` int64, where positions are learned; `rows`
`[n]` int64, which of the batch * sequence tokens have logits; `conditions` as in the exported graph;
`past_key_values.N.key` and `.value` `[batch, kv_heads, capacity, head_dim]`, float32. Outputs `logits` `[n, vocab]`;
`present.N.key` and `.value`, which are to be bound to the arrays of `past_key_values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.formats.onnx.decoder import Builder
from jslm.formats.onnx.file import OnnxFile
from jslm.formats.onnx.graph import IR_VERSIONS, Graph, Tensor, require_onnx
from jslm.formats.onnx.products import Layout, cache_names

_OPSET = 20
_CONTRIB = "com.microsoft"


def runs_in_place(model: ModelConfig) -> bool:
    """Whether GroupQueryAttention takes heads of this width."""
    return model.dim_per_head % (16 if model.position == "rope" else 8) == 0


def own_model(layout: Layout, file: OnnxFile, params: Mapping[str, Any]) -> bytes:
    """The graph as an ONNX file that has its weights in `file`, which lies in the folder that it is opened from.

    `params`: flat parameters, of which shapes alone are used.
    """
    onnx = require_onnx()
    own = Layout(layout.model, layout.kind, _OPSET, layout.folded)
    graph = _Builder(own, params).build()
    tensors = [_view(name, tensor, file, onnx) for name, tensor in graph.tensors.items()]
    helper = onnx.helper
    model = helper.make_model(
        helper.make_graph(graph.nodes, "decoder", graph.inputs, graph.outputs, tensors),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=IR_VERSIONS[_OPSET],
    )
    return bytes(model.SerializeToString())


def _view(name: str, tensor: Tensor, file: OnnxFile, onnx: Any) -> Any:
    """An initializer whose bytes are those of the file's of that name; constants are small, and made again."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    if tensor.is_fixed:
        values = np.ascontiguousarray(tensor.make(), tensor.dtype).tobytes()
        return onnx.helper.make_tensor(name, kind, tensor.shape, values, raw=True)
    found = onnx.TensorProto(name=name, data_type=kind, dims=tensor.shape, data_location=onnx.TensorProto.EXTERNAL)
    places = {"location": file.path.name, "offset": _start(name, tensor, file), "length": tensor.size}
    for key, value in places.items():
        found.external_data.add(key=key, value=str(value))
    return found


def _start(name: str, tensor: Tensor, file: OnnxFile) -> int:
    """Where a weight's bytes begin in the file."""
    if name in file.tensors:
        return file.tensors[name].start
    # The scales of heads' norms stand there a row a head, those of the queries first.
    base, _, part = name.rpartition(".")
    rows = file.tensors[f"{base}.qk_norm"]
    return rows.start + (0 if part == "q_norm" else (rows.shape[0] - 1) * tensor.size)


class _Builder(Builder):
    def build(self) -> Graph:
        graph, model = self.graph, self.model
        ids = graph.input("input_ids", np.int64, ["batch", "sequence"])
        graph.input("last", np.int32, ["batch"])
        graph.input("slots", np.int32, [])
        graph.input("rows", np.int64, ["n"])
        positions = ""
        if model.position == "learned":
            positions = graph.input("position_ids", np.int64, ["batch", "sequence"])
        if self.layout.open_conditions:
            graph.input("conditions", np.int64, ["batch", len(self.layout.open_conditions)])
        shape: list[int | str] = ["batch", model.kv_heads, "capacity", model.dim_per_head]
        for name in cache_names(model, "past_key_values"):
            graph.input(name, np.float32, shape)
        x, y = self.embed(ids, positions), ""
        tables = self.rotary_tables() if model.position == "rope" else ["", ""]
        for index in range(model.n_layers):
            graph.scope(f"layers.{index}")
            x, normed = self.add_and_norm(x, y, "layers/attention_norm", index)
            y = self.in_place_attention(normed, index, tables)
            x, normed = self.add_and_norm(x, y, "layers/mlp_norm", index)
            y = self.mlp(normed, index)
        graph.scope("head")
        _, normed = self.add_and_norm(x, y, "final_norm")
        flat = self.node("Reshape", normed, self.constant([-1, model.d_model]))
        graph.rename(self.head(self.node("Gather", flat, "rows")), "logits")
        graph.output("logits", np.float32, ["n", model.vocab_size])
        for name in cache_names(model, "present"):
            graph.output(name, np.float32, shape)
        return graph

    def add_and_norm(self, x: str, y: str, name: str, index: int | None = None) -> tuple[str, str]:
        """(x + y, its norm); y is "" where there is nothing to add."""
        rms, epsilon = self.model.norm == "rmsnorm", self.model.norm_eps
        scale = self.vector(f"{name}/scale", index)
        bias = [self.vector(f"{name}/bias", index)] if f"{name}/bias" in self.params else []
        if not y:
            operator = "SimplifiedLayerNormalization" if rms else "LayerNormalization"
            return x, self.node(operator, x, scale, *bias, axis=-1, epsilon=epsilon)
        operator = "SkipSimplifiedLayerNormalization" if rms else "SkipLayerNormalization"
        normed = f"{name}.{index}.normed"
        outputs = [normed, "", "", f"{name}.{index}.sum"]
        self.graph.nodes_out(operator, [x, y, scale, *bias], outputs, domain=_CONTRIB, epsilon=epsilon)
        return outputs[3], normed

    def in_place_attention(self, x: str, index: int, tables: list[str]) -> str:
        model = self.model
        heads, kv_heads, width = model.n_heads, model.kv_heads, model.dim_per_head
        # As in the exported graph, whose weights these are: the scores' scale is in the queries, or in their norm.
        parts = tuple(f"attention/{part}" for part in "qkv")
        query = self.kernels(x, "attention.qkv", parts, index, width**-0.5)
        key = value = ""
        if model.qk_norm:
            sizes = self.constant([heads * width, kv_heads * width, kv_heads * width])
            query, key, value = self.graph.nodes_out("Split", [query, sizes], 3, axis=-1)
            query = self.head_norm(query, heads, index, "q")
            key = self.head_norm(key, kv_heads, index, "k")
        output = f"layers.{index}.attention/GroupQueryAttention"
        past, present = (
            [f"{name}.{index}.{part}" for part in ("key", "value")] for name in ("past_key_values", "present")
        )
        self.graph.nodes_out(
            "GroupQueryAttention",
            [query, key, value, *past, "last", "slots", *tables],
            [output, *present],
            domain=_CONTRIB,
            num_heads=heads,
            kv_num_heads=kv_heads,
            do_rotary=int(model.position == "rope"),
            scale=1.0,
        )
        return self.kernels(output, "attention.out", ("attention/out",), index)

    def head_norm(self, x: str, heads: int, index: int, part: str) -> str:
        """`[batch, sequence, heads * head_dim]`, each head normalised."""
        leaf = self.params[f"layers/attention/{part}_norm/scale"]
        width = self.model.dim_per_head
        # The values are the file's.
        scale = self.graph.weight(f"layers.{index}.attention.{part}_norm", np.float32, (width,), lambda: leaf[index])
        apart = self.node("Reshape", x, self.constant([0, 0, heads, width]))
        normed = self.node("SimplifiedLayerNormalization", apart, scale, axis=-1, epsilon=self.model.norm_eps)
        return self.node("Reshape", normed, self.constant([0, 0, heads * width]))
