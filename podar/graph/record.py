"""What one trace writes down: every operator with its shapes and labels, and the relations that its rules told."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from podar.graph.labels import Ids, Labels
from podar.graph.sizes import Provenance
from podar.plans.plan import Computed

Block = tuple[tuple[int, ...], Ids]
"""Tensor dimensions, in nesting order, and the labels over them: shape = the sizes of those dimensions."""

Blocks = tuple[Block, ...]

Makers = tuple[str, ...]
"""Names of the parameters that make a tensor: multiplying all of them multiplies it. Empty where none are known."""


class Step(NamedTuple):
    """One operator of the trace: what verification compares, and what memory planning needs."""

    name: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: tuple[Blocks, ...]
    constants: tuple[float, ...]  # numbers that it computes with
    contents: tuple[float, ...]  # those in small tensors that hang on no parameter and no input
    reads: tuple[int, ...]  # storages, by number
    writes: tuple[tuple[int, int], ...]  # (storage, bytes) allocated here


class Form(NamedTuple):
    """A convolution or linear layer as it was called: what a runtime that is to compute one like it must know.

    `settings` of a convolution are stride, padding, dilation, whether it is transposed, output padding and groups; a
    linear layer has none. `into` and `out_of` are the labels of its input and output channels.
    """

    input: tuple[int, ...]
    weight: tuple[int, ...]
    settings: tuple[Any, ...]
    into: Ids | None
    out_of: Ids | None


class Product(NamedTuple):
    """Multiply-accumulates of one operator: `macs` in the dense model, in proportion to each axis in `axes`.

    `step` is its place among the steps of the trace; `form` is None of what is no convolution or linear layer.
    """

    module: str
    macs: int
    axes: tuple[Ids, ...]
    step: int
    form: Form | None


class Attention(NamedTuple):
    """One attention without `scale`: the axis whose size sets it, and the parameters that make its queries and keys."""

    module: str
    inner: Ids
    makers: tuple[Makers, ...]


class Decision(NamedTuple):
    """What the model read from its activations: by which operator of which module, from tensors of which shapes."""

    operator: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    value: Any


@dataclass(frozen=True)
class Norm:
    """A statistic over an axis that was subtracted from values, or that divided them.

    **Attributes:**

    - `over`: labels of the axis that the statistic was taken over.
    - `met`: labels of the axes of those values.
    - `why`: the reason for freezing `over` if it turns out to be none of these axes.
    """

    over: Ids
    met: tuple[Ids, ...]
    why: str


class Training(NamedTuple):
    """A run in train mode, which met what evaluation does not use."""

    steps: list[Step]
    decisions: list[Decision]
    real: bool
    broken: str | None = None  # why it came to no end


@dataclass
class Record:
    """All that one trace learned; `podar.graph.graph` makes the Graph of it."""

    labels: Labels = field(default_factory=Labels)
    sizes: Provenance = field(default_factory=Provenance)
    layouts: dict[str, dict[int, Ids]] = field(default_factory=dict)  # labels of every parameter, by dimension
    steps: list[Step] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    scales: list[Attention] = field(default_factory=list)
    spilled: list[tuple[Makers, Blocks]] = field(default_factory=list)  # what else reads the products of these makers
    ties: list[tuple[Ids, ...]] = field(default_factory=list)  # axes that lose equally many indices
    outputs: list[tuple[str, Blocks]] = field(default_factory=list)
    real: bool = False  # whether operators had to be computed
    decisions: list[Decision] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    computed: dict[str, Computed] = field(default_factory=dict)  # parameters that weights are made of
    least: list[tuple[Ids, int]] = field(default_factory=list)  # axes of which more than one index must stay
    met: set[str] = field(default_factory=set)  # parameters that some operator was given
    training: Training | None = None  # what a run in train mode told, where one was needed

    def forked(self) -> Record:
        """A record that goes on from here, while this one stays as it is."""
        fork = copy.copy(self)
        for key, value in vars(self).items():
            if isinstance(value, (list, dict, set)):
                setattr(fork, key, value.copy())
        fork.layouts = {name: dims.copy() for name, dims in self.layouts.items()}
        for held in ("labels", "sizes"):
            own = copy.copy(getattr(self, held))
            for key, value in vars(own).items():
                if isinstance(value, (list, dict, set)):
                    setattr(own, key, value.copy())
            setattr(fork, held, own)
        return fork
