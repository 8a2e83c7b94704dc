"""The two halves of what a run works with: a `Source` says what model and data are, a `Workshop` works on them.

podar has a workshop of its own (`podar.workshops.PodarWorkshop`). A library whose models are trained, cut or exported
in another way brings another class with the same methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from podar.data import Dataset
from podar.errors import PodarError
from podar.formats import Exported
from podar.graph import Graph
from podar.model.inputs import ExampleInputs
from podar.pruning.options import Options
from podar.pruning.result import Result
from podar.recover import History
from podar.sparse import Keeper

T = TypeVar("T")

Loss = Callable[[Any, Any], Tensor]
"""`loss(outputs, targets)`: a scalar."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is to be trained, whoever trains it; `podar.finetune` describes what bears the same name there.

    - `batch_size` None: what the trainer takes by itself.
    - `files`: the folder of the run's finished files, where a library's trainer may leave its own.
    - `settings`: further arguments of the library's own trainer.
    - `keeper(model)`: makes what keeps the zeros of a sparse model; None where it has none.
    """

    checkpoint: Path
    files: Path
    epochs: int = 5
    lr: float | None = None
    batch_size: int | None = None
    seconds: float | None = None
    label_smoothing: float = 0.1
    teacher: nn.Module | None = None
    precision: str | None = None
    chosen: Callable[[str], None] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None
    keeper: Callable[[nn.Module], Keeper] | None = None


class Workshop(Protocol):
    """Trains, evaluates, prunes, exports and saves the models of one library, on the data that it was furnished with.

    **Attributes:** `importance`: the criterion that serves such models and data best, where nobody asks for another.
    """

    @property
    def importance(self) -> str: ...

    def formats(self) -> Mapping[str, str]:
        """Names of the formats that `export` writes: name → why it cannot be written on this machine, or ""."""
        ...

    def check_training(
        self, data: str | None, *, precision: str | None, distill: bool, settings: Mapping[str, Any]
    ) -> None:
        """Refuse what the trainer of such models on these data does not know, before anything is opened.

        **Raises:** `UsageError`.
        """
        ...

    def read_weights(self, path: Path, trust: bool) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name."""
        ...

    def furnished(self, source: Source, data: str | None, image_size: int | None) -> Source:
        """The same source with its data, and with a workshop that trains and evaluates on them.

        **Raises:** `PodarError` where the data are missing or damaged, or do not fit the model.
        """
        ...

    def trace(self, model: nn.Module, inputs: ExampleInputs) -> Graph:
        """As `podar.trace`; the workshop knows which outputs must keep their shape."""
        ...

    def prune(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        target: str | None,
        options: Options,
        graph: Graph | None = None,
    ) -> Result:
        """As `podar.prune`, in place. `graph`: what `trace` found in the model as it is now; None: it is traced."""
        ...

    def figures(self, model: nn.Module, inputs: ExampleInputs) -> dict[str, int]:
        """What a summary should hold beside the costs of the graph."""
        ...

    def blocks(self, model: nn.Module) -> dict[str, str]:
        """Paths of the modules that the library numbers, in its order, and what it calls each."""
        ...

    def samples(self, model: nn.Module, seed: int) -> tuple[Iterable[tuple[Any, Any]] | None, Loss | None]:
        """Some training batches and the loss, for criteria that look at data; loss None is cross entropy."""
        ...

    def recalibrate(self, model: nn.Module) -> None:
        """Let batch norms see their new inputs after a cut, where the trainer does not begin with that."""
        ...

    def train(self, model: nn.Module, training: TrainingOptions) -> History:
        """Train in place."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Quality on the test data, under podar's names: `accuracy`, `map50`, …"""
        ...

    def evaluate_file(self, model: nn.Module, file: Path) -> dict[str, float]:
        """The same of a file that was written of the model; nothing where such files cannot be evaluated."""
        ...

    def pictures(self, dense: nn.Module, model: nn.Module, folder: Path) -> dict[str, list[dict[str, Any]]]:
        """Write test pictures into `folder/pictures`, and say how both models answer: what the report shows of them."""
        ...

    def export(self, model: nn.Module, inputs: ExampleInputs, *, folder: Path, stem: str, format: str) -> Exported:
        """Write `folder/stem` with the format's suffix, checked against the model."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the file that the model's library loads, beside podar's own, where it has one."""
        ...


