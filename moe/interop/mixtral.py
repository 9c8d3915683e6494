"""Mixtral (Jiang et al. 2024): gates always sum to 1; two layouts of experts in its files."""

from typing import Any

from moe.config import ModelConfig
from moe.interop import decoder
from moe.interop.family import Family, Fields
from moe.interop.rules import Rule

EXPERT = "block_sparse_moe.experts.{expert}."
NAMES = {name: EXPERT + w for name, w in
         {"w_gate": "w1.weight", "w_in": "w3.weight", "w_out": "w2.weight"}.items()}  # fmt: skip


def config(f: Fields) -> ModelConfig:
    """The model of a config.json."""
    f.expect("router_jitter_noise", 0.0)  # theirs multiplies what experts see, too
    E = f.alike(("num_local_experts", "num_experts"))
    experts = decoder.experts(
        E, f.need("intermediate_size"), f.need("num_experts_per_tok"), normalise=True
    )
    window = f.nullable("sliding_window")
    return decoder.config(f, {"window": window}, experts=experts)


def fields(c: ModelConfig) -> dict[str, Any]:
    """config.json of a model."""
    assert c.experts is not None
    return decoder.fields(c) | {
        "intermediate_size": c.experts.d_ff,
        "num_local_experts": c.experts.num_experts,
        "num_experts_per_tok": c.experts.k,
        "router_jitter_noise": 0.0,
        "sliding_window": c.attention.window or None,
    }


def per_expert(c: ModelConfig) -> list[Rule]:
    """The released files', and the default of transformers."""
    own = decoder.per_expert(c, "block_sparse_moe.gate.weight", NAMES)
    return decoder.rules(c, own)


def fused(c: ModelConfig) -> list[Rule]:
    """What transformers 5 writes with save_original_format=False."""
    return decoder.rules(c, decoder.fused(c))


FAMILY = Family(
    "MixtralForCausalLM", True, config, fields, {"per_expert": per_expert, "fused": fused}
)
