"""`config.json`, `preprocessor_config.json`: how transformers and transformers.js learn what the graph expects."""

from __future__ import annotations

from typing import Any

from edgekit.artifact import Preprocess

_BICUBIC = 3  # PIL's number


def model_config(model: dict[str, Any], transform: Preprocess) -> dict[str, Any]:
    """Hugging Face's Dinov2Config or Dinov2WithRegistersConfig of a manifest's `model`.

    `image_size` is the size the position embeddings are baked for, not the one the model was trained at.
    """
    config = model["config"]
    if config.get("positions") == "rope":
        return _dinov3_config(config, transform)
    registers = config["registers"]
    ratio = config["hidden"] / config["width"] if config["hidden"] and config["ffn"] == "mlp" else 4
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    return {
        "architectures": [f"{kind}Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": config["width"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["heads"],
        "mlp_ratio": ratio,
        "use_swiglu_ffn": config["ffn"] == "swiglu",
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": 1e-6,
        "num_channels": 3,
        "patch_size": config["patch"],
        "image_size": transform.input_size[0] if len(set(transform.input_size)) == 1 else list(transform.input_size),
        **({"num_register_tokens": registers} if registers else {}),
    }


def _dinov3_config(config: dict[str, Any], transform: Preprocess) -> dict[str, Any]:
    """Hugging Face's DINOv3ViTConfig."""
    gated = config["ffn"] == "swiglu"
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": config["width"],
        "intermediate_size": config["hidden"] or 4 * config["width"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["heads"],
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": config["norm_eps"],
        "rope_theta": config["rope_base"],
        "num_channels": 3,
        "patch_size": config["patch"],
        "image_size": transform.input_size[0] if len(set(transform.input_size)) == 1 else list(transform.input_size),
        "num_register_tokens": config["registers"],
    }


def preprocessor_config(transform: Preprocess) -> dict[str, Any]:
    """Hugging Face's BitImageProcessor, or DPTImageProcessor where photographs are resized whole.

    Where the graph normalises, pixels stay 0..255 and nothing is done twice. A file of one size cannot keep an aspect
    that is not its own; of one for images of any size `patch_size` and `sides` tell edgekit's samples how to.
    """
    height, width = transform.input_size
    on_host = transform.normalize == "host"
    resized: dict[str, Any] = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": transform.resize},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
    }
    if transform.whole_image is not None:
        resized = {
            "image_processor_type": "DPTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": height, "width": width},
            "keep_aspect_ratio": False,
            "ensure_multiple_of": transform.patch,
            "resample": _BICUBIC,
            "do_pad": False,
        }
    return {
        **resized,
        "do_rescale": on_host,
        "rescale_factor": 1 / 255,
        "do_normalize": on_host,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        **({"patch_size": transform.patch, "sides": list(transform.sides)} if transform.sides else {}),
    }
