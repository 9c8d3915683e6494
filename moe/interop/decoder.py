"""What all decoders have in common: fields of config.json, and the rules outside feed-forwards."""

from typing import Any

from moe.attention_config import AttentionConfig
from moe.config import ModelConfig, MoEConfig
from moe.interop.family import Fields
from moe.interop.rules import Rule, feed_forward
from moe.routing import top_k

LAYER = "model.layers.{layer}."
ATTENTION = LAYER + "self_attn."


def config(f: Fields, attention: dict[str, Any], **changes: Any) -> ModelConfig:
    """A dense decoder of these fields.

    Args:
      f: config.json.
      attention: fields of `AttentionConfig`, but for theta.
      changes: fields of `ModelConfig`.
    """
    f.need_one_of("hidden_act", "silu")
    f.expect("attention_bias", False)
    D, N = f.need("hidden_size"), f.need("num_attention_heads")
    fields: dict[str, Any] = {
        "vocab_size": f.need("vocab_size"),
        "num_layers": f.need("num_hidden_layers"),
        "moe_every": 1,
        "d_model": D,
        "num_heads": N,
        "num_kv_heads": f.need("num_key_value_heads"),
        "d_head": f.get("head_dim", int, D // N),  # which is what it means; shapes are checked
        "d_ff": f.need("intermediate_size"),
        "activation": "swiglu",
        "attention": AttentionConfig(rope_theta=f.rope_theta(), **attention),
        "norm_epsilon": f.need("rms_norm_eps", float),
        "scale_embedding": False,
        "tie_embeddings": f.need("tie_word_embeddings", bool),
        "dtype": "float32",
    }
    return ModelConfig(**fields | changes)


def experts(number: int, d_ff: int, k: int, normalise: bool) -> MoEConfig:
    """Experts that drop nothing, behind a softmax over all of them."""
    options = top_k.ROUTER.options(normalise_gates=normalise)
    return MoEConfig(
        num_experts=number, d_ff=d_ff, k=k, options=options,
        dispatcher="grouped", capacity_factor=0.0, eval_capacity_factor=0.0,
    )  # fmt: skip


def fields(c: ModelConfig) -> dict[str, Any]:
    """What `config` reads."""
    return {
        "attention_bias": False,
        "head_dim": c.d_head,
        "hidden_act": "silu",
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.attention.rope_theta,
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
    }


def rules(c: ModelConfig, own_feed_forward: list[Rule]) -> list[Rule]:
    """All of a decoder with these feed-forwards in every layer."""
    layers = range(c.num_layers)
    own = "block/layer_0/"
    found = [
        Rule("embed", "model.embed_tokens.weight", "VD->VD"),
        Rule("norm/scale", "model.norm.weight", "D->D"),
        Rule(own + "attention_norm/scale", LAYER + "input_layernorm.weight", "D->D", layers),
        Rule(own + "ffn_norm/scale", LAYER + "post_attention_layernorm.weight", "D->D", layers),
        Rule(own + "attention/w_o", ATTENTION + "o_proj.weight", "D(NH)->NHD", layers),
    ]
    for name in "qkv":
        ours, theirs = f"{own}attention/w_{name}", f"{ATTENTION}{name}_proj"
        found.append(Rule(ours, theirs + ".weight", "(NH)D->DNH", layers))
        if c.attention.qkv_bias:
            found.append(Rule(ours + "_bias", theirs + ".bias", "(NH)->NH", layers))
    if c.attention.qk_norm != "none":
        axes = "(NH)->NH" if c.attention.qk_norm == "width" else "H->H"
        for name in "qk":
            ours, theirs = f"{own}attention/{name}_norm/scale", f"{ATTENTION}{name}_norm.weight"
            found.append(Rule(ours, theirs, axes, layers))
    if not c.tie_embeddings:
        found.append(Rule("head", "lm_head.weight", "VD->VD"))
    else:
        found.append(Rule("embed", "lm_head.weight", "VD->VD", copy=True))
    return found + own_feed_forward


def per_expert(c: ModelConfig, router: str, names: dict[str, str]) -> list[Rule]:
    """Experts with tensors of their own.

    Args:
      c: the model.
      router: the tensor of its scores, behind the layer's prefix.
      names: our matrix -> theirs, with {expert}.
    """
    assert c.experts is not None
    layers, E = range(c.num_layers), c.experts.num_experts
    theirs = {ours: LAYER + name for ours, name in names.items()}
    return [
        Rule("block/layer_0/moe/router", LAYER + router, "ED->DE", layers),
        *feed_forward("block/layer_0/moe/experts", theirs, layers, E),
    ]


def fused(c: ModelConfig) -> list[Rule]:
    """Experts in two tensors a layer, as transformers 5 holds them: gate and up in one."""
    layers = range(c.num_layers)
    own, theirs = "block/layer_0/moe/experts/", LAYER + "mlp.experts."
    both = theirs + "gate_up_proj"
    return [
        Rule("block/layer_0/moe/router", LAYER + "mlp.gate.weight", "ED->DE", layers),
        Rule(own + "w_gate", both, "E(PF)D->EDF", layers, part=0, parts=2),
        Rule(own + "w_in", both, "E(PF)D->EDF", layers, part=1, parts=2),
        Rule(own + "w_out", theirs + "down_proj", "EDF->EFD", layers),
    ]
