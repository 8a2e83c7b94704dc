"""A trace changes nothing that another thread can see, whatever a model holds and does."""

from __future__ import annotations

import functools
import gc
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError

PICTURE = torch.zeros(1, 3, 8, 8)


def small() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


ENOUGH = 20
"""Looks of another thread; how many fit beside one piece of work depends on how busy the machine is."""


def meanwhile(look: Callable[[], object], work: Callable[[], object]) -> list[object]:
    """What `look` sees in a thread of its own while `work` is done in this one, as often as it takes to look enough."""
    seen: list[object] = []
    over = threading.Event()

    def looking() -> None:
        while not over.is_set():
            seen.append(look())

    thread = threading.Thread(target=looking)
    thread.start()
    try:
        work()
        while len(seen) <= ENOUGH and thread.is_alive():
            work()
    finally:
        over.set()
        thread.join()
    return seen


def traced(model: nn.Module, times: int = 8) -> None:
    for _ in range(times):
        graph = podar.trace(model, PICTURE)
        podar.plan(graph, "channels=0.5", model=model)


@pytest.mark.parametrize("train", [False, True])
def test_another_thread_goes_on_using_the_model(train: bool) -> None:
    model, x = small().eval(), torch.randn(2, 3, 8, 8)
    model[0].spare = nn.Parameter(torch.zeros(3))  # a run in train mode looks for what uses it
    if train:
        for part in model:
            part.training = not isinstance(part, (nn.BatchNorm2d, nn.Dropout2d))
    with torch.no_grad():
        wanted = model(x)
        seen = meanwhile(lambda: model(x), lambda: traced(model))
    assert len(seen) > ENOUGH and all(torch.equal(y, wanted) for y in seen if isinstance(y, Tensor))


def test_nothing_is_seen_to_change() -> None:
    model = small()
    model[0].spare = nn.Parameter(torch.zeros(3))  # a run in train mode looks for what uses it
    parts, own = list(model.modules()), [part.__dict__ for part in model.modules()]
    functions = dict(vars(functional))
    tensors = [*model.parameters(), *model.buffers(), PICTURE]

    def look() -> tuple[Any, ...]:
        return (
            [part.training for part in parts],
            [part.__dict__ is d for part, d in zip(parts, own)],
            [part.__dict__.get("_compiled_call_impl") for part in parts],
            [type(part.out_channels) for part in parts if isinstance(part, nn.Conv2d)],
            [list(vars(t)) for t in tensors],
            all(vars(functional)[name] is function for name, function in functions.items()),
            torch.backends.mha.get_fastpath_enabled(),
            torch.get_rng_state().sum().item(),
            torch.is_grad_enabled(),
            gc.isenabled(),
            vars(functional)["has_torch_function_unary"](PICTURE),
        )

    before = look()
    seen = meanwhile(look, lambda: traced(model))
    assert len(seen) > 5 and all(s == before for s in seen)


