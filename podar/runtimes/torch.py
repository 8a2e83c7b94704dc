"""PyTorch itself: exported programs (.pt2), and torch modules as they are, operator by operator."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, first_line, sizes
from podar.model.containers import leaves, name_of
from podar.model.modes import modes_put_back
from podar.runtimes.file_inputs import arrays
from podar.runtimes.register import runtime
from podar.runtimes.session import Port, Ready
from podar.trust import programs

if TYPE_CHECKING:
    import torch
    from torch import nn


class ExportedProgramSession:
    """An exported program. Its inputs are the tensors among its arguments: by name, or by place ("0", "boxes_1")."""

    def __init__(self, program: Any, threads: int) -> None:
        import torch
        from torch.utils import _pytree as pytree

        signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}
        self._form = program.call_spec.in_spec
        self._module, self._threads = program.module(), threads
        self._values = list(signature.user_inputs)  # names of tensors; whatever else stands there is a constant
        args, kwargs = pytree.tree_unflatten(list(range(len(self._values))), self._form)
        numbers = leaves({**dict(enumerate(args)), **kwargs})  # keyword arguments by their names, others by position
        places = {number: name_of(place) for place, number in numbers}
        meant = [(i, nodes.get(v)) for i, v in enumerate(self._values) if isinstance(v, str)]
        self._tensors = [i for i, node in meant if node is not None and isinstance(node.meta.get("val"), torch.Tensor)]
        self.inputs = tuple(_port(places.get(i, str(i)), nodes[self._values[i]].meta["val"]) for i in self._tensors)
        given = [(n, nodes[n].meta.get("val")) for n in signature.user_outputs if isinstance(n, str) and n in nodes]
        self.outputs = tuple(_port(name, value) for name, value in given if isinstance(value, torch.Tensor))
        self.version = f"torch {torch.__version__}"

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in order."""
        import torch
        from torch.utils import _pytree as pytree

        values = list(self._values)
        for place, port, array in zip(self._tensors, self.inputs, arrays):
            tensor = torch.from_numpy(array)
            values[place] = tensor.bfloat16() if port.dtype == "bfloat16" else tensor
        args, kwargs = pytree.tree_unflatten(values, self._form)
        with torch.no_grad(), _threads(self._threads):
            found = pytree.tree_leaves(self._module(*args, **kwargs))
        tensors = [value for value in found if isinstance(value, torch.Tensor)]
        return [(t.float() if t.dtype == torch.bfloat16 else t).numpy() for t in tensors]


def _port(name: str, value: torch.Tensor) -> Port:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Port(name, shape, str(value.dtype).removeprefix("torch."))


def _loaded(file: Path) -> Any:
    """The program of a file.

    **Raises:** `PodarError` for what is no exported program, or holds pickles that nobody vouched for.
    """
    import torch

    programs.refuse_unknown(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's loader uses what torch deprecates
            return torch.export.load(str(file))
    except Exception as error:
        raise PodarError(f"{file} is not an exported program that torch can open: {first_line(error)}.") from error


def count_weights(file: Path) -> int:
    """How many parameters a program has."""
    return sum(parameter.numel() for _, parameter in _loaded(file).named_parameters())


def run_module(module: nn.Module, example_inputs: Any, threads: int) -> Ready:
    """A module in eval mode, run as it is; where it lies on a graphics card, its end is waited for."""
    import torch

    from podar.model.inputs import call

    on_gpu = any(parameter.is_cuda for parameter in module.parameters())

    def run() -> Any:
        with torch.no_grad():  # inference_mode would leave tensors in the model's caches that cannot train any more
            out = call(module, example_inputs)
            if on_gpu:
                torch.cuda.synchronize()
            return out

    with as_for_serving(module, threads):
        try:
            run()
        except Exception as error:
            shown = [] if callable(example_inputs) else list(arrays(example_inputs, widened=True).values())
            given = ", ".join(f"{sizes(a.shape)} {a.dtype}" for a in shown) or "made by a callable"
            raise PodarError(
                f"a torch model ({type(module).__name__}) does not run on the example inputs ({given}): "
                f"{first_line(error)}."
            ) from error
    return Ready(f"torch {torch.__version__}", run)


@runtime("torch", package="torch", suffixes=(".pt2",), widths=8, weights=count_weights, module=run_module)
def open_(file: Path, threads: int) -> ExportedProgramSession:
    """An exported program in torch."""
    program = _loaded(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ExportedProgramSession(program, threads)
    except Exception as error:
        raise PodarError(f"{file} is not an exported program that torch can open: {first_line(error)}.") from error


@contextlib.contextmanager
def as_for_serving(model: Any, threads: int) -> Iterator[None]:
    """While timed: a torch module stands in eval mode, torch uses that many threads. Put back as they were after.

    Files know themselves how they run: for them nothing is done.
    """
    if isinstance(model, (str, Path)):
        yield
        return
    with _threads(threads), modes_put_back(model):
        with contextlib.suppress(NotImplementedError):  # an exported program: its mode is fixed
            model.eval()
        yield


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Within: torch uses that many threads."""
    import torch

    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
