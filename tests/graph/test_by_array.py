"""A function of an array that is computed once for each array, whatever Python does with `id`s."""

from __future__ import annotations

import numpy as np

from podar.graph.by_array import ByArray


def test_an_array_that_died_gives_its_answer_to_no_other() -> None:
    total = ByArray(lambda ids: int(ids.sum()))
    for number in range(200):  # without being held, most of these would have one `id`
        assert total(np.full(3, number)) == 3 * number


def test_each_array_is_looked_at_once() -> None:
    seen: list[int] = []
    size = ByArray(lambda ids: seen.append(ids.size) or ids.size)
    ids, other = np.arange(4), np.arange(4)
    assert [size(ids), size(ids), size(other)] == [4, 4, 4] and seen == [4, 4]
    size.set(other, 9)
    assert size(other) == 9
