"""Weights in a graph: as floats, or as integers with a scale for each output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.formats.onnx.graph import Graph
from jslm.formats.onnx.quantize import LEVELS, quantize_columns, quantize_rows

KINDS = ("float32", "float16", "int8", "int7")


@dataclass(frozen=True)
class Layout:
    """What decides a graph, its weights apart.

    `kind`: how matrices are held (of `KINDS`). `folded`: the label of each condition that is built in, "" for none;
    the other conditions are an input.
    """

    model: ModelConfig
    kind: str = "float32"
    opset: int = 20
    folded: Mapping[str, str] = field(default_factory=dict)

    @property
    def open_conditions(self) -> list[str]:
        """The conditions that are an input, in its order."""
        return [condition.name for condition in self.model.conditions if condition.name not in self.folded]


class Products:
    """A graph with the parameters it takes its weights from: tables, products and biases."""

    def __init__(self, layout: Layout, params: Mapping[str, Any]) -> None:
        self.model, self.kind, self.layout = layout.model, layout.kind, layout
        self.params = params
        self.graph = Graph(layout.opset)
        self.node, self.constant = self.graph.node, self.graph.constant
        self.standard = layout.opset >= 23

    def vector(self, name: str, index: int | None = None) -> str:
        """A vector in float32; `index`: of that layer."""
        leaf = self.params[name]
        shape = leaf.shape if index is None else leaf.shape[1:]
        return self.graph.weight(_dotted(name, index), np.float32, shape, lambda: take(leaf, index))

    def table(self, name: str, rows: int) -> tuple[str, str]:
        """The first `rows` of a table `[rows, d_model]` as it is held, and its scales, "" for floats."""
        leaf, dotted = self.params[name], _dotted(name)
        shape = (rows, leaf.shape[1])
        if self.kind in LEVELS:
            made = cache(lambda: quantize_rows(take(leaf)[:rows], LEVELS[self.kind]))
            scales = self.graph.weight(f"{dotted}.scale", np.float32, shape[:1], lambda: made()[1])
            return self.graph.weight(dotted, np.int8, shape, lambda: made()[0]), scales
        return self.graph.weight(dotted, _held(self.kind), shape, lambda: take(leaf)[:rows]), ""

    def linear(self, x: str, name: str, shape: tuple[int, int], make: Callable[[], np.ndarray]) -> str:
        """x @ a kernel `[in, out]`."""
        if self.kind in LEVELS:
            made = cache(lambda: quantize_columns(make(), LEVELS[self.kind]))
            kernel = self.graph.weight(name, np.int8, shape, lambda: made()[0])
            scales = self.graph.weight(f"{name}.scale", np.float32, shape[1:], lambda: made()[1])
            return self.integer_product(x, kernel, scales)
        return self.node("MatMul", x, self.wide(self.graph.weight(name, _held(self.kind), shape, make)))

    def integer_product(self, x: str, kernel: str, scales: str) -> str:
        """x @ an int8 kernel, x rounded to 8 bits as it comes; in onnxruntime these five nodes become one."""
        rounded, scale, zero = self.graph.nodes_out("DynamicQuantizeLinear", [x], 3)
        product = self.node("Cast", self.node("MatMulInteger", rounded, kernel, zero), to=FLOAT)
        return self.node("Mul", product, self.node("Mul", scale, scales))

    def wide(self, weight: str) -> str:
        """What is held in 16 bits, in float32."""
        return self.node("Cast", weight, to=FLOAT) if self.kind == "float16" else weight

    def rows(self, table: tuple[str, str], ids: str) -> str:
        """The rows of a table in float32."""
        held, scales = table
        found = self.node("Gather", held, ids)
        if not scales:
            return self.wide(found)
        scale = self.node("Unsqueeze", self.node("Gather", scales, ids), self.constant([-1]))
        return self.node("Mul", self.node("Cast", found, to=FLOAT), scale)

    def biased(self, y: str, name: str, parts: tuple[str, ...], index: int, scale: float = 1.0) -> str:
        """y plus the biases of `parts` one after the other, where there are any; the first times `scale`."""
        names = [f"layers/{part}/bias" for part in parts]
        if names[0] not in self.params:
            return y
        leaves = [self.params[name] for name in names]

        def make() -> np.ndarray:
            first, *others = (take(leaf, index) for leaf in leaves)
            return np.concatenate([first * np.float32(scale), *others])

        width = sum(leaf.shape[1] for leaf in leaves)
        return self.node("Add", y, self.graph.weight(f"layers.{index}.{name}.bias", np.float32, (width,), make))

    def kernels(self, x: str, name: str, parts: tuple[str, ...], index: int, scale: float = 1.0) -> str:
        """x @ the kernels of `parts` side by side, plus their biases; the first times `scale`."""
        leaves = [self.params[f"layers/{part}/kernel"] for part in parts]

        def make() -> np.ndarray:
            first, *others = (take(leaf, index) for leaf in leaves)
            return np.concatenate([first * np.float32(scale), *others], axis=1)

        shape = (leaves[0].shape[1], sum(leaf.shape[2] for leaf in leaves))
        return self.biased(self.linear(x, f"layers.{index}.{name}.weight", shape, make), name, parts, index, scale)


# TensorProto.DataType, which is part of the format.
FLOAT, BOOL = 1, 9


def _held(kind: str) -> Any:
    return np.float16 if kind == "float16" else np.float32


def take(leaf: Any, index: int | None = None) -> np.ndarray:
    """A parameter in float32; `index`: that layer's, or that row."""
    return np.asarray(leaf if index is None else leaf[index], np.float32)


def _dotted(name: str, index: int | None = None) -> str:
    """The parameter's name in the graph: `layers/mlp_norm/scale` of layer 2 is `layers.2.mlp_norm.scale`."""
    dotted = name.replace("/", ".")
    return dotted if index is None else dotted.replace("layers.", f"layers.{index}.", 1)


def cache_names(model: ModelConfig, name: str) -> list[str]:
    """Keys and values in turn, a pair a layer."""
    return [f"{name}.{index}.{part}" for index in range(model.n_layers) for part in ("key", "value")]
