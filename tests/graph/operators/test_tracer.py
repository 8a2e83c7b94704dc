"""A rule registered from outside: docs/rules.md is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import podar
from podar.graph.operators.register import OPERATORS, forget
from tests.graph.oracle import difference

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"


def test_the_page_on_rules_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    try:
        exec(blocks[0].replace("from __future__", "#"), names)
        model = names["Stylish"]()  # type: ignore[operator]
        frozen = podar.trace(model.eval(), torch.zeros(1, 3, 8, 8)).frozen
        assert any("no rule for the operator my_ops::bias_act" in why for _, _, why in frozen)
        for block in blocks[1:]:
            exec(block, names)
        worst, _ = difference(
            names["Stylish"],  # type: ignore[arg-type]
            torch.zeros(1, 3, 8, 8),
            lambda m, x: podar.prune(m, x, "channels=0.5"),
        )
        assert worst < 1e-9
    finally:
        if "my_ops::bias_act" in OPERATORS:
            forget("my_ops::bias_act")
