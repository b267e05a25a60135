"""The graph of a decoder: `jslm.model.decoder` in ONNX's standard operators.

Inputs `input_ids` `[batch, sequence]`, `attention_mask` `[batch, total]` (1: there, 0: padding), `position_ids`
`[batch, sequence]` (where the model has positions), all int64; `past_key_values.N.key` and `.value`
`[batch, kv_heads, past, head_dim]` in float32, where total is past + sequence; `conditions` `[batch, kinds]` int64
(where labels are left open; -1: none). Outputs `logits` `[batch, sequence, vocab]`, `present.N.key`, `present.N.value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jslm.config import ConditionConfig, ModelConfig
from jslm.formats.onnx.graph import Graph
from jslm.formats.onnx.products import BOOL, Layout, Products, cache_names, take
from jslm.model.rope import default_positions, rotary_tables

# Scores of what may not be seen; finite, so that a padding row, which sees nothing, is no division by zero.
_UNSEEN = -1e30


def decoder_graph(layout: Layout, params: Mapping[str, Any]) -> Graph:
    """The graph, whose weights are taken from the flat parameters (`layers/mlp/up/kernel`, layers on axis 0) when the
    file is written; here only their shapes are used."""
    return Builder(layout, params).build()


class Builder(Products):
    """The parts of a decoder, each adding its nodes; values are strings."""

    def build(self) -> Graph:
        """The whole graph."""
        graph, model = self.graph, self.model
        ids = graph.input("input_ids", np.int64, ["batch", "sequence"])
        mask = graph.input("attention_mask", np.int64, ["batch", "total"])
        positions = ""
        if model.position != "none":
            positions = graph.input("position_ids", np.int64, ["batch", "sequence"])
        if self.layout.open_conditions:
            graph.input("conditions", np.int64, ["batch", len(self.layout.open_conditions)])
        shape: list[int | str] = ["batch", model.kv_heads, "past", model.dim_per_head]
        for name in cache_names(model, "past_key_values"):
            graph.input(name, np.float32, shape)
        x = self.embed(ids, positions)
        graph.scope("mask")
        seen = self.visible(ids, mask)
        tables = self.rotary(positions) if model.position == "rope" else None
        for index in range(model.n_layers):
            graph.scope(f"layers.{index}.attention")
            y = self.attention(self.norm(x, "layers/attention_norm", index), index, seen, tables)
            x = self.node("Add", x, y)
            graph.scope(f"layers.{index}.mlp")
            x = self.node("Add", x, self.mlp(self.norm(x, "layers/mlp_norm", index), index))
        graph.scope("head")
        logits = self.head(self.norm(x, "final_norm"))
        graph.rename(logits, "logits")
        graph.output("logits", np.float32, ["batch", "sequence", model.vocab_size])
        shape[2] = "total"
        for name in cache_names(model, "present"):
            graph.output(name, np.float32, shape)
        return graph

    def embed(self, ids: str, positions: str) -> str:
        """The sum of a token's embeddings, `[batch, sequence, d_model]`."""
        self.graph.scope("embed")
        self.tokens = self.table("embed/tokens", self.model.vocab_size)
        x = self.rows(self.tokens, ids)
        if self.model.position == "learned":
            x = self.node("Add", x, self.rows(self.table("embed/positions", self.model.context_length), positions))
        for condition in self.model.conditions:
            x = self.condition(x, condition)
        return x

    def condition(self, x: str, condition: ConditionConfig) -> str:
        """x plus the embedding of the label: the one built in, or the input's, where -1 adds nothing."""
        name, folded = condition.name, self.layout.folded
        leaf = self.params[f"embed/conditions/{name}"]
        rows, width = leaf.shape
        weight = f"embed.conditions.{name}"
        if name in folded:
            if not folded[name]:
                return x
            make = partial(take, leaf, condition.labels.index(folded[name]))
            return self.node("Add", x, self.graph.weight(weight, np.float32, (width,), make))
        # A row of zeros first.
        make = partial(np.pad, leaf, ((1, 0), (0, 0)))
        table = self.graph.weight(weight, np.float32, (rows + 1, width), make)
        column = self.constant([self.layout.open_conditions.index(name)])
        label = self.node("Gather", "conditions", column, axis=1)
        return self.node("Add", x, self.node("Gather", table, self.node("Add", label, self.constant(1))))

    def visible(self, ids: str, mask: str) -> str:
        """What is added to the scores: each position sees itself and what is before it, where the mask is 1.

        float32 `[batch, 1, sequence, total]`; where heads share a key and the operator is not ONNX's own, the rows once
        for each of them.
        """
        total = self.node("Gather", self.node("Shape", mask), self.constant(1))
        length = self.node("Gather", self.node("Shape", ids), self.constant(1))
        slots = self.node("Range", self.constant(0), total, self.constant(1))
        own = self.node("Range", self.node("Sub", total, length), total, self.constant(1))
        causal = self.node("LessOrEqual", slots, self.node("Unsqueeze", own, self.constant([1])))
        there = self.node("Unsqueeze", self.node("Cast", mask, to=BOOL), self.constant([1, 2]))
        seen = self.node("And", causal, there)
        added = self.node("Where", seen, self.constant(0, np.float32), self.constant(_UNSEEN, np.float32))
        group = self.model.n_heads // self.model.kv_heads
        if group == 1 or self.standard:
            return added
        copies = self.node(
            "Expand", self.node("Unsqueeze", added, self.constant([2])), self.constant([1, 1, group, 1, 1])
        )
        end = self.node("Unsqueeze", total, self.constant([0]))
        shape = self.node("Concat", self.constant([0, 1, -1]), end, axis=0)
        return self.node("Reshape", copies, shape)

    def rotary(self, positions: str) -> tuple[str, str]:
        """Cosines and sines of the positions: from jslm's own tables, since runtimes' sines of large angles differ."""
        self.graph.scope("rotary")
        cos, sin = (self.node("Gather", table, positions) for table in self.rotary_tables())
        if self.standard:
            return cos, sin
        both = self.node("Concat", cos, cos, axis=-1), self.node("Concat", self.node("Neg", sin), sin, axis=-1)
        cos, sin = (self.node("Unsqueeze", table, self.constant([1])) for table in both)
        return cos, sin

    def rotary_tables(self) -> list[str]:
        """Cosines and sines of all positions, `[context, head_dim / 2]` each."""
        shape = (self.model.context_length, self.model.dim_per_head // 2)
        return [
            self.graph.weight(f"rotary.{name}", np.float32, shape, partial(_table, self.model, index))
            for index, name in enumerate(("cos", "sin"))
        ]

    def norm(self, x: str, name: str, index: int | None = None) -> str:
        """RMSNorm or LayerNorm over the last axis."""
        scale = self.vector(f"{name}/scale", index)
        if self.model.norm == "rmsnorm":
            return self.rms_norm(x, scale)
        bias = [self.vector(f"{name}/bias", index)] if f"{name}/bias" in self.params else []
        return self.node("LayerNormalization", x, scale, *bias, axis=-1, epsilon=self.model.norm_eps)

    def rms_norm(self, x: str, scale: str) -> str:
        """x / sqrt(mean(x^2) + eps) * scale over the last axis."""
        if self.standard:
            return self.node("RMSNormalization", x, scale, axis=-1, epsilon=self.model.norm_eps)
        square = self.node("Pow", x, self.constant(2, np.float32))
        mean = self.node("ReduceMean", square, self.constant([-1]), keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, self.constant(self.model.norm_eps, np.float32)))
        return self.node("Mul", self.node("Div", x, root), scale)

    def attention(self, x: str, index: int, seen: str, tables: tuple[str, str] | None) -> str:
        """A layer's attention of what is normed, whose keys and values go behind those of the cache."""
        model = self.model
        heads, kv_heads, width = model.n_heads, model.kv_heads, model.dim_per_head
        # The scores' scale is in the weights of the queries, or behind their norm.
        scale = width**-0.5
        parts = tuple(f"attention/{part}" for part in "qkv")
        y = self.kernels(x, "attention.qkv", parts, index, 1.0 if model.qk_norm else scale)
        y = self.node("Reshape", y, self.constant([0, 0, heads + 2 * kv_heads, width]))
        y = self.node("Transpose", y, perm=[0, 2, 1, 3])
        both, value = self.graph.nodes_out("Split", [y, self.constant([heads + kv_heads, kv_heads])], 2, axis=1)
        if model.qk_norm:
            both = self.qk_norm(both, index, scale)
        if tables is not None:
            both = self.rotate(both, *tables)
        query, key = self.graph.nodes_out("Split", [both, self.constant([heads, kv_heads])], 2, axis=1)
        past = [f"past_key_values.{index}.{part}" for part in ("key", "value")]
        present = [f"present.{index}.{part}" for part in ("key", "value")]
        if self.standard:
            y = f"layers.{index}.attention/Attention"
            inputs = [query, key, value, seen, *past]
            self.graph.nodes_out("Attention", inputs, [y, *present], scale=1.0)
        else:
            for new, before, after in zip((key, value), past, present, strict=True):
                self.graph.nodes_out("Concat", [before, new], [after], axis=2)
            rows = self.node("Reshape", query, self.constant([0, kv_heads, -1, width])) if heads > kv_heads else query
            scores = self.node("MatMul", rows, self.node("Transpose", present[0], perm=[0, 1, 3, 2]))
            weights = self.node("Softmax", self.node("Add", scores, seen), axis=-1)
            y = self.node("MatMul", weights, present[1])
            if heads > kv_heads:
                y = self.node("Reshape", y, self.constant([0, heads, -1, width]))
        y = self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]), self.constant([0, 0, heads * width]))
        return self.kernels(y, "attention.out", ("attention/out",), index)

    def qk_norm(self, both: str, index: int, scale: float) -> str:
        """Queries and keys `[batch, heads, sequence, head_dim]`, each head normalised; the queries times `scale`."""
        counts = (self.model.n_heads, self.model.kv_heads)
        leaves = [self.params[f"layers/attention/{name}_norm/scale"] for name in "qk"]
        makes = [lambda: take(leaves[0], index) * np.float32(scale), lambda: take(leaves[1], index)]
        name, width = f"layers.{index}.attention", self.model.dim_per_head
        if self.standard:
            parts = self.graph.nodes_out("Split", [both, self.constant(counts)], 2, axis=1)
            scales = [
                self.graph.weight(f"{name}.{kind}_norm", np.float32, (width,), make)
                for kind, make in zip("qk", makes, strict=True)
            ]
            normed = [self.rms_norm(*pair) for pair in zip(parts, scales, strict=True)]
            return self.node("Concat", *normed, axis=1)

        def make_rows() -> np.ndarray:
            return np.stack([make()[None] for make, count in zip(makes, counts, strict=True) for _ in range(count)])

        return self.rms_norm(both, self.graph.weight(f"{name}.qk_norm", np.float32, (sum(counts), 1, width), make_rows))

    def rotate(self, x: str, cos: str, sin: str) -> str:
        """Each pair (x[i], x[i + head_dim/2]) rotated."""
        if self.standard:
            return self.node("RotaryEmbedding", x, cos, sin)
        half = self.model.dim_per_head // 2
        first, second = self.graph.nodes_out("Split", [x, self.constant([half, half])], 2, axis=-1)
        swapped = self.node("Concat", second, first, axis=-1)
        return self.node("Add", self.node("Mul", x, cos), self.node("Mul", swapped, sin))

    def mlp(self, x: str, index: int) -> str:
        """A layer's MLP of what is normed."""
        model = self.model
        if model.is_gated:
            y = self.kernels(x, "mlp.gate_up", ("mlp/gate", "mlp/up"), index)
            gate, up = self.graph.nodes_out("Split", [y, self.constant([model.hidden_dim] * 2)], 2, axis=-1)
            y = self.node("Mul", self.activate(gate), up)
        else:
            y = self.activate(self.kernels(x, "mlp.up", ("mlp/up",), index))
        return self.kernels(y, "mlp.down", ("mlp/down",), index)

    def activate(self, x: str) -> str:
        """The activation, of the gate where there is one."""
        match self.model.activation:
            case "swiglu":
                return self.node("Mul", x, self.node("Sigmoid", x))
            case "geglu" | "gelu":
                return self.node("Gelu", x, approximate="tanh")
            case "gelu_exact":
                return self.node("Gelu", x)
            case "relu":
                return self.node("Relu", x)
            case "relu2":
                y = self.node("Relu", x)
                return self.node("Mul", y, y)

    def head(self, x: str) -> str:
        """Logits, `[..., vocab]`."""
        model = self.model
        if model.tie_embeddings:
            held, scales = self.tokens
            kernel = self.node("Transpose", self.wide(held), perm=[1, 0])
            logits = self.integer_product(x, kernel, scales) if scales else self.node("MatMul", x, kernel)
        else:
            leaf = self.params["head/tokens"]
            shape = (model.d_model, model.vocab_size)
            logits = self.linear(x, "head.weight", shape, lambda: take(leaf)[: model.vocab_size].T)
        if model.logit_softcap:
            cap = self.constant(model.logit_softcap, np.float32)
            logits = self.node("Mul", self.node("Tanh", self.node("Div", logits, cap)), cap)
        return logits


def _table(model: ModelConfig, index: int) -> np.ndarray:
    """Cosines (0) or sines (1) `[context, head_dim / 2]` of every position."""
    return np.asarray(rotary_tables(model, default_positions(1, model.context_length))[index])[0]
