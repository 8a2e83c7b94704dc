"""Builds every model of the zoo from its source and name, with an example input, without any download."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
FURTHER: dict[str, list[str]] = json.loads(Path(__file__).with_name("further.json").read_text(encoding="utf-8"))


def build(source: str, name: str) -> tuple[nn.Module, Any]:
    """The model in eval mode with random weights of seed 0, and its example inputs."""
    torch.manual_seed(0)
    model, inputs = _BUILDERS[source](name)
    return model.eval().requires_grad_(True), inputs


def _torchvision(name: str) -> tuple[nn.Module, Tensor]:
    from podar.model.torchvision_operators import import_torchvision

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
    from podar.model.torchvision_operators import import_torchvision

    import_torchvision()
    import timm

    model: Any = timm.create_model(name)
    return model, torch.randn(1, *model.default_cfg["input_size"])


def _ultralytics(name: str) -> tuple[nn.Module, Tensor]:
    os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false")
    from podar.libraries.ultralytics import make_ready

    make_ready()
    from ultralytics import RTDETR, YOLO

    kind: Any = RTDETR if name.startswith("rtdetr") else YOLO
    side = 224 if name.endswith("-cls") else 320
    return kind(f"{name}.yaml").model, torch.randn(1, 3, side, side)


def _transformers(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    from podar.model.torchvision_operators import import_torchvision

    import_torchvision()
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(name, **_tiny(name))
    config._experts_implementation = "eager"  # the fused kernel has no float64
    return AutoModel.from_config(config), _arguments(name)


def _tiny(name: str) -> dict[str, Any]:
    """Sizes of a tiny member of an architecture; each names them in its own way, and ignores what it does not know."""
    if name in SIZES:
        return dict(SIZES[name])
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if name == "yolos":
        return {k: [64, 64] if k == "image_size" else v for k, v in _VISION.items()}
    if name in IMAGES:
        return {k: v for k, v in sizes.items() if "token" not in k and k != "vocab_size"} | {
            "image_size": 64,
            "patch_size": 16,
        }
    if name in PYRAMIDS:
        windowed = {"image_size": 224, "embed_dim": 24} if "swin" in name else {"image_size": 64}
        return windowed | {"depths": [1, 1, 2, 1]}
    if name in ENCODER_DECODERS:
        both = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in (("layers", 2), ("attention_heads", 4))}
        return {"d_model": 64, "vocab_size": 99, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, **both}
    if name in GROUPED:
        sizes["num_key_value_heads"] = 2
    if name in EXPERTS:
        sizes |= {"moe_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 4}
    if name in AUDIO:
        sizes |= {"conv_dim": [32, 32], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
        sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return sizes | MORE.get(name, {})


def _arguments(name: str) -> dict[str, Tensor]:
    tokens = torch.randint(3, 99, (1, 16))
    if name in IMAGES or name in PYRAMIDS or name in PICTURES:
        side = 224 if name in ("levit", "swin", "swinv2", "donut-swin") else 64
        return {"pixel_values": torch.randn(1, 3, side, side)}
    if name in AUDIO:
        return {"input_values": torch.randn(1, 4000)}
    if name in ENCODER_DECODERS or name in ("t5", "mt5", "switch_transformers", "longt5", "prophetnet"):
        return {"input_ids": tokens, "decoder_input_ids": torch.randint(3, 99, (1, 8))}
    if name in ("clip", "siglip", "chinese_clip", "altclip", "groupvit", "blip", "owlvit"):
        return {"input_ids": tokens, "pixel_values": torch.randn(1, 3, 64, 64)}
    if name == "whisper":
        return {"input_features": torch.randn(1, 80, 64), "decoder_input_ids": torch.randint(3, 99, (1, 8))}
    if name == "videomae":
        return {"pixel_values": torch.randn(1, 4, 3, 32, 32)}
    if name in ("vivit", "timesformer"):
        return {"pixel_values": torch.randn(1, 4, 3, 32, 32)}
    if name == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(1, 64, 32)}
    if name == "wav2vec2-bert":
        return {"input_features": torch.randn(1, 20, 160)}
    if name == "patchtst":
        return {"past_values": torch.randn(2, 32, 3)}
    if name == "speech_to_text":
        return {"input_features": torch.randn(1, 32, 80), "decoder_input_ids": torch.randint(3, 99, (1, 8))}
    if name == "vilt":
        return {"input_ids": tokens, "pixel_values": torch.randn(1, 3, 64, 64)}
    return {"input_ids": tokens}


IMAGES = {
    "vit",
    "deit",
    "dinov2",
    "beit",
    "vit_mae",
    "yolos",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit_msn",
    "ijepa",
    "data2vec-vision",
    "siglip_vision_model",
    "clip_vision_model",
    "dpt",
}
PYRAMIDS = {"swin", "swinv2", "convnext", "convnextv2", "focalnet", "donut-swin", "swiftformer"}
PICTURES = {
    "segformer",
    "pvt",
    "pvt_v2",
    "resnet",
    "regnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "bit",
    "levit",
    "mobilevitv2",
    "efficientnet",
    "poolformer",
    "cvt",
    "detr",
    "hiera",
}
ENCODER_DECODERS = {"bart", "mbart", "pegasus", "marian", "blenderbot", "m2m_100", "led"}
GROUPED = {
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "stablelm",
    "olmo",
    "olmo2",
    "granite",
    "cohere",
    "starcoder2",
    "phi",
    "phi3",
    "smollm3",
    "glm",
    "gpt_oss",
    "jamba",
    "nemotron",
    "olmoe",
}
EXPERTS = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "jamba", "olmoe", "deepseek_v2", "deepseek_v3"}
AUDIO = {"wav2vec2", "hubert", "wavlm", "unispeech", "data2vec-audio", "wav2vec2-conformer", "sew"}

_GPT: dict[str, Any] = {"n_embd": 64, "n_inner": 128, "n_layer": 2, "n_head": 4, "vocab_size": 99}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "codegen": _GPT | {"rotary_dim": 8},
    "ctrl": {"n_embd": 64, "dff": 128, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "gpt_bigcode": _GPT,
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 99, "max_seq_len": 64},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "vocab_size": 99,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 4},
    },
    "distilbert": {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 99},
    "xlnet": {"d_model": 64, "d_inner": 128, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "funnel": {"d_model": 64, "d_inner": 128, "block_sizes": [1, 1], "n_head": 4, "d_head": 16, "vocab_size": 99},
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "num_heads": 4,
        "vocab_size": 99,
        "window_size": 8,
    },
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
        "word_embed_proj_dim": 64,
    },
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": 99},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 99},
    "falcon_mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 99},
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 8,
        "vocab_size": 99,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 2,
        "chunk_size": 8,
    },
    "rwkv": {
        "hidden_size": 64,
        "attention_hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "vocab_size": 99,
    },
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "mt5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "longt5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "switch_transformers": {
        "d_model": 64,
        "d_ff": 128,
        "d_kv": 16,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 99,
        "num_experts": 2,
    },
    "prophetnet": {
        "hidden_size": 64,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "vocab_size": 99,
    },
    "segformer": {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
    "pvt": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 32, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
    },
    "pvt_v2": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 32, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
    },
    "resnet": _STAGES,
    "regnet": _STAGES | {"groups_width": 8},
    "bit": {"hidden_sizes": [32, 64], "depths": [1, 1], "embedding_size": 32, "num_groups": 8},
    "mobilenet_v1": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": 0.35},
    "mobilevit": {"image_size": 64},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "levit": {},
    "poolformer": {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]},
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 1, 2], "hidden_size": 64},
    "marian": {
        "d_model": 64,
        "vocab_size": 99,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "pad_token_id": 0,
    },
    "detr": {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "num_queries": 10,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": {
            "model_type": "resnet",
            **_STAGES,
            "hidden_sizes": [16, 32, 32, 64],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage4"],
        },
    },
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "whisper": {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "vocab_size": 99,
        "max_source_positions": 32,
        "max_target_positions": 32,
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
    },
    "speech_to_text": {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "vocab_size": 99,
    },
}
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
MORE: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16},
    "gpt_oss": {"head_dim": 16},
    "glm": {"head_dim": 16},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 32},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "squeezebert": {"embedding_size": 64},
    "convbert": {"embedding_size": 64},
    "longformer": {"attention_window": [8, 8]},
    "big_bird": {"attention_type": "original_full"},
    "qwen2_moe": {"shared_expert_intermediate_size": 64},
    "recurrent_gemma": {"lru_width": 64, "num_key_value_heads": 1, "head_dim": 16, "attention_window_size": 8},
    "jamba": {
        "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
        "num_hidden_layers": 8,
        "expert_layer_offset": 1,
        "attn_layer_offset": 4,
        "attn_layer_period": 8,
    },
    "deepseek_v2": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
    },
    "clip": {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 32},
    "siglip": {"text_config": _TEXT, "vision_config": _VISION},
    "chinese_clip": {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 32},
    "altclip": {"text_config": _TEXT | {"project_dim": 32}, "vision_config": _VISION, "projection_dim": 32},
    "blip": {"text_config": _TEXT | {"encoder_hidden_size": 64}, "vision_config": _VISION, "projection_dim": 32},
    "owlvit": {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 32},
    "dpt": {"backbone_out_indices": [0, 0, 1, 1], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16},
    "fnet": {"tpu_short_seq_length": 16},
    "videomae": {"image_size": 32, "patch_size": 16, "num_frames": 4},
    "vivit": {"image_size": 32, "num_frames": 4, "tubelet_size": [2, 16, 16]},
    "timesformer": {"image_size": 32, "patch_size": 16, "num_frames": 4},
    "audio-spectrogram-transformer": {"num_mel_bins": 32, "max_length": 64},
    "persimmon": {},
    "sew": {"squeeze_factor": 2},
    "patchtst": {
        "d_model": 64,
        "ffn_dim": 128,
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "num_input_channels": 3,
    },
}

_BUILDERS = {
    "torchvision": _torchvision,
    "torchvision-seg": _torchvision,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "transformers": _transformers,
}
