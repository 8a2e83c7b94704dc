"""A twin of a model, to run in its place: modules and all that a run may change are new, weights share their memory.

Other threads may use the model meanwhile: nothing that they can see is changed. What the twin's forward sets,
registers, counts or caches stays in the twin. Only memory is the model's own, and a run that would write to it is
stopped (`Again`): it starts again on a twin that has copies of what is written.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.graph.tracing.copies import Copies
from podar.model.inputs import ExampleInputs, arguments
from podar.model.members import EVERY, Members, Named

plain_dispatch = torch._C._disabled_torch_dispatch_impl  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


@dataclass(frozen=True)
class Own:
    """What a twin has copies of in addition. Copying takes time, and nearly no forward needs it.

    **Attributes:**

    - `storages`: memory that the run writes to.
    - `containers`: modules have hooks, buffers and children of their own even where they have none yet.
    """

    storages: frozenset[int] = frozenset()
    containers: bool = False


class Again(BaseException):
    """The run starts again on a twin with more copies. No `except Exception` in the model may hide that."""

    def __init__(self, storages: frozenset[int] = frozenset(), containers: bool = False) -> None:
        super().__init__("the model changes its weights, its inputs or its own structure")
        self.storages, self.containers = storages, containers


def _shut(*_: Any, **__: Any) -> Any:
    raise Again(containers=True)


SHUT: dict[str, Any] = dict.fromkeys(
    "__setitem__ __delitem__ __ior__ update setdefault pop popitem clear".split(), _shut
)
"""All modules share one empty container of each kind. A forward that writes to one raises `Again`: the next twin then
has containers of its own for every module."""

NO_HOOKS: Any = type("NoHooks", (OrderedDict,), SHUT)()
NOTHING: Any = type("Nothing", (dict,), SHUT)()
HOOKS = tuple(key for key in nn.Module().__dict__ if key.startswith("_forward_"))
TREE = ("_parameters", "_buffers", "_modules")
CONSTANT = frozenset((int, float, bool, str, type(None)))
CLONE: Any = getattr(torch, "_foreach_clone", None)


class Twin(Copies):
    """A twin of a model and of its example inputs.

    **Attributes:**

    - `model`: what to run.
    - `modules`: each of its modules once, under the first name that the original has in the model.
    - `tensors`: its parameters and buffers, under all names of the originals.
    - `inputs`: what to run it on.
    """

    def __init__(self, members: Members, inputs: ExampleInputs, train: bool, own: Own = Own()) -> None:
        super().__init__()
        self.train, self.own = train, own
        self.storages: dict[int, Any] = {}  # by storage of an original tensor: the copy of that storage
        self.aliases: list[Tensor] = []
        self.inside: list[Any] = []
        self.shared: list[Tensor] = []  # tensors of kinds that allow no other tensor over the same memory
        self.ending: dict[type, bool] = {}  # whether modules of a type do something when they end
        self.originals = members.tensors
        self.bare = {**dict.fromkeys(HOOKS, NO_HOOKS), "training": train, "_compiled_call_impl": None}
        with torch.no_grad():
            self._parameters(members)
            self._buffers(members)
            self.modules: Named = [(name, self._empty(module)) for name, module in members.once]
            for (_, module), (_, made) in zip(members.once, self.modules):
                self._fill(module, made)
            self.model: Any = self.modules[0][1]
            given = arguments(inputs)
            if given is None:
                self.inputs: Any = self.rewired(inputs)
            else:
                self.inputs = self.copy(given[1] if isinstance(inputs, Mapping) else given[0])
        self.tensors: dict[str, Tensor] = {name: self.memo[id(t)][1] for name, t in self.originals.items()}

    def change(self, how: Callable[[nn.Module], None]) -> None:
        """Let a function change the modules and tensors that the twin has."""
        how(self.model)
        members = Members(self.model)
        self.modules, self.tensors = members.once, members.tensors

    @cached_property
    def borrowed(self) -> set[int]:
        """Storages that are the user's."""
        return {_storage(t) for t in self.aliases if t.layout is torch.strided}

    def is_original(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the user's own model, of which the twin has another."""
        known = self.memo.get(id(tensor))
        return known is not None and known[1] is not tensor and id(tensor) in self._registered

    @cached_property
    def _registered(self) -> set[int]:
        return set(map(id, self.originals.values()))

    def close(self) -> None:
        """Empty all that the twin holds. Its modules may refer to each other in circles, and their memory must not wait
        until Python's collector finds them.
        """
        for module in self.inside:
            if self.ending[type(module)]:  # its __del__ would end what the model goes on using
                object.__setattr__(module, "__class__", nn.Module)
            module.__dict__.clear()
        for held in (self.memo, self.storages, self._ways, self._globals, self.aliases, self.shared, self.inside):
            held.clear()
        self.modules, self.tensors, self.originals = [], {}, {}
        self.model = self.inputs = None

    # Modules

    def module(self, x: nn.Module) -> nn.Module:
        """A module that is not in the tree (one in a plain list, say): its state must be its own all the same."""
        made = self._empty(x)
        self._fill(x, made)
        return made

    def _empty(self, module: nn.Module) -> Any:
        """A module of the same type that holds nothing yet."""
        kind = type(module)
        try:
            made = object.__new__(kind)
        except TypeError as error:
            raise PodarError(f"a module of type {kind.__name__} cannot be traced: {error}") from error
        if kind not in self.ending:
            self.ending[kind] = hasattr(kind, "__del__")
        self.inside.append(made)
        self.memo[id(module)] = (module, made)
        return made

    def _fill(self, module: nn.Module, made: nn.Module) -> None:
        """Give the twin of a module its attributes. A model has hundreds of modules, so this is written for speed."""
        memo = self.memo
        own = module.__dict__.copy()
        for key in own.keys() - EVERY:
            value = own[key]
            kind = type(value)
            if kind in CONSTANT:
                continue
            if (kind is tuple or kind is list) and CONSTANT.issuperset(map(type, value)):  # sizes, mostly
                if kind is list:
                    known = memo.get(id(value))
                    own[key] = self.keep(value, value.copy()) if known is None else known[1]
                continue
            own[key] = self.within_limit(value)
        for key in TREE:
            if held := own[key]:
                own[key] = tree = {}
                for name, value in held.copy().items():
                    known = memo.get(id(value))
                    tree[name] = known[1] if known is not None else self.copy(value)
            else:
                own[key] = NOTHING
        hooked = own["_forward_hooks"] or own["_forward_pre_hooks"]
        hooks = {key: self.copy(held) for key in HOOKS if (held := own.get(key))} if hooked else {}
        own.update(self.bare, **hooks)
        if self.own.containers:
            for key, value in own.items():
                if key in EVERY and isinstance(value, (dict, set)):
                    own[key] = {} if value is NOTHING else OrderedDict() if value is NO_HOOKS else value.copy()
        object.__setattr__(made, "__dict__", own)

    # Tensors

    def _parameters(self, members: Members) -> None:
        """Alias the plain parameters. A model has hundreds of them, so this loop is written for speed."""
        if self.own.storages:
            return
        memo, aliases, alias = self.memo, self.aliases, torch.Tensor._make_subclass  # pyright: ignore[reportPrivateUsage]
        for p in members.parameters.values():
            if type(p) is nn.Parameter:
                made = alias(nn.Parameter, p, p.requires_grad)
                if p.__dict__:
                    self._dressed(p, made)
                memo[id(p)] = (p, made)
                aliases.append(made)

    def _buffers(self, members: Members) -> None:
        """Copy the buffers, the many small ones in one call."""
        buffers = members.buffers
        plain = {id(b): b for b in buffers.values() if type(b) is Tensor and _is_simple(b)}
        if len(plain) < len(buffers):
            joint = {_storage(b) for b in buffers.values() if id(b) not in plain and b.layout is torch.strided}
            plain = {key: b for key, b in plain.items() if _storage(b) not in joint}
        if plain:
            originals = list(plain.values())
            copies = CLONE(originals) if CLONE is not None else [t.clone() for t in originals]
            self.memo.update([(id(b), (b, made)) for b, made in zip(originals, copies)])
            for b, made in zip(originals, copies):
                if b.__dict__:
                    self._dressed(b, made)
        if len(plain) < len(buffers):
            for b in buffers.values():
                if id(b) not in self.memo:
                    self.keep(b, self._dressed(b, made := self._anew(b)))
                    if made is b:
                        self.shared.append(b)

    def tensor(self, x: Tensor) -> Tensor:
        """Another tensor over the same memory, or over a copy of it where that will be written to."""
        strided = x.layout is torch.strided and not x.is_meta
        if self.own.storages and strided and _storage(x) in self.own.storages:
            return self.keep(x, self._dressed(x, self._anew(x)))
        made = _alias(x)
        (self.shared if made is x else self.aliases).append(made)
        return self.keep(x, self._dressed(x, made))

    def _anew(self, x: Tensor) -> Tensor:
        """A copy, which shares memory with the copies of what x shares memory with; x itself where none can be made."""
        if x.is_meta:
            return _alias(x)
        if x.layout is not torch.strided or x.is_quantized or type(x) not in (Tensor, nn.Parameter):
            try:
                return _of_kind(x, x.detach().clone())
            except Exception:
                return x
        memory = x.untyped_storage()
        copied = self.storages.get(_storage(x))
        if copied is None:
            copied = self.storages[_storage(x)] = memory.clone()
        made = torch.empty(0, dtype=x.dtype, device=x.device)
        made.set_(copied, x.storage_offset(), x.size(), x.stride())  # pyright: ignore[reportArgumentType]
        return _of_kind(x, made)

    def _dressed(self, x: Tensor, made: Tensor) -> Tensor:
        """Give a copied tensor the attributes that somebody set on the original, except the marks of other traces."""
        own = vars(x)
        if own and made is not x:
            vars(made).update({k: v for k, v in own.items() if k != "_podar_mark"})
        return made


def _is_simple(x: Tensor) -> bool:
    return x.layout is torch.strided and not (x._is_view() or x.is_quantized or x.is_meta)


def _alias(x: Tensor) -> Tensor:
    """Another tensor of the same kind over the same memory; itself where its kind allows no other."""
    kind = type(x)
    if kind is Tensor:
        return x.detach()
    if kind is nn.Parameter or getattr(kind, "__torch_dispatch__", None) is plain_dispatch:
        return torch.Tensor._make_subclass(kind, x, x.requires_grad)  # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(Exception):
        return _of_kind(x, x.detach())
    return x


def _of_kind(x: Tensor, made: Tensor) -> Tensor:
    """The new tensor as a parameter where x is one."""
    if type(made) is not type(x):
        made = torch.Tensor._make_subclass(type(x), made, x.requires_grad)  # pyright: ignore[reportPrivateUsage]
    elif isinstance(x, nn.Parameter) and not isinstance(made, nn.Parameter):
        made = nn.Parameter(made, requires_grad=x.requires_grad)
    return made


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


@contextlib.contextmanager
def twin(
    members: Members,
    inputs: ExampleInputs,
    *,
    train: bool = False,
    own: Own = Own(),
    change: Callable[[nn.Module], None] | None = None,
) -> Generator[Twin]:
    """A twin of the model in evaluation (or training) mode, for as long as the context lasts.

    **Arguments:**

    - `own`: what the twin has copies of, beyond what is always its own.
    - `change`: what is done to the twin before anything else.
    """
    made = Twin(members, inputs, train, own)
    try:
        if change is not None:
            made.change(change)
        yield made
    finally:
        made.close()
