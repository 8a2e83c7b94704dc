"""transformers models from local folders, with and without weights, for text and for pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from podar.errors import PodarError
from podar.libraries import find_library
from podar.libraries.transformers import open_model
from podar.model.inputs import call
from podar.model.torchvision_operators import import_torchvision

import_torchvision()  # these tests ask transformers for models before podar does

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
    kind = find_library("transformers:x")
    assert kind is not None
    assert list(kind.complete(f"transformers:{tmp_path}/")) == [f"transformers:{tmp_path}/bert"]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('os').environ.__setitem__('PODAR_HOSTILE_RAN', '1')",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "elsewhere", "part"])
def test_weights_that_would_run_a_program_are_one_sentence(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PODAR_HOSTILE_RAN", raising=False)
    model = save(tmp_path / "t", "BertForSequenceClassification", weights=False, vocab_size=50)
    place = {"elsewhere": "../evil.bin", "part": "evil.bin"}.get(name, name)
    torch.save({"w": Bomb()}, tmp_path / "t" / place)
    if name != place:
        index = {"metadata": {}, "weight_map": {"bert.pooler.dense.weight": place}}
        (tmp_path / "t" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(
        PodarError, match="is no file beside it" if name == "elsewhere" else r"more than tensors"
    ) as said:
        open_model(model, {}, False).make()
    assert "\n" not in str(said.value) and "PODAR_HOSTILE_RAN" not in os.environ


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"auto_map": {"AutoModel": "m.M"}}, "its own Python code"),
        ({"text_config": {"auto_map": {"AutoModel": "m.M"}}}, "its own Python code"),
        ({"attn_implementation": "evil/kernel"}, "kernel of the Hugging Face hub"),
        ({"_attn_implementation": {"text_config": "evil/kernel:f"}}, "kernel of the Hugging Face hub"),
        ({"layers": [{"experts_implementation": "evil/kernel@main"}]}, "kernel of the Hugging Face hub"),
    ],
)
def test_a_configuration_that_names_code_needs_trust(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    model = save(tmp_path, "BertForSequenceClassification", weights=False, vocab_size=50)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(PodarError, match=said):
        open_model(model, {}, False)


def test_weights_of_another_format_are_named(tmp_path: Path) -> None:
    model = save(tmp_path, "BertForSequenceClassification", weights=False, vocab_size=50)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(60))
    assert "the folder holds x.gguf" in open_model(model, {}, False).notes[0]


@pytest.mark.slow
def test_a_process_of_its_own_that_imported_nothing_else_opens_one(tmp_path: Path) -> None:
    """transformers imports torchvision, whose wheel for another build of torch would break it."""
    model = save(tmp_path, "BertForSequenceClassification", weights=False, vocab_size=50)
    code = f"from podar.libraries.transformers import open_model; open_model({model!r}, {{}}, False).make()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True)
