"""A small builder of ONNX graphs over `onnx.helper`.

Operators and their attributes: ONNX's `docs/Operators.md`; the file: its `onnx/onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.errors import JslmError
from jslm.extras import load_extra

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

# What every runtime of the last years takes, and enough for opset 23.
IR_VERSIONS = {20: 9, 23: 11}
# Protocol buffers end there.
_MAX_BYTES = 2**31 - 1


def require_onnx() -> Any:
    """The package `onnx`. Raises JslmError with the command that installs it."""
    return load_extra("onnx", "onnx", "a model in ONNX")


@dataclass(frozen=True)
class Tensor:
    """An initializer: its type and shape, and its values when they are asked for.

    `is_fixed`: whether the values follow from the config alone, as those of shapes and rotary tables do.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]
    is_fixed: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Graph:
    """Nodes, initializers, inputs and outputs in the order they are added. Values are strings: their names."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._helper = require_onnx().helper
        self._scope = ""

    def scope(self, name: str) -> None:
        """What the names of nodes begin with from here on."""
        self._scope = name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and gives it."""
        return self.nodes_out(operator, inputs, 1, **attributes)[0]

    def nodes_out(
        self, operator: str, inputs: Sequence[str], outputs: int | Sequence[str], **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs, by number or by name, and gives them."""
        name = f"{self._scope}/{operator}_{len(self.nodes)}"
        if isinstance(outputs, int):
            outputs = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(self._helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))
        return list(outputs)

    def weight(
        self, name: str, dtype: Any, shape: Sequence[int], make: Callable[[], np.ndarray], *, is_fixed: bool = False
    ) -> str:
        """Adds an initializer, whose values are made when the file is written."""
        self.tensors[name] = Tensor(np.dtype(dtype), tuple(shape), make, is_fixed)
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small initializer, once for each value; a number alone has no dimension."""
        array = np.asarray(value, dtype)
        name = f"constant.{array.dtype}.{np.array2string(array, separator=',', floatmode='unique')}"
        return self.weight(name, array.dtype, array.shape, lambda: array, is_fixed=True)

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Adds an input; a dimension by name may be of any size."""
        self.inputs.append(self._value(name, dtype, shape))
        return name

    def output(self, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Names an output of the graph, which a node has."""
        self.outputs.append(self._value(name, dtype, shape))

    def rename(self, value: str, name: str) -> None:
        """Gives a node's output, which is that of the last node, another name."""
        outputs = self.nodes[-1].output
        outputs[list(outputs).index(value)] = name

    def model(self, metadata: Mapping[str, str]) -> ModelProto:
        """The whole file. Raises JslmError where it would be larger than a protocol buffer can be."""
        total = sum(tensor.size for tensor in self.tensors.values())
        if total > _MAX_BYTES:
            raise JslmError(
                f"the weights take {total / 1e9:.1f} GB, and an ONNX file ends at 2.1; export with --dtype int8"
            )
        initializers = [self._initializer(name, tensor) for name, tensor in self.tensors.items()]
        graph = self._helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, initializers)
        model = self._helper.make_model(
            graph,
            opset_imports=[self._helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSIONS[self.opset],
            producer_name="jslm",
        )
        self._helper.set_model_props(model, dict(metadata))
        return model

    def _initializer(self, name: str, tensor: Tensor) -> Any:
        array = np.ascontiguousarray(tensor.make(), tensor.dtype).reshape(tensor.shape)
        kind = self._helper.np_dtype_to_tensor_dtype(tensor.dtype)
        return self._helper.make_tensor(name, kind, tensor.shape, array.tobytes(), raw=True)

    def _value(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._helper.make_tensor_value_info(name, kind, list(shape))
