"""Copies of what a model holds, so that a run can change them: containers, small objects, functions that hold some."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import copyreg
import functools
import random
import re
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.graph.sizes import Size

ATOMIC = frozenset(
    {int, float, bool, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), type, range, slice}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, types.ModuleType, re.Pattern}
)
"""Types of objects that cannot change: a copy holds the same object."""

LIMIT = 20_000
"""How many objects an attribute of a module may lead to. More mean a trainer or a data set, which is not copied."""

FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose objects (threads, queues, loggers, C++ objects behind Python faces) are shared as they are."""

RANDOM = (random.Random, np.random.Generator, np.random.RandomState)


class TooMuch(Exception):
    """One attribute leads to more objects than anybody would copy."""


class Copies:
    """Copies objects, each once, however many hold it: like `copy.deepcopy`, but no code of the user's is run.

    What cannot be copied so (locks, open files, generators, objects with a way of copying or ending of their own) is
    shared. Modules and tensors are left to `module` and `tensor`, which a subclass brings.
    """

    def __init__(self) -> None:
        # By id: the original, which is held so that no other object gets its id, and its copy.
        self.memo: dict[int, tuple[Any, Any]] = {}
        self.left = LIMIT
        self.selective = False  # whether only objects are copied that lead to something that was copied before
        self._ways: dict[type, Callable[[Any], Any]] = {}
        self._globals: dict[int, dict[str, Any]] = {}

    def module(self, x: nn.Module) -> nn.Module:
        """The copy of a module that was not copied yet."""
        raise NotImplementedError

    def tensor(self, x: Tensor) -> Tensor:
        """The copy of a tensor that was not copied yet."""
        raise NotImplementedError

    def copy(self, x: Any) -> Any:
        """The copy of any object; an object that cannot change is its own copy."""
        kind = type(x)
        if kind in ATOMIC:
            return x
        known = self.memo.get(id(x))
        if known is not None:
            return known[1]
        if self.selective and not self.leads_to_copies(x):
            return x
        way = self._ways.get(kind)
        if way is None:
            way = self._ways[kind] = self._way(kind)
        self.left -= 1
        if self.left < 0:
            raise TooMuch
        return way(x)

    def within_limit(self, x: Any) -> Any:
        """The copy of an object that may lead anywhere. Where it leads to too many objects it is shared instead."""
        before, self.left = len(self.memo), LIMIT
        try:
            return self.copy(x)
        except (TooMuch, RecursionError):
            while len(self.memo) > before:
                self.memo.popitem()
            return x.copy() if type(x) in (dict, list, set) else x

    def keep(self, x: Any, made: Any) -> Any:
        """Remember the copy of an object, before what it holds is copied: that may lead back to it."""
        self.memo[id(x)] = (x, made)
        return made

    def _way(self, kind: type) -> Callable[[Any], Any]:
        """How objects of a type are copied."""
        ways: list[tuple[Any, Callable[[Any], Any]]] = [
            (nn.Module, self.module),
            (Tensor, self.tensor),
            (Size, int.__int__),
            ((Enum, type), _itself),
            (dict, self._dict),
            (list, self._list),
            (tuple, self._tuple),
            (set, self._set),
            (frozenset, self._frozenset),
            (deque, self._deque),
            (types.FunctionType, self._function),
            (types.MethodType, self._method),
            (types.BuiltinFunctionType, self._builtin),
            (functools.partial, self._partial),
            (weakref.ReferenceType, self._weak),
            ((weakref.ProxyType, weakref.CallableProxyType), self._proxy),
            (types.SimpleNamespace, self._instance),
            (torch.Generator, self._generator),
            (RANDOM, lambda x: self.keep(x, copy.deepcopy(x))),
            (np.ndarray, lambda x: self.keep(x, x.copy())),
        ]
        for kinds, way in ways:
            if issubclass(kind, kinds):
                return way
        return self._instance if _is_plain(kind) else _itself

    # Containers

    def _dict(self, x: dict[Any, Any]) -> Any:
        kind: Any = type(x)
        if kind is dict:
            items = x.copy()  # one call: another thread may be using the dictionary
            made = self.keep(x, items)
            if not (set(map(type, items.values())) | set(map(type, items))) <= ATOMIC:
                for key, value in list(items.items()):
                    own = self.copy(key)
                    if own is not key:
                        del made[key]
                    made[own] = self.copy(value)
            return made
        base: Any = OrderedDict if isinstance(x, OrderedDict) else dict
        try:
            made = self.keep(x, kind.__new__(kind))
        except Exception:
            return x
        if isinstance(x, defaultdict):
            made.default_factory = self.copy(x.default_factory)
        for key, value in list(x.items()) if kind is OrderedDict else list(dict.items(x)):
            base.__setitem__(made, self.copy(key), self.copy(value))
        return self._attributes(x, made)

    def _list(self, x: list[Any]) -> Any:
        made: Any = [] if type(x) is list else _blank(type(x))
        if made is None:
            return x
        self.keep(x, made)
        list.extend(made, map(self.copy, list(x)))
        return self._attributes(x, made)

    def _tuple(self, x: tuple[Any, ...]) -> Any:
        items = [self.copy(item) for item in x]
        known = self.memo.get(id(x))  # its items may lead back to it, and copied it then
        if known is not None:
            return known[1]
        if all(a is b for a, b in zip(items, x)):
            return x
        try:
            return self.keep(x, self._attributes(x, tuple.__new__(type(x), items)))
        except TypeError:  # results of torch's own functions cannot be made in this way
            return x

    def _set(self, x: set[Any]) -> Any:
        made = set[Any]() if type(x) is set else _blank(type(x))
        if made is None:
            return x
        self.keep(x, made)
        set.update(made, map(self.copy, x.copy()))
        return self._attributes(x, made)

    def _frozenset(self, x: frozenset[Any]) -> Any:
        items = [self.copy(item) for item in x]
        return x if type(x) is not frozenset or all(item in x for item in items) else self.keep(x, frozenset(items))

    def _deque(self, x: deque[Any]) -> Any:
        made = self.keep(x, deque[Any](maxlen=x.maxlen)) if type(x) is deque else None
        if made is None:
            return x
        made.extend(map(self.copy, list(x)))
        return made

    # What can be called

    def _function(self, x: types.FunctionType) -> Any:
        """The copy of a function: its closure, defaults and attributes hold copies."""
        held: list[Any] = [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values(), *vars(x).values()]
        cells = x.__closure__ or ()
        held += [cell.cell_contents for cell in cells if _is_filled(cell)]
        bare = all(type(h) in ATOMIC or (type(h) is types.FunctionType and _is_bare(h)) for h in held)
        if bare and id(x.__globals__) not in self._globals:
            return x
        own = tuple(self._cell(cell) for cell in cells) or None
        made = types.FunctionType(
            x.__code__, self._globals.get(id(x.__globals__), x.__globals__), x.__name__, None, own
        )
        self.keep(x, made)
        made.__qualname__, made.__module__, made.__doc__ = x.__qualname__, x.__module__, x.__doc__
        made.__defaults__, made.__kwdefaults__ = self.copy(x.__defaults__), self.copy(x.__kwdefaults__)
        vars(made).update(self.copy(vars(x).copy()))
        for cell in cells:
            if _is_filled(cell):
                self.memo[id(cell)][1].cell_contents = self.copy(cell.cell_contents)
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        known = self.memo.get(id(cell))
        return known[1] if known is not None else self.keep(cell, types.CellType())

    def _method(self, x: types.MethodType) -> Any:
        function, owner = self.copy(x.__func__), self.copy(x.__self__)
        return x if function is x.__func__ and owner is x.__self__ else types.MethodType(function, owner)

    def _builtin(self, x: Any) -> Any:
        """A method of a container, such as `found.append`."""
        owner = x.__self__
        if owner is None or isinstance(owner, (types.ModuleType, type)):
            return x
        own = self.copy(owner)
        return x if own is owner else getattr(own, x.__name__)

    def _partial(self, x: functools.partial[Any]) -> Any:
        func, args, kwargs = self.copy(x.func), self.copy(x.args), self.copy(x.keywords)
        known = self.memo.get(id(x))
        return known[1] if known is not None else self.keep(x, self._attributes(x, type(x)(func, *args, **kwargs)))

    # Objects

    def _weak(self, x: weakref.ReferenceType[Any]) -> Any:
        target = x()
        return weakref.ref(self.copy(target)) if isinstance(target, nn.Module) and type(x) is weakref.ref else x

    def _proxy(self, x: Any) -> Any:
        try:
            target = x.__reduce_ex__.__self__  # what a proxy stands for
        except ReferenceError:
            return x
        return weakref.proxy(self.copy(target)) if isinstance(target, nn.Module) else x

    def _generator(self, x: torch.Generator) -> torch.Generator:
        made = torch.Generator(x.device)
        made.set_state(x.get_state())
        return self.keep(x, made)

    def _instance(self, x: Any) -> Any:
        made = _blank(type(x))
        if made is None or not (getattr(x, "__dict__", None) or _slots(type(x))):
            return x  # it holds nothing that could change, and others may compare it by identity
        return self._attributes(x, self.keep(x, made))

    def _attributes(self, x: Any, made: Any) -> Any:
        """Give the copy of an object copies of its attributes."""
        own = getattr(x, "__dict__", None)
        if own:
            made.__dict__.update({key: self.copy(value) for key, value in own.copy().items()})
        for name in _slots(type(x)):
            if hasattr(x, name):
                object.__setattr__(made, name, self.copy(getattr(x, name)))
        return made

    # What users hand over to be called

    def rewired(self, x: Any) -> Any:
        """The same callable, except that it reaches the copies wherever the original reaches what was copied before.

        Containers that lead to no copy stay the same, so that its author finds in them what the callable wrote down.
        """
        root = x.func if isinstance(x, functools.partial) else x
        root = root.__func__ if isinstance(root, types.MethodType) else root
        if isinstance(root, types.FunctionType):
            self._replace_globals(root)
        self.selective, self.left = True, LIMIT
        try:
            return self.copy(x)
        finally:
            self.selective = False

    def leads_to_copies(self, x: Any) -> bool:
        """Whether something holds, at any depth, an object that was copied."""
        seen: set[int] = set()
        waiting = [x]
        while waiting and len(seen) < LIMIT:
            item = waiting.pop()
            if type(item) in ATOMIC or id(item) in seen:
                continue
            if id(item) in self.memo or (
                isinstance(item, types.FunctionType) and id(item.__globals__) in self._globals
            ):
                return True
            seen.add(id(item))
            waiting += _held(item)
        return False

    def _replace_globals(self, function: types.FunctionType) -> None:
        """Let the functions of one file find the copies under the names that its top level gave the originals."""
        names = function.__globals__
        behind = _functions_behind(function)
        used = {n for f in behind for n in _names(f.__code__)}
        known = {
            n: names[n] for n in used if isinstance(names.get(n), (nn.Module, Tensor)) and id(names[n]) in self.memo
        }
        if known:
            own = self._globals[id(names)] = names.copy()
            own.update({n: self.memo[id(v)][1] for n, v in known.items()})
            own.update({n: self._function(names[n]) for n in used if any(names.get(n) is f for f in behind)})


