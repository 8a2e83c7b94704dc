"""A ticket search: masks nest, weights rewind, controls differ in one thing each, a killed search goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.sparse.early_bird import EarlyBird
from podar.tickets import curve
from podar.tickets.controls import built_anew, random_masks
from podar.tickets.curve import TicketPoint

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
BATCHES = [(X[:32], (X[:32, 0] > 0).long()), (X[32:], (X[32:, 0] > 0).long())]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def test_masks_nest_and_weights_rewind() -> None:
    tickets = podar.find_ticket(build, BATCHES, rounds=3, amount=0.3, seeds=2, epochs=2, controls=["reinit", "random"])
    assert len(tickets.points) == 2 * (4 + 2 * 3)
    before = None
    for number in range(1, 4):
        masked = tickets.ticket(number, seed=1)
        torch.manual_seed(1)
        fresh = build()
        mask = masked.get_submodule("0").get_buffer("weight_mask").bool()
        assert torch.equal(masked.get_parameter("0.weight_orig"), fresh.get_parameter("0.weight"))
        assert before is None or bool((mask <= before).all())
        before = mask
        kept = 1 - podar.sparsity(masked).fraction
        assert kept == pytest.approx(0.7**number, abs=1 / 128)
    trained = tickets.ticket(3, seed=0, trained=True)
    podar.bake(trained)
    zeros = podar.sparsity(trained)
    assert 1 - zeros.fraction == pytest.approx(tickets.curve()[-1].density, abs=1e-6)
    assert [p.seeds for p in tickets.curve("random")] == [2, 2, 2, 2]
    assert podar.sparsity(tickets.model).fraction > 0


def test_rewinding_to_a_step_takes_the_weights_of_that_step() -> None:
    seen: dict[int, dict[str, Tensor]] = {}

    def train(model: nn.Module, after_step: object, start: int, seed: int, checkpoint: Path | None) -> None:
        for step in range(start, 5):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1 * (step + 1))
            after_step(step + 1, 5)  # type: ignore[operator]
            if start == 0 and step + 1 not in seen:
                seen[step + 1] = weights(model)

    tickets = podar.find_ticket(build, rounds=1, rewind=3, seeds=1, train=train, evaluate=lambda model: 0.5)
    ticket = tickets.ticket(1)
    assert torch.equal(ticket.get_parameter("0.weight_orig"), seen[3]["0.weight"])


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    count = [0]

    def judge(model: nn.Module) -> float:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return 0.5

    options = {"rounds": 3, "seeds": 1, "epochs": 1, "folder": tmp_path, "evaluate": judge}
    with pytest.raises(KeyboardInterrupt):
        podar.find_ticket(build, BATCHES, **options)
    resumed = podar.find_ticket(build, BATCHES, **options)
    assert count[0] == 5  # two before the kill, the one that was killed, and two more
    whole = podar.find_ticket(build, BATCHES, **{**options, "folder": None})
    for name, tensor in whole.ticket(3).state_dict().items():
        assert torch.equal(tensor, resumed.ticket(3).state_dict()[name]), name
    with pytest.raises(PodarError, match="another ticket search"):
        podar.find_ticket(build, BATCHES, **{**options, "amount": 0.5})


def test_controls_change_one_thing() -> None:
    masks = {"a": torch.rand(10, 10) < 0.3, "b": torch.rand(50) < 0.1}
    drawn = random_masks(masks, seed=3)
    for name, mask in masks.items():
        assert drawn[name].sum() == mask.sum() and not torch.equal(drawn[name], mask)
        assert torch.equal(drawn[name], random_masks(masks, seed=3)[name])

    def fixed() -> nn.Module:
        torch.manual_seed(9)
        return build()

    other = built_anew(fixed, 0)
    assert not torch.equal(other.get_parameter("0.weight"), fixed().get_parameter("0.weight"))


def test_the_early_bird_breaks_trainings_off_but_the_last() -> None:
    tickets = podar.find_ticket(build, BATCHES, rounds=2, seeds=1, epochs=20, lr=1e-5, early_bird=0.1)
    shares = {p.round: p.share for p in tickets.points}
    assert shares[0] < 0.5 and shares[1] < 0.5 and shares[2] == 1


def test_a_killed_early_bird_settles_where_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"rounds": 2, "seeds": 1, "epochs": 20, "lr": 0.02, "early_bird": 0.2}
    whole = podar.find_ticket(build, BATCHES, **options)
    look, count = EarlyBird.look, [0]

    def killed(bird: EarlyBird) -> bool:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return look(bird)

    monkeypatch.setattr(EarlyBird, "look", killed)
    with pytest.raises(KeyboardInterrupt):
        podar.find_ticket(build, BATCHES, folder=tmp_path, **options)
    resumed = podar.find_ticket(build, BATCHES, folder=tmp_path, **options)
    assert [p.share for p in resumed.points] == [p.share for p in whole.points]
    assert whole.points[0].share < 1


def test_smallest_density_is_within_one_standard_error_of_dense() -> None:
    def point(number: int, density: float, values: list[float]) -> list[TicketPoint]:
        return [TicketPoint(s, "ticket", number, density, v) for s, v in enumerate(values)]

    points = point(0, 1.0, [0.90, 0.92]) + point(1, 0.5, [0.905, 0.905]) + point(2, 0.25, [0.8, 0.9])
    assert curve.smallest_density(points, "ticket") == 0.5  # dense 0.91 ± 0.01
    assert curve.smallest_density(points, "reinit") == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 0},
        {"amount": 1.0},
        {"rewind": -1},
        {"controls": ["reinitialise"]},
        {"seeds": 0},
        {"rounds": 60},
        {"epochs": 0},
        {"early_bird": 2.0},
        {"rewind": 10_000},
        {"scope": "globl"},
    ],
)
def test_options_that_make_no_sense_are_said(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        podar.find_ticket(build, BATCHES, **{"seeds": 1, "epochs": 2, "rounds": 1, **options})
    assert "\n" not in str(caught.value)
