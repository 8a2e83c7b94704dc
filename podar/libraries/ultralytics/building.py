"""Builds models of Ultralytics from checked configurations: nothing evaluated, layers of the user's own known."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError
from podar.libraries.ultralytics.activations import activation
from podar.libraries.ultralytics.bounds import bounded
from podar.libraries.ultralytics.configuration import checked, is_own, layer_class

# What the first and second argument of a layer are called where they are channels that come in and go out.
_IN = frozenset(
    "c1 c_in cin ch_in inp inps inplanes in_planes in_channels in_channel in_ch in_c in_dim in_features input_channels "
    "channels channel ch c dim planes num_channels nc_in embed_dim".split()
)
_OUT = frozenset(
    "c2 c_out cout ch_out oup oups outp outplanes out_planes out_channels out_channel out_ch out_c out_dim "
    "out_features output_channels".split()
)


def build(kind: type[nn.Module], config: Any, of: str, *, trust: bool = False, **arguments: Any) -> nn.Module:
    """Build a model of Ultralytics from a configuration, which is checked first.

    **Arguments:** `kind`: Ultralytics' class; `arguments`: of its constructor (`nc`, `ch`, `data_kpt_shape`).

    **Raises:** `PodarError` as `checked`, and where the model would be too large; what the constructor raises.
    """
    plain = checked(config, of, trust)
    named = plain.pop("activation", None)  # Ultralytics evaluates it, so it never sees it
    know_own_layers(plain)
    if _unusual(plain):
        _dry_run(partial(kind, copy.deepcopy(plain), verbose=False, **arguments), of)
    with _default_activation(named, of), bounded(of):
        built: Any = kind(copy.deepcopy(plain), verbose=False, **arguments)
    if named is not None:
        built.yaml["activation"] = named  # in the canonical form
    return built


def _unusual(config: dict[str, Any]) -> bool:
    """Whether a configuration's numbers are beyond what any of Ultralytics' own come near."""
    rows = (*config["backbone"], *config["head"])
    return sum(row[1] * max((abs(a) for a in row[3] if type(a) is int), default=0) ** 2 for row in rows) > 1 << 29


def _dry_run(make: Callable[[], Any], of: str) -> None:
    """Build without memory, so that what is too large is refused at once and not after minutes of drawing numbers."""
    try:
        with torch.device("meta"), bounded(of):
            make()
    except PodarError:
        raise
    except Exception:  # many a constructor looks at values, which are none here
        return


@contextmanager
def _default_activation(named: str | None, of: str) -> Iterator[None]:
    from ultralytics.nn.modules import Conv

    kept = Conv.default_act
    try:
        if named is not None:
            Conv.default_act = activation(named, of)  # type: ignore[assignment]
        yield
    finally:
        Conv.default_act = kept


def know_own_layers(config: dict[str, Any]) -> None:
    """From now on Ultralytics' parser knows the layers of the user's own that a checked configuration names."""
    from ultralytics.nn import tasks

    for _, _, name, _ in (*config["backbone"], *config["head"]):
        if is_own(name) and getattr(vars(tasks).get(name), "layer", None) is not layer_class(name):
            setattr(tasks, name, OwnLayer(layer_class(name)))


class OwnLayer:
    """Stands for a layer of the user's own in Ultralytics' parser, which would hand it the row's arguments alone.

    Where the layer takes the channels that come out, it counts as one of the parser's usual layers: these get the
    channels that come in, and those that go out at the model's scale, before their other arguments. Where it takes
    only those that come in, they are put before the row's arguments; where it takes neither, these are all.
    """

    def __init__(self, layer: Any) -> None:
        from ultralytics.nn.modules import SCDown

        self.layer, self.usual = layer, SCDown
        first, second = _channels(layer)
        self.takes_in, self.takes_out = first, first and second

    def __repr__(self) -> str:
        return f"<class '{self.layer.__module__}.{self.layer.__qualname__}'>"

    def __hash__(self) -> int:
        return hash(self.usual)

    def __eq__(self, other: object) -> bool:
        """Whether the parser shall take it for the usual layer; asked once a row, before it looks at its arguments."""
        if self is other or other is not self.usual:
            return self is other
        row, channels = _in_parser("args"), _width_before()
        if not self.takes_out or not row or not isinstance(row[0], int):
            return False
        if len(row) > 1 and type(row[1]) is int and channels in (row[0], _scaled(row[0])):
            if channels != _scaled(row[0]):  # both as they are
                if row[0] != row[1]:
                    raise PodarError(
                        f"{self.layer.__name__} is given the channels {row[0]} and {row[1]}, and the model's scale "
                        "would change the second: write the channels that go out alone, as they are before scaling."
                    )
                return False
            row.pop(0)  # [64, 128] says both: those that come in are put before the row in any case
        return True

    def __call__(self, *args: Any) -> Any:
        channels = _width_before()
        if self.takes_out and not args:
            args = (channels, channels)
        elif self.takes_in and not self.takes_out and channels is not None:
            said = bool(args) and type(args[0]) is int and channels in (args[0], _scaled(args[0]))
            args = (channels, *args[1:]) if said else (channels, *args)
        return self.layer(*args)


def _channels(layer: Any) -> tuple[bool, bool]:
    """Whether a layer's first argument is the channels that come in, and its second those that go out."""
    names = [p.name for p in inspect.signature(layer.__init__).parameters.values()][1:3]
    lower = [name.lower() for name in names]
    return bool(lower) and lower[0] in _IN, len(lower) > 1 and lower[1] in _OUT


def _width_before() -> int | None:
    """The channels that come into the row which Ultralytics' parser is at."""
    widths, source = _in_parser("ch"), _in_parser("f")
    return widths[source] if isinstance(widths, list) and isinstance(source, int) else None


def _scaled(channels: int) -> int:
    """Channels at the scale of the model that Ultralytics' parser is at."""
    width, most = _in_parser("width") or 1.0, _in_parser("max_channels") or math.inf
    return math.ceil(min(channels, most) * width / 8) * 8


def _in_parser(name: str) -> Any:
    """A variable of Ultralytics' parser, which hands its layers nothing but their arguments; None outside it."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "parse_model":
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get(name)
