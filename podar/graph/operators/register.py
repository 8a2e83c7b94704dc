"""The declaration of an operator, and the register of all that are declared: whoever knows operators by name asks here.

A file of this folder declares the operators of one family. A file of the user's does it in the same way:

```python
@operator("my_ops::bias_act", shape=shapes.same, scales=ALL, zero=ALL)
def bias_act(tracer, out, x, bias, slope):
    tracer.equal(tracer.axis(x, 1), tracer.axis(bias, 0))
    tracer.put(out, tracer.blocks(x), zero=tracer.zero(x, bias))
```
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypedDict, TypeVar, Unpack

from podar.graph.operators import shapes

Rule = Callable[..., None]
Shape = Callable[..., Any]
Declared = TypeVar("Declared", bound=Rule)

Places = tuple[int, ...]
"""Of some of the arguments."""


class Passing(Enum):
    """Which of the tensors that enter must be zero for the result to be zero; or scaled, for it to be scaled alike."""

    FIRST = "the first one"
    ALL = "all of them; a number other than zero beside them is never zero or scaled"
    ANY = "any one of them; for scaling, the others must not hang on it"
    DIVIDEND = "the first one, on which the second must not hang"
    WEIGHT = "the only parameter among them"


class Flow(Enum):
    """What becomes of a statistic over an axis (a mean over channels) that enters an operator."""

    TAKEN = "the operator takes one itself, which may be a part of a norm"
    CARRIED = "the result is a statistic over that axis, too"
    TURNED = "the result is one over it"
    MET = "it meets other tensors index by index, which may make it a norm"


class Compared(Enum):
    """How the operators of a pruned model are compared with those of the dense one."""

    ALWAYS = "as they are"
    WITHOUT_COPIES = "left out: whether a copy is needed depends on strides, and it computes nothing"
    WITHOUT_LAYOUT = "left out where needed: of a width of 1 torch may reach the same layer by other views and products"


FIRST, ALL, ANY, DIVIDEND, WEIGHT = Passing.FIRST, Passing.ALL, Passing.ANY, Passing.DIVIDEND, Passing.WEIGHT
TAKEN, CARRIED, TURNED, MET = Flow.TAKEN, Flow.CARRIED, Flow.TURNED, Flow.MET


@dataclass(frozen=True, slots=True)
class Operator:
    """All that podar knows of one operator.

    **Attributes:**

    - `name`: that of torch's dispatcher, without "aten::"; operators of other libraries keep theirs ("my_ops::mix").
    - `rule`: `rule(tracer, out, *args, **kwargs)` labels the result and tells which axes go together. Without one the
      axes that enter are frozen.
    - `shape`: `shape(*args, **kwargs)` makes a result of the right shape and type, with no values in it. Without one,
      or where it returns NotImplemented, the operator is computed.
    - `zero`: which tensors must be zero for the result to be zero; a tuple holds their places among the arguments.
    - `scales`: which tensors must be multiplied by s for the result to be multiplied by s; a tuple likewise.
    - `statistic`: what becomes of a statistic that enters; None: nothing that a norm could be made of.
    - `counts`: its rule counts multiply-accumulates, so it is applied even where nothing that enters has labels.
    - `creates`: its rule labels the result by the sizes that were asked for, so the same holds.
    - `queries`: so many of its first tensors are queries and keys, of which its rule tells what makes them.
    - `unfilled`: the result holds whatever the memory held.
    - `reads`: the result (a number, or a tensor of a size that nobody knows beforehand) depends on values.
    - `masks`: the place of an argument that may be a mask, of which as many elements are taken as it has marks.
    - `position`: the place of a whole number that says where, not how many: another one gives other values.
    - `trains`: in training it writes to its arguments 3 and 4, where argument 5 is true, which its schema hides.
    - `whole`: a call from Python that is one operator, whatever else torch makes of it.
    - `direct`: so is one with tensors alone, which has the same name and arguments as the operator.
    - `arguments`: of such calls, names of the first arguments, which may be given by name.
    - `compared`: how verification compares it.
    - `like`: verification takes it for this other operator.
    - `base`: its name without the underscore of what is done in place.
    """

    name: str
    rule: Rule | None = None
    shape: Shape | None = None
    zero: Passing | Places | None = None
    scales: Passing | Places | None = None
    statistic: Flow | None = None
    counts: bool = False
    creates: bool = False
    queries: int = 0
    unfilled: bool = False
    reads: bool = False
    masks: int | None = None
    position: int | None = None
    trains: bool = False
    whole: bool = False
    direct: bool = False
    arguments: tuple[str, ...] = ()
    compared: Compared = Compared.ALWAYS
    like: str = ""
    base: str = ""


class Facts(TypedDict, total=False):
    """What a declaration may say of its operators: attributes of `Operator`."""

    shape: Shape | None
    zero: Passing | Places | None
    scales: Passing | Places | None
    statistic: Flow | None
    counts: bool
    creates: bool
    queries: int
    unfilled: bool
    reads: bool
    masks: int | None
    position: int | None
    trains: bool
    whole: bool
    direct: bool
    arguments: tuple[str, ...]
    compared: Compared
    like: str


OPERATORS: dict[str, Operator] = {}
"""All that are declared, by name."""


def operator(*names: str, in_place: bool = False, **facts: Unpack[Facts]) -> Callable[[Declared], Declared]:
    """Declare operators that have one rule and the same facts. Decorators may be stacked: what differs goes apart.

    **Arguments:**

    - `names`: names of operators; one string may hold several, apart by spaces.
    - `in_place`: `name_`, which writes its result into its first argument, is declared as well.
    - `facts`: attributes of `Operator`.

    **Returns:** A decorator of the rule, which stays as it is.

    **Raises:** `ValueError`: two files of podar declare an operator of the same name. A declaration of the user's takes
    the place of an earlier one.

    ```python
    @operator("relu", in_place=True, shape=shapes.same, zero=FIRST)
    def unary(tracer, out, x):
        tracer.put(out, tracer.blocks(x), zero=tracer.zero(x))
    ```
    """
    listed = " ".join(names).split()

    def declare(rule: Declared) -> Declared:
        for name in listed:
            one = Operator(name, rule, base=name, **facts)
            _add(one)
            if in_place:
                _add(replace(one, name=f"{name}_", shape=one.shape and shapes.in_place))
        return rule

    return declare


def _add(declared: Operator) -> None:
    known = OPERATORS.get(declared.name)
    if known is not None and all(r.__module__.startswith("podar.") for r in (known.rule, declared.rule) if r):
        raise ValueError(f"the operator {declared.name} is declared twice")
    OPERATORS[declared.name] = declared


def passes(passing: Passing | Places | None, given: Sequence[bool | None]) -> bool:
    """Whether the result has what some arguments have (zero, say); None stands for what is no tensor and no number."""
    if passing is None:
        return False
    if isinstance(passing, tuple):
        given = [given[k] for k in passing if k < len(given)]
    known = [g for g in given if g is not None]
    if passing is FIRST or not known:
        return bool(known) and known[0]
    return any(known) if passing is ANY else all(known)


def forget(*names: str) -> None:
    """Take declarations back, as tests do with operators of their own."""
    for name in names:
        del OPERATORS[name]
