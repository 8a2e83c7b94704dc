"""Models of Hugging Face transformers from a local folder with a config.json: `transformers:PATH`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, require
from podar.libraries.register import library
from podar.trust.plain import Unreadable, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from podar.workshops import Source

RANDOM = "{} has random weights: the folder holds none; give some with --weights FILE."
PREFIX = "transformers:"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENS = 16


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
    from podar.workshops import PodarWorkshop, Source

    transformers = require("transformers", extra="transformers")
    folder = Path(model.removeprefix(PREFIX)).expanduser().resolve()
    if not (folder / "config.json").is_file():
        missing = "holds no config.json" if folder.is_dir() else "does not exist"
        raise PodarError(
            f"{model}: the folder {folder} {missing}; podar reads local folders that save_pretrained wrote."
        )
    settings = _read_json(folder / "config.json")
    if settings.get("auto_map") and not trust:
        raise PodarError(f"{model} brings its own Python code, which podar runs only with --trust.")
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
        notes=()
        if trained
        else (f"{model} has random weights: the folder holds none; give some with --weights FILE.",),
    )


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
        model = builder.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=trust, weights_only=not trust
        )
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
        text = getattr(config, "text_config", config)
        generator = torch.Generator().manual_seed(0)
        inputs["input_ids"] = torch.randint(1, text.vocab_size, (1, TOKENS), generator=generator)
        inputs["attention_mask"] = torch.ones(1, TOKENS, dtype=torch.long)
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = inputs["input_ids"]
    if not inputs:
        dummy: Any = model.dummy_inputs
        inputs = dict(dummy)
    return inputs
