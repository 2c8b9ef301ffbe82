"""From torch to ONNX: a first export when a release is trained, new initializers when it is edited.

An edit changes weights and nothing else, so its ONNX file is the parent's graph with other numbers in it: the same
nodes, no tracing, tens of milliseconds instead of seconds (decision 0006). Either way ONNX Runtime's answers are held
against torch's before anybody uses the file.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge_agent.core.errors import BrokenRelease, JobFailed
from edge_agent.core.networks import graph_state
from edge_agent.core.training import logits
from edge_agent.core.types import Float32
from edge_agent.onnx_conv import give_height
from edge_agent.schemas.card import INPUT, OUTPUT

PARITY: Final = 1e-4  # largest difference of a logit between ONNX Runtime and torch


def export(network: nn.Module, channels: int, length: int, path: Path) -> None:
    """Trace ``network`` into ``path`` with a dynamic batch; its initializers are the state dict's, by name."""
    from onnxscript import ir, optimizer  # 65 MiB and most of a second, which a forget job has no use for

    example = torch.zeros(2, channels, length)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            optimize=False,  # would fold batch norm into the convolutions, which ONNX Runtime does when it loads
            verbose=False,
        )
    assert program is not None
    names = graph_state(network).keys()

    def is_of_weights(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in names for value in node.inputs) else None

    # Folding a transposed weight would leave nothing under the weight's name. ONNX Runtime folds it when it loads.
    optimizer.fold_constants(program.model, should_fold=is_of_weights)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    for node in model.graph.node:  # the exporter leaves source paths and stack traces in the graph
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    give_height(model)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.save(model, path)


def with_weights(parent: bytes, network: nn.Module, path: Path) -> None:
    """Write the graph of the parent's ONNX file with the weights of ``network``.

    Raises:
        BrokenRelease: ``E_MODEL``, the graph does not hold every weight under its name.
    """
    model = onnx.load_from_string(parent)
    initializers = {one.name: one for one in model.graph.initializer}
    for name, value in graph_state(network).items():
        found = initializers.get(name)
        if found is None or tuple(found.dims) != tuple(value.shape):
            raise BrokenRelease("E_MODEL", f"the parent has no initializer {name} of shape {tuple(value.shape)}")
        found.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name))
    onnx.save(model, path)


def check_parity(network: nn.Module, windows: Tensor, answers: Float32) -> float:
    """Largest difference between the logits of torch and ``answers``, those of ONNX Runtime, on the same windows.

    Raises:
        JobFailed: ``E_PARITY``, it is above 1e-4.
    """
    largest = float(np.abs(answers - logits(network, windows).numpy()).max())
    if not largest <= PARITY:  # also refuses NaN
        raise JobFailed("E_PARITY", f"ONNX Runtime and torch differ by {largest:.2g}, limit {PARITY:g}")
    return largest