class Draws(nn.Module):
    """Draws numbers in every way that torch has."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.idle = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2)
        self.gru, self.generator = nn.GRU(8, 8, 2, dropout=0.5), torch.Generator().manual_seed(3)

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.fc(x)
        y = y + torch.rand(1) + torch.randn_like(y) + torch.rand(1, generator=self.generator)
        y = y * torch.empty(1).uniform_() + torch.randint(3, (1,)) + torch.randint_like(y, 3) + torch.rand_like(y)
        y = functional.dropout(y, 0.5) + functional.rrelu(y, training=True) + torch.bernoulli(torch.full((1,), 0.5))
        y = functional.alpha_dropout(y, 0.5, training=True) + torch.normal(torch.zeros(1), 1.0) + torch.randperm(1)[0]
        y = y + torch.multinomial(torch.ones(3), 1) + functional.gumbel_softmax(torch.zeros(1))
        y = self.gru(y)[0]
        q = y[None]
        return self.head(functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5)[0])


def test_random_numbers_of_others_are_not_touched() -> None:
    model: Any = Draws()
    torch.manual_seed(5)
    state, own = torch.get_rng_state(), model.generator.get_state()
    podar.trace(model, torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(model.generator.get_state(), own)
    wanted = torch.rand(4000)
    torch.manual_seed(5)
    drawn: list[Tensor] = []
    worker = threading.Thread(target=lambda: [podar.trace(model, torch.zeros(2, 4)) for _ in range(3)])
    worker.start()
    while worker.is_alive() and len(drawn) < 4000:
        drawn.append(torch.rand(1))
    worker.join()
    assert torch.equal(torch.cat(drawn), wanted[: len(drawn)])


def layouts(graph: podar.Graph) -> str:
    return f"{graph}\n{[g.members for g in graph.groups]}\n{graph.frozen}"


@pytest.mark.parametrize("same", [True, False])
def test_overlapping_traces_see_what_each_would_alone(same: bool) -> None:
    models = [small()] * 2 if same else [small(), nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))]
    wanted = [layouts(podar.trace(m, PICTURE)) for m in models]
    found: list[list[str]] = [[], []]

    def work(k: int) -> None:
        for _ in range(10):
            found[k].append(layouts(podar.trace(models[k], PICTURE)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[w] * 10 for w in wanted]


def test_a_trace_inside_a_trace() -> None:
    outer, inner = small(), small()
    wanted, found = layouts(podar.trace(inner, PICTURE)), list[str]()

    def run(model: nn.Module) -> Any:
        found.append(layouts(podar.trace(inner, PICTURE)))
        found.append(layouts(podar.trace(model, PICTURE)))
        return model(PICTURE)

    graph = podar.trace(outer, run)
    assert found == [wanted] * 2 and len(graph.groups) == 2


class Hidden(nn.Module):
    """Reaches its layers by every way but `self.layer`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        stem, head = self.stem, self.head

        @dataclass
        class Spec:
            layers: dict[str, tuple[nn.Module, ...]]

        def both(x: Tensor) -> Tensor:
            return head(stem(x).relu())

        ways: dict[str, Any] = {
            "list": [stem, head],
            "nested": {"parts": [(stem, {"last": head})]},
            "closure": both,
            "partial": functools.partial(lambda a, x, b: b(a(x).relu()), stem, b=head),
            "method": types.MethodType(lambda self, x: self.head(self.stem(x).relu()), self),
            "data": Spec({"all": (stem, head)}),
            "namespace": types.SimpleNamespace(stem=stem, head=head),
            "weak": weakref.ref(self),
            "proxy": weakref.proxy(self),
            "lock": [threading.Lock(), stem, head],
            "loop": [],
        }
        ways["loop"] += [stem, head, ways["loop"]]
        self.way = way
        self.__dict__["held"] = ways[way]  # a proxy of a module would pass for a child
        if way == "forward":
            self.__dict__["forward"] = self.held

    def forward(self: Any, x: Tensor) -> Tensor:
        held = self.held
        if self.way in ("closure", "partial", "method"):
            return held(x)
        if self.way in ("weak", "proxy"):
            own = held() if self.way == "weak" else held
            return own.head(own.stem(x).relu())
        if self.way == "nested":
            ((stem, last),) = held["parts"]
            return last["last"](stem(x).relu())
        if self.way in ("data", "namespace"):
            stem, head = held.layers["all"] if self.way == "data" else (held.stem, held.head)
            return head(stem(x).relu())
        stem, head = held[1:] if self.way == "lock" else held[:2]
        return head(stem(x).relu())


WAYS = ["list", "nested", "closure", "partial", "method", "data", "namespace", "weak", "proxy", "lock", "loop"]


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_found_by_whatever_way_a_forward_takes(way: str) -> None:
    model: Any = Hidden(way)
    called: list[object] = []
    model.stem.register_forward_hook(lambda m, i, o: called.append(o))
    result = podar.prune(model, PICTURE, "channels=0.5", scope="local")
    assert result.plan.cuts and model.stem.out_channels == 4
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 2, 6, 6)
    assert len(called) == 1  # the hooks of traces wrote into lists of their own


def test_a_forward_put_into_an_object_runs_on_the_twin() -> None:
    model: Any = small()
    original = model.forward
    model.forward = types.MethodType(lambda self, x: original(x) * self[7].bias.abs().max().new_ones(1), model)
    assert len(podar.trace(model, PICTURE).groups) == 2
    model.forward = lambda x: nn.Sequential.forward(model, x)
    assert len(podar.trace(model, PICTURE).groups) == 2


