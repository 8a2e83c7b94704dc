"""Modes: each part has its own again, whatever happened in between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from podar.model.modes import modes_put_back


def test_each_part_has_its_own_mode_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.ReLU()))
    model[1].eval()
    before = [part.training for part in model.modules()]
    with pytest.raises(RuntimeError), modes_put_back(model):
        model.eval()
        raise RuntimeError
    assert [part.training for part in model.modules()] == before


def test_an_exported_program_stays_as_it_is() -> None:
    program = torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)).module()
    with modes_put_back(program):
        pass
    assert program(torch.ones(1, 2)).shape == (1, 2)
