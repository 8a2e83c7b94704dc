"""Models of Hugging Face transformers from a local folder with a config.json: `transformers:PATH`."""

from __future__ import annotations

import importlib.util
import json
import pickle
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, require
from podar.libraries.register import library
from podar.trust.plain import Unreadable, read_json

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor, nn

    from podar.workshops import Source

RANDOM = "{} has random weights: the folder holds none; give some with --weights FILE."
PREFIX = "transformers:"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENS = 16


def _transformers() -> ModuleType:
    from podar.model.torchvision_operators import import_torchvision

    if importlib.util.find_spec("torchvision") is not None:  # transformers imports it where it is, whatever its build
        import_torchvision()
    return require("transformers", extra="transformers")


def _complete(incomplete: str) -> list[str]:
    if not incomplete.startswith(PREFIX):
        return [PREFIX]
    beginning = Path(incomplete.removeprefix(PREFIX) or "./")
    folder = beginning if incomplete.endswith("/") else beginning.parent
    names = sorted(p for p in folder.glob("*") if (p / "config.json").is_file()) if folder.is_dir() else []
    return [f"{PREFIX}{p}" for p in names]


@library(
    "transformers:FOLDER",
    help="a folder of Hugging Face transformers",
    accepts=lambda model: model.startswith(PREFIX),
    complete=_complete,
    package="transformers",
    extra="transformers",
    on_disk=True,
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """The model that a folder's config.json describes, with the folder's weights where it has some.

    `model_args` override the configuration (`num_classes` is its `num_labels`). Code that comes with the folder runs
    only with `trust`; so do weights that are a pickle needing more than tensors.

    **Raises:** `PodarError` for a missing folder or configuration, an unknown architecture, or unreadable weights.
    """
    from podar.model.building import call_builder
    from podar.model.checkpoints import parts_of_index
    from podar.workshops import PodarWorkshop, Source

    transformers = _transformers()
    folder = Path(model.removeprefix(PREFIX)).expanduser().resolve()
    if not (folder / "config.json").is_file():
        missing = "holds no config.json" if folder.is_dir() else "does not exist"
        raise PodarError(
            f"{model}: the folder {folder} {missing}; podar reads local folders that save_pretrained wrote."
        )
    settings = _read_json(folder / "config.json")
    if not trust:
        _refuse_code(model, settings)
    for name in WEIGHTS:
        if name.endswith(".index.json") and (folder / name).is_file():
            parts_of_index(folder / name)  # refuses files elsewhere
    overrides = dict(model_args)
    if "num_classes" in overrides:
        overrides["num_labels"] = overrides.pop("num_classes")
    trained = any((folder / name).is_file() for name in WEIGHTS)

    builder = partial(_build, transformers, folder, settings, trained, trust)

    def make() -> nn.Module:
        return call_builder(builder, overrides, of=model)

    return Source(
        called=model,
        spec={"model": f"{PREFIX}{folder}", "model_args": model_args},
        make=make,
        dense=make,
        example_inputs=_inputs,
        workshop=PodarWorkshop(),
        notes=() if trained else (_random(model, folder),),
    )


def _random(model: str, folder: Path) -> str:
    other = next((p.name for pattern in ("*.gguf", "*.h5", "*.msgpack") for p in sorted(folder.glob(pattern))), None)
    if other is None:
        return RANDOM.format(model)
    return f"{model} has random weights: podar reads {WEIGHTS[0]} and {WEIGHTS[2]}, and the folder holds {other}."


def _refuse_code(model: str, settings: dict[str, Any]) -> None:
    """Refuse a configuration, at whatever depth, that names Python code beside it or on the Hugging Face hub.

    **Raises:** `PodarError`.
    """
    pending: list[Any] = [settings]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            for key, value in part.items():
                if key == "auto_map" and value:
                    raise PodarError(f"{model} brings its own Python code, which podar runs only with --trust.")
                if str(key).endswith("_implementation") and "/" in json.dumps(
                    value
                ):  # "attn_implementation": OWNER/NAME
                    raise PodarError(
                        f"{model} asks for a kernel of the Hugging Face hub ({key}: {json.dumps(value)[:80]}), which "
                        "is a program that podar fetches only with --trust."
                    )
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, nan=True)
    except Unreadable as error:
        raise PodarError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise PodarError(f"{path} holds no configuration: it is no JSON object.")
    return found


def _build(
    transformers: Any, folder: Path, settings: dict[str, Any], trained: bool, trust: bool, **overrides: Any
) -> nn.Module:
    from podar.model.checkpoints import what_it_needs

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    for key, value in overrides.items():
        if not hasattr(config, key):
            raise PodarError(f"the configuration in {folder} has no field {key!r}.")
        setattr(config, key, value)
    # A cache of keys and values would come out of the model beside its result, and be taken for one.
    if getattr(config, "use_cache", False):
        config.use_cache = False
    names = settings.get("architectures") or []
    builder = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    if not (isinstance(builder, type) and issubclass(builder, transformers.PreTrainedModel)):
        builder = transformers.AutoModel
    if trained:
        transformers.utils.logging.disable_progress_bar()  # a bar for a fraction of a second, in the middle of ours
        try:
            model = builder.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=trust, weights_only=not trust
            )
        except pickle.UnpicklingError as error:
            held = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder)
            raise PodarError(
                f"the weights {held} are a pickle that holds more than tensors ({what_it_needs(held, error)}), and "
                "loading such a file can run any program: add --trust if you know where it comes from."
            ) from error
        return model.float()  # checkpoints in half precision are pruned and fine-tuned in single
    return builder.from_config(config) if hasattr(builder, "from_config") else builder(config)


def _inputs(model: nn.Module) -> dict[str, Tensor]:
    """Keyword arguments by what the model says that it reads first: tokens, pixels, or both for a pair of towers."""
    import torch

    from podar.model.example_inputs import random_images

    config: Any = model.config
    main = getattr(model, "main_input_name", "input_ids")
    vision = getattr(config, "vision_config", config)
    inputs: dict[str, Tensor] = {}
    if main == "pixel_values" or hasattr(config, "vision_config"):
        side = getattr(vision, "image_size", None) or 224
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        inputs["pixel_values"] = random_images(getattr(vision, "num_channels", 3), height, width)
    if main == "input_ids" or hasattr(config, "text_config"):
        text = getattr(config, "text_config", None) or getattr(config, "encoder", config)
        if not isinstance(getattr(text, "vocab_size", None), int):
            raise PodarError(
                f"the configuration of this {type(model).__name__} does not say how many words it knows (vocab_size), "
                "so podar cannot make inputs for it: build it in a file of your own (FILE.py:FUNCTION)."
            )
        generator = torch.Generator().manual_seed(0)
        inputs["input_ids"] = torch.randint(1, text.vocab_size, (1, TOKENS), generator=generator)
        inputs["attention_mask"] = torch.ones(1, TOKENS, dtype=torch.long)
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = inputs["input_ids"]
    if not inputs:
        dummy: Any = model.dummy_inputs
        inputs = dict(dummy)
    return inputs