def _itself(x: Any) -> Any:
    return x


def _is_filled(cell: types.CellType) -> bool:
    try:
        return bool([cell.cell_contents])
    except ValueError:
        return False


def _is_bare(function: types.FunctionType) -> bool:
    return not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function))


def _blank(kind: Any) -> Any:
    """An object of a type with nothing in it, or None where only its own code can make one."""
    base: Any = next(b for b in kind.__mro__ if b in (object, dict, list, set, types.SimpleNamespace))
    try:
        return base.__new__(kind)
    except TypeError:
        return None


def _is_plain(kind: Any) -> bool:
    """Whether objects of a type are their attributes alone: no C++ inside, no way of copying of their own."""
    if kind.__module__.partition(".")[0] in FOREIGN or not kind.__flags__ & 1 << 9:
        return False
    if any(hasattr(kind, name) for name in ("__del__", "__deepcopy__", "__copy__", "__setstate__", "__next__")):
        return False
    ours = ("__reduce__", "__reduce_ex__", "__getstate__")
    return all(getattr(kind, name, None) is getattr(object, name, None) for name in ours)


def _slots(kind: Any) -> list[str]:
    return copyreg._slotnames(kind)  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _held(x: Any) -> Iterable[Any]:
    """What an object holds."""
    if isinstance(x, dict):
        return [*x.keys(), *x.values()]
    if isinstance(x, (list, tuple, set, frozenset, deque)):
        return list(x)
    if isinstance(x, types.FunctionType):
        cells = [c.cell_contents for c in x.__closure__ or () if _is_filled(c)]
        return [*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values(), *vars(x).values()]
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    if isinstance(x, functools.partial):
        return [x.func, x.args, x.keywords]
    foreign = type(x).__module__.partition(".")[0] in FOREIGN and not isinstance(x, nn.Module)
    return [] if foreign or isinstance(x, type) else list((getattr(x, "__dict__", None) or {}).values())


def _functions_behind(function: types.FunctionType) -> list[types.FunctionType]:
    """The functions of the same file that a call may reach by plain names, itself first."""
    found: dict[int, types.FunctionType] = {}
    waiting = [function]
    while waiting:
        item = waiting.pop()
        found[id(item)] = item
        reached = [item.__globals__.get(n) for n in _names(item.__code__)] + list(_held(item))
        waiting += [
            f
            for f in reached
            if isinstance(f, types.FunctionType) and f.__globals__ is item.__globals__ and id(f) not in found
        ]
    return list(found.values())


def _names(code: types.CodeType) -> set[str]:
    """The plain names that a function asks its file for, the functions inside it too."""
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)
