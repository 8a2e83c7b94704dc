"""Where the answer is among what a model returns."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from podar.errors import PodarError
from podar.model.outputs import main_output

LOGITS, FEATURES, MAPS = torch.zeros(2, 10), torch.zeros(2, 64), torch.zeros(2, 3, 4, 4)


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...] = (FEATURES,)


@dataclass
class Scores:
    features: Tensor
    scores: Tensor


Named = namedtuple("Named", "features logits")


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        (LOGITS,),
        [LOGITS, FEATURES],
        (MAPS, LOGITS),
        ((LOGITS, FEATURES), MAPS),
        {"features": FEATURES, "logits": LOGITS},
        {"anything": LOGITS},
        {"embedding": FEATURES, "y": LOGITS},
        {"maps": MAPS, "classes": LOGITS},
        OrderedDict(out=LOGITS, aux=FEATURES),
        Answer(torch.zeros(()), LOGITS),
        Scores(FEATURES, LOGITS),
        Named(FEATURES, LOGITS),
        SimpleNamespace(hidden=FEATURES, logits=LOGITS),
        (torch.zeros(2, 4, dtype=torch.long), LOGITS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_logits_are_found(outputs: Any) -> None:
    assert main_output(outputs) is LOGITS


def test_a_map_is_the_answer_where_nothing_has_two_axes() -> None:
    assert main_output(OrderedDict(out=MAPS, aux=MAPS.clone())) is MAPS


def test_names_that_say_nothing_are_not_guessed_among() -> None:
    with pytest.raises(PodarError, match="left, right, and none of these names"):
        main_output({"left": LOGITS, "right": FEATURES})


@pytest.mark.parametrize(
    "outputs", [None, {}, (), {"boxes": LOGITS}, {"loss": torch.zeros(())}, "text", [torch.zeros(3)]], ids=str
)
def test_no_tensor_of_logits(outputs: Any) -> None:
    with pytest.raises(PodarError, match="no tensor of logits"):
        main_output(outputs)
