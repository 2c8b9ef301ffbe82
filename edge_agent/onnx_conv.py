"""Convolutions over time as convolutions over pictures of height 1: the same sums, by ONNX Runtime's better kernels.

Its blocked kernels, and its fusion of a convolution with the sum and the activation behind it, are written for pictures
(batch, channels, height, width) and pass by what has three dimensions. So maps get a height of 1 before the first
convolution, and lose it where something else than a layer of a convolutional network comes next. Why, and what it gave:
docs/decisions/0025-convolutions-of-height-1.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

HEIGHT: Final = "axis_of_height"
_KEEP_IT: Final = frozenset({"Add", "BatchNormalization", "Relu"})
_ONE_FOR_EACH_AXIS: Final = frozenset({"dilations", "kernel_shape", "strides"})


def give_height(model: ModelProto) -> None:
    """Rewrite a graph with convolutions over (batch, channels, length), in place; its inputs and outputs stay.

    Weights stay as they are, under their names, for an edit to replace (decision 0006): each gets its height from a
    node of its own, which is computed when the model is loaded.
    """
    graph = model.graph
    rewritten = _Rewritten({one.name for one in graph.initializer if len(one.dims) == 3})
    for node in graph.node:
        rewritten.add(node)
    del graph.node[:]
    graph.node.extend(rewritten.nodes)
    del graph.value_info[:]  # the old shapes
    graph.initializer.append(numpy_helper.from_array(np.array([2]), HEIGHT))


class _Rewritten:
    """The nodes of the graph to be.

    Args:
        kernels: names of what may be a kernel over one dimension: (outputs, inputs, taps).
    """

    def __init__(self, kernels: set[str]) -> None:
        self.nodes: list[NodeProto] = []
        self._kernels = kernels
        self._tall: set[str] = set()  # values that have a height
        self._made: set[str] = set()  # the same values, with a height or without

    def add(self, node: NodeProto) -> None:
        """Take over the next node."""
        taken = NodeProto()
        taken.CopyFrom(node)
        convolves = node.op_type == "Conv" and node.input[1] in self._kernels
        pools = node.op_type == "MaxPool" and node.input[0] in self._tall and len(node.output) == 1
        maps = node.input if node.op_type == "Add" else node.input[:1]
        if convolves or pools:
            for index in range(2 if convolves else 1):
                taken.input[index] = self._raised(node.input[index])
            _grow(taken)
            self._tall.update(node.output)
        elif node.op_type in _KEEP_IT and self._tall.issuperset(maps):
            self._tall.update(node.output)
        else:
            for index, name in enumerate(node.input):
                taken.input[index] = self._lowered(name)
        self.nodes.append(taken)

    def _raised(self, name: str) -> str:
        return name if name in self._tall else self._reshaped(name, "Unsqueeze")

    def _lowered(self, name: str) -> str:
        return self._reshaped(name, "Squeeze") if name in self._tall else name

    def _reshaped(self, name: str, operation: str) -> str:
        made = f"{name}.{operation.lower()}"
        if made not in self._made:
            self._made.add(made)
            self.nodes.append(helper.make_node(operation, [name, HEIGHT], [made], name=made))
        return made


def _grow(node: NodeProto) -> None:
    """Let a convolution or pooling over time reach over a height of 1, too."""
    for attribute in node.attribute:
        if attribute.name == "pads":
            before, after = attribute.ints
            attribute.ints[:] = (0, before, 0, after)
        elif attribute.name in _ONE_FOR_EACH_AXIS:
            attribute.ints.insert(0, 1)
