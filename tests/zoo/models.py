"""Builds every model of the zoo from its source and name, with an example input, without any download."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))


def build(source: str, name: str) -> tuple[nn.Module, Any]:
    """The model in eval mode with random weights of seed 0, and its example inputs."""
    torch.manual_seed(0)
    model, inputs = _BUILDERS[source](name)
    return model.eval().requires_grad_(True), inputs


def _torchvision(name: str) -> tuple[nn.Module, Tensor]:
    from podar.compat.torchvision import import_torchvision

    import_torchvision()
    from torchvision.models import get_model

    auxiliary: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    side = 299 if name == "inception_v3" else 224
    if name.startswith(("deeplabv3", "fcn", "lraspp")):
        auxiliary = {"weights_backbone": None}
    if name == "googlenet":
        auxiliary["init_weights"] = True
    return get_model(name, weights=None, **auxiliary), torch.randn(1, 3, side, side)


def _timm(name: str) -> tuple[nn.Module, Tensor]:
    from podar.compat.torchvision import import_torchvision

    import_torchvision()
    import timm

    model: Any = timm.create_model(name)
    return model, torch.randn(1, *model.default_cfg["input_size"])


def _ultralytics(name: str) -> tuple[nn.Module, Tensor]:
    os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false")
    from podar.integrations.ultralytics import make_ready

    make_ready()
    from ultralytics import RTDETR, YOLO

    kind: Any = RTDETR if name.startswith("rtdetr") else YOLO
    side = 224 if name.endswith("-cls") else 320
    return kind(f"{name}.yaml").model, torch.randn(1, 3, side, side)


def _transformers(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    from podar.compat.torchvision import import_torchvision

    import_torchvision()
    from transformers import AutoConfig, AutoModel

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
    }
    if name == "gpt2":
        sizes = {"n_embd": 64, "n_inner": 128, "n_layer": 2, "n_head": 4, "vocab_size": 99}
    if name in ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "stablelm"):
        sizes["num_key_value_heads"] = 2
    if name in IMAGES:
        sizes.pop("vocab_size", None)
        sizes |= {"image_size": 64, "patch_size": 16}
        return AutoModel.from_config(AutoConfig.for_model(name, **sizes)), {"pixel_values": torch.randn(1, 3, 64, 64)}
    return AutoModel.from_config(AutoConfig.for_model(name, **sizes)), {"input_ids": torch.randint(0, 99, (1, 16))}


IMAGES = {"vit", "deit", "dinov2", "beit", "vit_mae", "yolos"}

_BUILDERS = {
    "torchvision": _torchvision,
    "torchvision-seg": _torchvision,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "transformers": _transformers,
}
