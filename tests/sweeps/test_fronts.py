"""Fronts hold what nothing beats; a knee lies on its front, above the line between its ends, whatever the units."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podar.sweeps.fronts import front, knee

PLACES = st.lists(st.tuples(st.integers(1, 40).map(float), st.integers(0, 40).map(float)), min_size=1, max_size=12)


@given(PLACES)
def test_a_front_is_what_nothing_beats(places: list[tuple[float, float]]) -> None:
    own = front(places)
    for k, (cost, quality) in enumerate(places):
        better = [p for p in places if p[0] <= cost and p[1] >= quality and p != (cost, quality)]
        assert (not better) == any(places[at] == places[k] for at in own)
    costs, qualities = [places[at][0] for at in own], [places[at][1] for at in own]
    assert costs == sorted(set(costs)) and qualities == sorted(set(qualities))


@given(PLACES, st.sampled_from([1.0, 0.001, 1e6]), st.sampled_from([0.0, 7.0]))
def test_a_knee_does_not_hang_on_units(places: list[tuple[float, float]], scale: float, offset: float) -> None:
    at = knee(places)
    assert at == knee([(cost * scale, quality / 4 + offset) for cost, quality in places])
    if at is not None:
        own = front(places)
        (low, worst), (high, best) = places[own[0]], places[own[-1]]
        cost, quality = places[at]
        assert at in own[1:-1] and (quality - worst) * (high - low) > (cost - low) * (best - worst)


def test_a_straight_front_has_no_knee() -> None:
    assert knee([(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]) is None
    assert knee([(1.0, 1.0), (2.0, 2.0)]) is None
