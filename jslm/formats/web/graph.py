"""The decoder's graph as a page runs it: what it gives back is small, since all of it is copied.

In place of `present.N.key` and `.value`, which are all keys and values there are: `new` `[2 layers, kv_heads, sequence,
head_dim]`, those of the tokens read, which the page puts into arrays with room to grow. And `logits` `[1, 1, vocab]`
are those behind the last token alone. The batch is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jslm.formats.onnx.graph import require_onnx

# Attention, RotaryEmbedding and RMSNormalization as operators: half the nodes, each of which takes its time.
OPSET = 23


def shrink_outputs(source: Path, target: Path) -> None:
    """Rewrites a graph of jslm's, in `OPSET`, from the file `source` to `target`."""
    onnx = require_onnx()
    model = onnx.load(source)
    graph, node, value = model.graph, onnx.helper.make_node, onnx.helper.make_tensor_value_info
    present = [entry for entry in graph.output if entry.name.startswith("present.")]
    heads, _, width = (dim.dim_value for dim in present[0].type.tensor_type.shape.dim[1:])
    new = [_new_part(graph, entry.name) for entry in present]
    nodes = [
        node("Constant", [], ["last"], "head/last", value_ints=[-1]),
        *_with_last_alone(graph, node),
        node("Concat", new, ["new"], "new/Concat", axis=0),
    ]
    for entry in present:
        graph.output.remove(entry)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output.append(value("new", onnx.TensorProto.FLOAT, [len(new), heads, "sequence", width]))
    logits = next(entry for entry in graph.output if entry.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_value = 1
    # What it was made by would not make this one.
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _new_part(graph: Any, present: str) -> str:
    """The new keys or values `[1, kv_heads, sequence, head_dim]` of a layer: the inputs 1 and 2 of its Attention."""
    attention = next(found for found in graph.node if present in found.output)
    assert attention.op_type == "Attention", attention.op_type
    return str(attention.input[list(attention.output).index(present)])


def _with_last_alone(graph: Any, node: Any) -> list[Any]:
    """The graph's nodes, of which those behind the layers get the last token alone."""
    nodes = list(graph.node)
    first = next(index for index, found in enumerate(nodes) if found.name.startswith("head/"))
    hidden = nodes[first].input[0]
    for found in nodes[first:]:
        for index, name in enumerate(found.input):
            if name == hidden:
                found.input[index] = "hidden.last"
    gather = node("Gather", [hidden, "last"], ["hidden.last"], "head/Gather", axis=1)
    return [*nodes[:first], gather, *nodes[first:]]
