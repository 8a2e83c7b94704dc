"""The exported program, simplified for the engine: batch norm folded into convolutions, splits written as slices,
constants computed, attention gathered."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from podar.engine.attention import gather_attention
from podar.engine.lowering import Unsupported, argument, constant_of, shape_of
from podar.errors import PodarError, first_line
from podar.model.modes import modes_put_back
from podar.model.quiet import quiet_exporters

aten = torch.ops.aten
_HAS_GUARDS = "check_guards" in inspect.signature(torch.export.ExportedProgram.module).parameters


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """The model as a program of torch's operators. The model stays as it is.

    **Raises:** `PodarError` where torch.export cannot follow the model.
    """
    try:
        with modes_put_back(model), quiet_exporters(), torch.no_grad():
            return torch.export.export(model.eval(), args, kwargs or None, strict=False)
    except Exception as error:  # torch.export raises dozens of kinds
        raise PodarError(f"torch.export cannot follow {type(model).__name__}: {first_line(error)}.") from error


def simplified(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """A program as a functional graph for the engine.

    **Raises:** `PodarError` where torch cannot make it functional.
    """
    try:
        with quiet_exporters(), torch.no_grad():
            functional = program.run_decompositions({})
            module = functional.module(**({"check_guards": False} if _HAS_GUARDS else {}))
            # A new module without torch's own checks of the shapes: Accelerated checks them, and allows other batches.
            module.graph._tracer_cls = fx.Tracer  # type: ignore[union-attr]  # torch.export's cannot be unpickled
            module = fx.GraphModule(module, module.graph)  # type: ignore[arg-type]
    except Exception as error:
        raise PodarError(f"torch.export cannot take the model apart: {first_line(error)}.") from error
    _splits_to_slices(module.graph)
    _fold_batch_norms(module)
    _fold_constants(module)
    gather_attention(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _splits_to_slices(graph: fx.Graph) -> None:
    splits = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in splits:
            continue
        dim = argument(node, 2, "dim", 0)
        sizes = [int(part.shape[dim]) for part in node.meta["val"]]
        for user in list(node.users):
            index = user.args[1]
            first = sum(sizes[:index])
            with graph.inserting_before(user):
                piece = graph.call_function(aten.slice.Tensor, (node.args[0], dim, first, first + sizes[index]))
            piece.meta = dict(user.meta)
            user.replace_all_uses_with(piece)
            graph.erase_node(user)


def _fold_constants(module: fx.GraphModule) -> None:
    """What is computed from stored tensors alone by a change of shape is stored."""
    shapes = (aten.unsqueeze.default, aten.view.default, aten.expand.default, aten.slice.Tensor, aten.permute.default,
              aten.transpose.int, aten.clone.default)  # fmt: skip
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in shapes or node.meta["val"].dtype != torch.float32:
            continue
        try:
            tensor = node.target(constant_of(module, node.args[0]), *node.args[1:], **node.kwargs)
        except (Unsupported, RuntimeError, TypeError):
            continue
        with module.graph.inserting_before(node):
            new = _stored(module, tensor.contiguous())
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def _fold_batch_norms(module: fx.GraphModule) -> None:
    """conv → batch norm becomes the conv; a batch norm alone becomes a 1×1 depthwise convolution."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        x, gamma, beta, running_mean, running_var, _, eps = node.args
        if any(user.args[1] != 0 for user in node.users) or x.meta["val"].dtype != torch.float32:
            continue
        try:
            mean, var = constant_of(module, running_mean).double(), constant_of(module, running_var).double()
            scale = (var + eps).rsqrt()
            if gamma is not None:
                scale = scale * constant_of(module, gamma).double()
            shift = -mean * scale
            if beta is not None:
                shift = shift + constant_of(module, beta).double()
            conv = _foldable(module, x)
        except Unsupported:
            continue
        with graph.inserting_before(node):
            if conv is not None:
                weight, bias, rest = conv
                wide = scale.reshape(-1, *[1] * (weight.ndim - 1))
                new_bias = shift if bias is None else shift + bias.double() * scale
                args = (x.args[0], _stored(module, weight.double() * wide), _stored(module, new_bias), *rest)
                new = graph.call_function(x.target, args)
            elif len(shape_of(x)) in (3, 4):
                rank = len(shape_of(x)) - 2
                weight = scale.reshape(-1, 1, *[1] * rank)
                args = (
                    x,
                    _stored(module, weight),
                    _stored(module, shift),
                    [1] * rank,
                    [0] * rank,
                    [1] * rank,
                    len(scale),
                )
                new = graph.call_function(aten.conv2d.default if rank == 2 else aten.conv1d.default, args)
            else:
                continue
        new.meta = dict(x.meta)
        for user in list(node.users):
            user.replace_all_uses_with(new)
            graph.erase_node(user)
        graph.erase_node(node)


def _foldable(module: fx.GraphModule, x: fx.Node) -> tuple[Tensor, Tensor | None, tuple[Any, ...]] | None:
    convolutions = (aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding)
    if x.target not in convolutions or len(x.users) != 1 or x.kwargs:
        return None
    bias = argument(x, 2, "bias")
    weight = constant_of(module, x.args[1])
    return weight, None if bias is None else constant_of(module, bias), tuple(x.args[3:])


def _stored(module: fx.GraphModule, tensor: Tensor) -> fx.Node:
    index = 0
    while hasattr(module, f"_folded_{index}"):
        index += 1
    module.register_buffer(f"_folded_{index}", tensor.float(), persistent=False)
    return module.graph.get_attr(f"_folded_{index}")
