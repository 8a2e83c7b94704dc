"""transformers models from local folders, with and without weights, for text and for pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from podar.errors import PodarError
from podar.libraries import find
from podar.libraries.transformers import open_model
from podar.model.inputs import call

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def save(folder: Path, kind: str, weights: bool = True, **config: Any) -> str:
    """Make a tiny model of a class of transformers and save it, or its configuration alone."""
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**TINY, **config))
    if weights:
        model.save_pretrained(folder)
    else:
        model.config.architectures = [kind]
        model.config.save_pretrained(folder)
    return f"transformers:{folder}"


@pytest.mark.parametrize(
    ("kind", "config", "keys"),
    [
        ("BertForSequenceClassification", {"vocab_size": 50}, {"input_ids", "attention_mask"}),
        ("LlamaForCausalLM", {"vocab_size": 50, "num_key_value_heads": 2}, {"input_ids", "attention_mask"}),
        ("ViTForImageClassification", {"image_size": 32, "patch_size": 8}, {"pixel_values"}),
    ],
)
def test_models_come_back_with_their_weights(tmp_path: Path, kind: str, config: dict[str, Any], keys: set[str]) -> None:
    source = open_model(save(tmp_path, kind, **config), {}, False)
    model = source.make()
    assert type(model).__name__ == kind
    saved = getattr(transformers, kind).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.parameters()))
    inputs = source.inputs()
    assert set(inputs) == keys
    assert "past_key_values" not in call(model, inputs)
    assert not source.notes  # which would say that the weights are random


def test_a_configuration_alone_gives_random_weights_and_takes_arguments(tmp_path: Path) -> None:
    name = save(tmp_path, "ViTForImageClassification", weights=False, image_size=32, patch_size=8)
    source = open_model(name, {"num_classes": 7, "num_hidden_layers": 1}, False)
    model = source.make()
    assert call(model, source.inputs()).logits.shape == (1, 7)
    assert "random weights" in source.notes[0]


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    model = transformers.BertModel(
        transformers.BertConfig(hidden_size=32, num_attention_heads=4, vocab_size=50)
    ).bfloat16()
    model.save_pretrained(tmp_path)
    assert {p.dtype for p in open_model(f"transformers:{tmp_path}", {}, False).make().parameters()} == {torch.float32}


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="does not exist"):
        open_model(f"transformers:{tmp_path / 'none'}", {}, False)
    with pytest.raises(PodarError, match=r"holds no config\.json"):
        open_model(f"transformers:{tmp_path}", {}, False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PodarError, match=r"config\.json cannot be read: it is no JSON"):
        open_model(f"transformers:{tmp_path}", {}, False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(PodarError, match="cannot be built: .*no_such_type"):
        open_model(f"transformers:{tmp_path}", {}, False).make()


def test_code_in_the_folder_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(PodarError, match="its own Python code, which podar runs only with --trust"):
        open_model(f"transformers:{tmp_path}", {}, False)


def test_an_unknown_argument_is_named(tmp_path: Path) -> None:
    name = save(tmp_path, "BertModel", weights=False, vocab_size=50)
    with pytest.raises(PodarError, match="has no field 'hiden_size'"):
        open_model(name, {"hiden_size": 3}, False).make()


def test_completion_finds_folders_with_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    kind = find("transformers:x")
    assert kind is not None
    assert list(kind.complete(f"transformers:{tmp_path}/")) == [f"transformers:{tmp_path}/bert"]