class Writes(nn.Module):
    """Writes to all that it can reach."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("count", torch.zeros(3))
        self.plain, self.what, self.seen = torch.zeros(3), what, {"n": [0]}
        self.state = types.SimpleNamespace(calls=0, last=None)

    def forward(self: Any, x: Any) -> Tensor:
        with torch.no_grad():
            if self.what == "data":
                self.fc.weight.data = self.fc.weight.data.clamp(-0.1, 0.1)
            elif self.what == "in place":
                self.fc.weight.clamp_(-0.1, 0.1)
            elif self.what == "at positions":
                self.fc.weight[0, torch.tensor([1])] = 7.0
                self.fc.weight.index_fill_(0, torch.tensor([1]), 3.0)
            elif self.what == "out":
                torch.add(self.fc.bias, 1, out=self.fc.bias)
            elif self.what == "input":
                x[0, torch.tensor([1])] = 9.0
                x.add_(1)
            elif self.what == "plain":
                self.plain.fill_(5)
                self.plain[torch.tensor([1])] = 6
            elif self.what == "buffer":
                self.count.fill_(1)
                functional.batch_norm(x, self.count.new_zeros(4), self.plain.new_ones(4), training=True)
            elif self.what == "statistics":
                functional.batch_norm(torch.randn(5, 8), self.fc.bias, self.fc.bias, training=True)
            elif self.what == "registered":
                self.register_buffer("late", torch.ones(2))
                self.fc.register_forward_hook(lambda *_: None)
                self.fc.register_parameter("scale", nn.Parameter(torch.ones(1)))
                self.late_layer = nn.ReLU()
        self.seen["n"][0] += 1
        self.state.calls += 1
        y = self.fc(x)
        self.state.last = y
        if self.what == "values" and y.sum() > 1e9:
            y = y * 2
        return self.head(y)


def contents(model: Any) -> str:
    hooks = [len(m._forward_hooks) for m in model.modules()]
    tensors = [(n, t.tolist()) for n, t in model.state_dict().items()]
    return repr((tensors, hooks, model.plain, model.seen, model.state, list(model.named_modules())))


WRITES = ["data", "in place", "at positions", "out", "input", "plain", "buffer", "statistics", "registered", "values"]


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("what", WRITES)
def test_what_a_forward_writes_stays_in_the_twin(what: str, real: bool) -> None:
    model: Any = Writes(what)
    x = torch.randn(2, 4)
    if real:
        model.head.register_forward_pre_hook(lambda m, i: (i[0] * (2 if bool(i[0].sum() > 1e9) else 1),))
    before, kept = contents(model), x.clone()
    seen = meanwhile(lambda: contents(model), lambda: podar.trace(model, x))
    assert set(seen) | {contents(model)} == {before} and torch.equal(x, kept)
    assert podar.trace(model, x).groups or what in ("out", "at positions", "statistics")  # these freeze


MODEL = small()


def helper() -> Any:
    return MODEL(PICTURE)


def test_a_callable_may_close_over_the_model_itself() -> None:
    model, calls = small(), list[int]()
    assert len(podar.trace(model, lambda m: (calls.append(1), model(PICTURE))[1]).groups) == 2
    assert calls == [1]  # its own list
    assert len(podar.trace(model, functools.partial(lambda a, b: a(PICTURE), model)).groups) == 2
    assert len(podar.trace(MODEL, lambda m: MODEL(PICTURE)).groups) == 2
    assert len(podar.trace(MODEL, lambda m: helper()).groups) == 2


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self: Any, x: Tensor) -> Tensor:
        return REGISTRY["model"].fc(x)


REGISTRY: dict[str, Any] = {}


def test_weights_that_are_reached_by_no_way_that_can_be_followed_are_refused() -> None:
    REGISTRY["model"] = model = Elsewhere()
    with pytest.raises(PodarError, match=r"by another way than through it"):
        podar.trace(model, torch.zeros(1, 4))


class Ends(nn.Module):
    """Closes something when it is gone."""

    closed: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.fc(x)

    def __del__(self) -> None:
        Ends.closed.append(1)


def test_the_end_of_a_twin_closes_nothing() -> None:
    model = Ends()
    podar.trace(model, torch.zeros(1, 4))
    assert not Ends.closed and model.fc.weight.shape == (4, 4)


def test_memory_of_a_twin_is_free_at_once() -> None:
    model: Any = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 2))
    model.forward = types.MethodType(nn.Sequential.forward, model)  # a cycle
    gc.disable()
    try:
        graph = podar.trace(model, torch.zeros(1, 7))
        alive = [t for t in gc.get_objects() if type(t) is nn.Parameter and t.shape == (11, 7)]
    finally:
        gc.enable()
    assert graph.groups and len(alive) == 1


def test_parameters_that_are_tied_or_derived_are_so_in_the_twin() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.out.weight = self.words.weight
            self.rnn = nn.LSTM(8, 8)
            self.register_buffer("one", torch.zeros(4))
            self.register_buffer("other", self.get_buffer("one")[:2])

        def forward(self: Any, x: Tensor) -> Tensor:
            self.one.fill_(1)
            assert self.other.tolist() == [1, 1] and self.out.weight is self.words.weight
            return self.out(self.rnn(self.words(x))[0])

    model: Any = Tied()
    assert podar.prune(model, torch.zeros(1, 3, dtype=torch.long), "channels=0.5", scope="local").plan.cuts
    assert model.out.weight is model.words.weight and model.one.tolist() == [0] * 4


def test_an_exception_leaves_the_thread_as_it_was() -> None:
    model: Any = small()
    model[4].forward = lambda x: (_ for _ in ()).throw(ValueError("no"))
    with pytest.raises(PodarError, match="no"):
        podar.trace(model, PICTURE)
    assert not torch.overrides._get_current_function_mode_stack()  # type: ignore[attr-defined]
    assert torch.is_grad_enabled() and not torch._C._len_torch_dispatch_stack()
