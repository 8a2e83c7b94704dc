"""Models under wrappers are cut like models without, and what stands around them goes on working."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import podar
from podar.errors import PodarError
from podar.model.wrappers import bare, prefix

# torch.compile imports a part of torch that is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*script_method:DeprecationWarning", "ignore:`broadcast_buffers` is deprecated:FutureWarning"
)

IMAGES = torch.randn(4, 3, 8, 8)
PLAIN = "0.weight"


def build() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # pyright: ignore


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


WRAPPERS: list[tuple[str, Callable[[nn.Module], nn.Module]]] = [
    ("module.", nn.DataParallel),
    ("module.", DistributedDataParallel),
    ("_orig_mod.", compiled),
    ("", compiled_in_place),
    ("module._orig_mod.", lambda model: DistributedDataParallel(compiled(model))),
    ("module.module.", lambda model: AveragedModel(DistributedDataParallel(model))),
]


def trained(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(IMAGES).square().mean().backward()
        assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
        optimizer.step()
    return model.eval()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(("before", "wrap"), WRAPPERS)
@pytest.mark.parametrize("used", [False, True])
def test_what_stands_around_a_model_goes_on_working(
    before: str, wrap: Callable[[nn.Module], nn.Module], used: bool, tmp_path: Path
) -> None:
    wanted = podar.prune(build(), IMAGES, "channels=0.5", scope="local")
    model = wrap(build())
    if used:
        model(IMAGES)
    result = podar.prune(model, IMAGES, "channels=0.5", scope="local")
    assert result.model is model and result.plan == wanted.plan and prefix(model) == before
    assert result.removed.keys() == {before + name for name in wanted.removed}
    names = [n for n, _ in model.named_parameters()]
    assert all(torch.equal(result.removed_mask(n), wanted.removed_mask(n.removeprefix(before))) for n in names)
    assert torch.equal(result.removed_mask(PLAIN), wanted.removed_mask(PLAIN))
    with torch.no_grad():
        assert torch.allclose(model(IMAGES), wanted.model(IMAGES), atol=1e-6)
    trained(model)
    loaded = podar.load(podar.save(model, tmp_path / "x"), build)
    with torch.no_grad():
        assert torch.allclose(loaded(IMAGES), model(IMAGES), atol=1e-5)
    assert podar.prune(model, IMAGES, "channels=0.5", scope="local").after.params < result.after.params


@pytest.mark.usefixtures("one_process")
def test_other_verbs_look_through_wrappers() -> None:
    model = DistributedDataParallel(build())
    graph = podar.trace(model, IMAGES)
    assert [g.name for g in graph.groups] == ["0", "3"]
    scores = podar.criteria.score("magnitude", model)
    plan = podar.plan(graph, "channels=0.5", scores=scores, scope="local")
    masked = podar.mask(copy.deepcopy(model.module), plan)
    with torch.no_grad():
        assert torch.allclose(podar.apply(model, plan)(IMAGES), masked(IMAGES), atol=1e-6)
    plain = build()
    assert podar.apply(plain, plan) is plain
    assert podar.prune(nn.DataParallel(build()), lambda m: m(IMAGES), "macs=0.5", data=[IMAGES]).model is not None


def counting(sizes, bucket):  # annotated, torch would check the types
    """A hook of DistributedDataParallel that writes down how large each bucket is."""
    sizes.append(bucket.buffer().numel())
    future: Any = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("way", ["prune", "apply", "refused"])
def test_gradients_are_added_up_over_processes_as_before(way: str) -> None:
    """Torch forgets who listens to a parameter whose shape changes: no sum over processes, and not a word."""
    sizes: list[int] = []
    model = DistributedDataParallel(build(), find_unused_parameters=True, bucket_cap_mb=3, broadcast_buffers=False)
    model.register_comm_hook(sizes, counting)
    model.module[1].train()  # pyright: ignore
    modes = [m.training for m in model.modules()]
    plan = podar.plan(podar.trace(model, IMAGES), "channels=0.5", scope="local")
    if way == "refused":

        def spoil(m: nn.Module) -> Tensor:
            if next(iter(m.parameters())).shape[0] != 8:
                raise RuntimeError("too narrow")
            return m(IMAGES)

        with pytest.raises(PodarError, match="too narrow"):
            podar.prune(model, spoil, "channels=0.5")
    elif way == "prune":
        podar.prune(model, IMAGES, "channels=0.5", scope="local")
    else:
        podar.apply(model, plan)
    assert [m.training for m in model.modules()] == modes
    assert model.find_unused_parameters and not model.broadcast_buffers and model.bucket_bytes_cap == 3 * 2**20
    sizes.clear()
    trained(model)
    assert sum(sizes) == 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, compiled_in_place])
def test_parts_may_be_wrapped_too(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wanted = podar.prune(build(), IMAGES, "channels=0.5", scope="local").model
    model: Any = build()
    model[3] = wrap(model[3])
    podar.prune(model, IMAGES, "channels=0.5", scope="local")
    with torch.no_grad():
        assert torch.allclose(model(IMAGES), wanted(IMAGES), atol=1e-6)
    trained(model)


def test_sharded_models_are_refused_with_what_to_do() -> None:
    class FSDPModule(nn.Sequential):
        pass

    with pytest.raises(PodarError, match="prune the model first, then shard it"):
        podar.prune(FSDPModule(build()), IMAGES, "channels=0.5")


def test_a_model_without_wrappers_is_bare() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build()
        assert bare(model) is model and prefix(model) == ""
