"""Qwen3-MoE (Qwen team 2025): QK norm of each head; gates normalised or not, as its file says."""

from typing import Any

from moe.config import ModelConfig
from moe.interop import decoder, olmoe
from moe.interop.family import Family, Fields


def config(f: Fields) -> ModelConfig:
    """The model of a config.json, of which every layer has experts."""
    f.expect("decoder_sparse_step", 1)
    f.expect("mlp_only_layers", [], None)
    f.need_one_of("use_sliding_window", False)
    f.get("sliding_window")  # without a meaning then
    f.get("max_window_layers")
    experts = decoder.experts(
        f.alike(("num_experts", "num_local_experts")),
        f.need("moe_intermediate_size"),
        f.need("num_experts_per_tok"),
        f.need("norm_topk_prob", bool),
    )
    return decoder.config(f, {"qk_norm": "head"}, experts=experts)


def fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    assert c.experts is not None
    own = olmoe.fields(c)
    del own["clip_qkv"]
    return own | {
        "decoder_sparse_step": 1,
        "intermediate_size": c.d_ff,
        "mlp_only_layers": [],
        "moe_intermediate_size": c.experts.d_ff,
        "use_sliding_window": False,
    }


FAMILY = Family("Qwen3MoeForCausalLM", True, config, fields, olmoe.FAMILY.layouts)
