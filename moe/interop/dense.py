"""Dense decoders as Llama (Touvron et al. 2023), and what Mistral and Qwen change of it."""

from typing import Any

import numpy as np

from moe.config import ModelConfig
from moe.interop import decoder
from moe.interop.family import Family, Fields
from moe.interop.rules import Rule, feed_forward

NAMES = {"w_gate": "gate", "w_in": "up", "w_out": "down"}


def rules(c: ModelConfig) -> list[Rule]:
    """Three matrices a layer."""
    names = {ours: f"{decoder.LAYER}mlp.{theirs}_proj.weight" for ours, theirs in NAMES.items()}
    return decoder.rules(c, feed_forward("block/layer_0/ffn", names, range(c.num_layers)))


LAYOUTS = {"dense": rules}


def llama(f: Fields) -> ModelConfig:
    """Llama 1 to 3 without scaled positions; files of the first two lack fields, see `given`."""
    f.expect("mlp_bias", False)
    return decoder.config(f, {})


def llama_fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    return decoder.fields(c) | {"mlp_bias": False}


def mistral(f: Fields) -> ModelConfig:
    """With a window."""
    return decoder.config(f, {"window": f.nullable("sliding_window")})


def mistral_fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    own = decoder.fields(c)
    del own["attention_bias"]
    return own | {"sliding_window": c.attention.window or None}


def _without_window(f):
    """Qwen's files have windows that are not used."""
    f.need_one_of("use_sliding_window", False)
    f.get("sliding_window")
    f.get("max_window_layers")
    full = ["full_attention"] * f.need("num_hidden_layers")
    f.expect("layer_types", None, full)


def qwen2(f: Fields) -> ModelConfig:
    """Biases of queries, keys and values."""
    _without_window(f)
    return decoder.config(f, {"qkv_bias": True})


def qwen2_fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model; transformers has no field for its biases."""
    own = decoder.fields(c)
    del own["attention_bias"]
    return own | {"use_sliding_window": False}


def qwen3(f: Fields) -> ModelConfig:
    """QK norm of each head."""
    _without_window(f)
    return decoder.config(f, {"qk_norm": "head"})


def qwen3_fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    return decoder.fields(c) | {"use_sliding_window": False}


def frequencies(c: ModelConfig) -> np.ndarray:
    """What files of before 2024 hold for each layer: the angles of a step, [H / 2]."""
    H = c.d_head
    return c.attention.rope_theta ** (-np.arange(0, H, 2) / H)


OLD = {r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": frequencies}
LLAMA = Family("LlamaForCausalLM", False, llama, llama_fields, LAYOUTS, OLD)
MISTRAL = Family("MistralForCausalLM", False, mistral, mistral_fields, LAYOUTS)
QWEN2 = Family("Qwen2ForCausalLM", False, qwen2, qwen2_fields, LAYOUTS)
QWEN3 = Family("Qwen3ForCausalLM", False, qwen3, qwen3_fields, LAYOUTS)
