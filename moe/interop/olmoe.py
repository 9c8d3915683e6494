"""OLMoE (Muennighoff et al. 2024): QK norm over the whole width, gates that are not normalised."""

from typing import Any

from moe.config import ModelConfig
from moe.interop import decoder
from moe.interop.family import Family, Fields
from moe.interop.rules import Rule

NAMES = {ours: f"mlp.experts.{{expert}}.{theirs}_proj.weight" for ours, theirs in
         {"w_gate": "gate", "w_in": "up", "w_out": "down"}.items()}  # fmt: skip


def config(f: Fields) -> ModelConfig:
    """The model of a config.json."""
    experts = decoder.experts(
        f.need("num_experts"),
        f.need("intermediate_size"),
        f.need("num_experts_per_tok"),
        f.need("norm_topk_prob", bool),
    )
    attention = {"qk_norm": "width", "clip_qkv": f.nullable("clip_qkv", float)}
    return decoder.config(f, attention, experts=experts)


def fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    assert c.experts is not None
    normalise = getattr(c.experts.options, "normalise_gates", None)
    return decoder.fields(c) | {
        "clip_qkv": c.attention.clip_qkv or None,
        "intermediate_size": c.experts.d_ff,
        "norm_topk_prob": c.experts.k > 1 if normalise is None else normalise,
        "num_experts": c.experts.num_experts,
        "num_experts_per_tok": c.experts.k,
    }


def per_expert(c: ModelConfig) -> list[Rule]:
    """The released files'."""
    return decoder.rules(c, decoder.per_expert(c, "mlp.gate.weight", NAMES))


def fused(c: ModelConfig) -> list[Rule]:
    """What transformers 5 writes with save_original_format=False."""
    return decoder.rules(c, decoder.fused(c))


FAMILY = Family(
    "OlmoeForCausalLM", True, config, fields, {"per_expert": per_expert, "fused": fused}
)