@dataclass(frozen=True)
class Source:
    """What a model and its data are.

    **Attributes:**

    - `called`: MODEL as the user wrote it, for messages.
    - `spec`: plain JSON data from which `podar.sources.opening.open_source` builds the same dense architecture; a run's
      folder keeps it as source.json.
    - `make`: builds the model with the weights that belong to it (random ones where none do), in eval mode; every
      call makes an equal one.
    - `dense`: builds the architecture as it was before any pruning: what `podar.load` takes. It differs from `make`
      where the model comes from a folder that podar saved.
    - `example_inputs`: model → example inputs for it (tensor, tuple or dict of keyword arguments), batch size 1.
    - `workshop`: who trains, evaluates, prunes, exports and saves such models.
    - `task`: what such models do, where that is known: `classify`, `detect`, …; else "".
    - `data`: podar's own data set, in the shape that the model takes; None where none was named, or the library reads
      the data by itself.
    - `classes`: the names of the classes in the data.
    - `about_data`: one line about the data, for the report; "" where none were named.
    - `notes`: what the user should know, one sentence each: converted images, untrained weights.
    """

    called: str
    spec: dict[str, Any]
    make: Callable[[], nn.Module]
    dense: Callable[[], nn.Module]
    example_inputs: Callable[[nn.Module], ExampleInputs]
    workshop: Workshop
    task: str = ""
    data: Dataset | None = None
    classes: tuple[str, ...] = ()
    about_data: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def model(self) -> nn.Module:
        """The model, built when it is first asked for. It stays as it is: what changes a model takes `build()`."""
        return self.make()

    def build(self) -> nn.Module:
        """A model of one's own, equal to `model`."""
        try:
            return copy.deepcopy(self.model)
        except Exception:  # weights that are computed, locks, open files: what cannot be copied can be built again
            return self.make()

    def inputs(self) -> Any:  # an ExampleInputs; callers know of which kind
        """Example inputs for the model, the same ones every time."""
        return self._inputs

    @cached_property
    def _inputs(self) -> ExampleInputs:
        return self.example_inputs(self.model)

    @property
    def name(self) -> str:
        """A short name for tables and files, such as `resnet18`."""
        return short_name(self.called)

    @property
    def title(self) -> str:
        """The model and its data in a few words."""
        return self.name if self.data is None else f"{self.name} on {self.data.name}"

    def replaced(self, **fields: Any) -> Source:
        """The same source with other fields; a model that was built already stays, and is not built again."""
        other = replace(self, **fields)
        if "model" in vars(self) and "make" not in fields:
            vars(other)["model"] = self.model
        return other

    def changed(self, change: Callable[[nn.Module], nn.Module]) -> Source:
        """The same source with another model: what `change` makes of it, in place where it likes."""
        other = self.replaced(make=lambda: change(self.make()))
        if "model" in vars(self):
            vars(other)["model"] = change(self.model)
        return other


def needed(data: T | None) -> T:
    """The data that training and evaluation need.

    **Raises:** `PodarError` where none were named.
    """
    if data is None:
        raise PodarError("training and accuracy need a data set: name one with --data.")
    return data


def short_name(model: str) -> str:
    """MODEL in one word; a checkpoint of a run of Ultralytics is called like the run.

    ```python
    >>> [short_name(model) for model in ("timm:resnet18", "yolo26n.pt", "runs/drone/weights/best.pt")]
    ['resnet18', 'yolo26n', 'drone']

    ```
    """
    path = Path(model.rstrip("/").rpartition(":")[2])
    if path.suffix == ".pt" and path.parent.name == "weights" and path.parent.parent.name:
        return path.parent.parent.name  # RUN/weights/best.pt: all runs of Ultralytics have files of these names
    return path.stem if path.suffix in (".pt", ".yaml", ".yml") else path.name
