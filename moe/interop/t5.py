"""T5 (Raffel et al. 2020), its version 1.1, and Switch (Fedus et al. 2021).

T5 1.0 and Switch share embedding and head, and scale before it; 1.1 does neither. Old files say so
by `tie_word_embeddings`, transformers 5 by `scale_decoder_outputs`. Switch has a capacity of so
many tokens a sequence, and experts in every n-th layer, for n = 1 or 2: beyond that its sparse
layers are not the last of each n.
"""

from typing import Any

from moe.attention_config import AttentionConfig
from moe.config import MoEConfig
from moe.interop.family import MISSING, Family, Fields
from moe.interop.rules import Rule, feed_forward
from moe.models.encoder_decoder import EncoderDecoderConfig
from moe.schema import require

ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
DENSE = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}
IDLE = (
    *("add_cross_attention", "add_router_probs", "classifier_dropout"),
    *("decoder_start_token_id", "dropout_rate", "initializer_factor", "n_positions"),
    *("output_past", "router_z_loss_coef", "router_jitter_noise"),
    *("task_specific_params", "router_ignore_padding_tokens"),
)


def _config(f: Fields, activation: str, **changes: Any) -> EncoderDecoderConfig:
    f.used.update(IDLE)
    f.expect("relative_attention_num_buckets", 32)
    f.expect("relative_attention_max_distance", 128)
    layers = f.need("num_layers")
    fields: dict[str, Any] = {
        "vocab_size": f.need("vocab_size"),
        "num_layers": f.get("num_decoder_layers", int, layers),
        "encoder_layers": layers,
        "moe_every": 1,
        "d_model": f.need("d_model"),
        "num_heads": f.need("num_heads"),
        "d_head": f.need("d_kv"),
        "d_ff": f.need("d_ff"),
        "activation": activation,
        "attention": AttentionConfig(scaled=False),
        "norm_epsilon": f.need("layer_norm_epsilon", float),
        "dtype": "float32",
    }
    return EncoderDecoderConfig(**fields | changes)


def t5(f: Fields) -> EncoderDecoderConfig:
    """The model of a config.json."""
    said = f.need_one_of("feed_forward_proj", *ACTIVATIONS)
    f.expect("dense_act_fn", DENSE[said])  # which transformers believes, where both are there
    f.expect("is_gated_act", said.startswith("gated"))
    scaled = f.get("scale_decoder_outputs", bool)
    tied = f.get("tie_word_embeddings", bool, True)
    if scaled is MISSING:
        scaled = tied
    return _config(f, ACTIVATIONS[said], tie_embeddings=scaled, scale_head=scaled)


def switch(f: Fields) -> EncoderDecoderConfig:
    """The model of a config.json, with experts in both stacks."""
    f.expect("router_bias", False)
    f.need_one_of("dense_act_fn", "relu")
    f.expect("router_dtype", "float32")
    f.expect("feed_forward_proj", "relu")
    f.expect("is_gated_act", False)
    f.expect("tie_word_embeddings", True)
    layers = f.need("num_layers")
    steps = {
        f.get("num_decoder_layers", int, layers) // max(1, f.need("num_sparse_decoder_layers")),
        layers // max(1, f.need("num_sparse_encoder_layers")),
    }
    f.get("encoder_sparse_step"), f.get("decoder_sparse_step")  # which follow from these
    require(
        steps <= {1, 2} and len(steps) == 1,
        f"{f.where} has experts in every {sorted(steps)}-th layer of its stacks: this code reads"
        " files with all of them sparse, or every second one",
    )
    experts = MoEConfig(
        num_experts=f.need("num_experts"),
        d_ff=f.need("d_ff"),
        expert_capacity=f.need("expert_capacity"),
        capacity_factor=0.0,
        eval_capacity_factor=0.0,
    )
    return _config(f, "relu", moe_every=steps.pop(), experts=experts)


def _fields(c: EncoderDecoderConfig) -> dict[str, Any]:
    return {
        "d_ff": c.d_ff,
        "d_kv": c.d_head,
        "d_model": c.d_model,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": c.norm_epsilon,
        "num_decoder_layers": c.num_layers,
        "num_heads": c.num_heads,
        "num_layers": c.encoder_layers or c.num_layers,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
    }


def t5_fields(c: EncoderDecoderConfig) -> dict[str, Any]:
    """config.json of a model."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return _fields(c) | {"feed_forward_proj": names.get(c.activation)}


def switch_fields(c: EncoderDecoderConfig) -> dict[str, Any]:
    """config.json of a model."""
    assert c.experts is not None
    require(
        c.experts.expert_capacity > 0,
        "a file of Switch says how many tokens an expert takes of a sequence: set"
        " experts.expert_capacity, and both capacity factors to 0",
    )
    stacks = c.stacks
    return _fields(c) | {
        "dense_act_fn": "relu",
        "expert_capacity": c.experts.expert_capacity,
        "num_experts": c.experts.num_experts,
        "num_sparse_decoder_layers": stacks["decoder"].moe_layers,
        "num_sparse_encoder_layers": stacks["encoder"].moe_layers,
        "router_bias": False,
    }


def _attention(ours, theirs, layers):
    """The four matrices of one attention."""
    found = [
        Rule(f"{ours}/w_{name}", f"{theirs}.{name}.weight", "(NH)D->DNH", layers) for name in "qkv"
    ]
    return [*found, Rule(f"{ours}/w_o", f"{theirs}.o.weight", "D(NH)->NHD", layers)]


def _feed_forward(c, own, theirs, dense, layers, is_moe):
    """A dense feed-forward or experts."""
    if is_moe:
        E = c.experts.num_experts
        one = theirs + "mlp.experts.expert_{expert}."
        tensors = {"w_in": f"{one}wi.weight", "w_out": f"{one}wo.weight"}
        return [
            Rule(f"{own}moe/router", f"{theirs}mlp.router.classifier.weight", "ED->DE", layers),
            *feed_forward(f"{own}moe/experts", tensors, layers, E),
        ]
    names = {"w_in": "wi", "w_out": "wo"}
    if c.activation != "relu":
        names = {"w_gate": "wi_0", "w_in": "wi_1", "w_out": "wo"}
    tensors = {ours: f"{theirs}{dense}.{name}.weight" for ours, name in names.items()}
    return feed_forward(f"{own}ffn", tensors, layers)


def _stack(c, name, dense):
    """All of one side."""
    stack = c.stacks[name]
    found = [
        Rule(f"{name}/norm/scale", f"{name}.final_layer_norm.weight", "D->D"),
        Rule(
            f"{name}/relative",
            f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "XN->NX",
        ),
    ]
    cross = name == "decoder"
    last = 2 if cross else 1
    for i in range(c.moe_every):
        own = f"{name}/block/layer_{i}/"
        block = f"{name}.block.{{layer}}.layer."
        layers = range(i, stack.num_layers, c.moe_every)
        is_moe = c.experts is not None and i == c.moe_every - 1
        norms = {"attention_norm": 0, "ffn_norm": last} | ({"cross_norm": 1} if cross else {})
        for norm, number in norms.items():
            theirs = f"{block}{number}.layer_norm.weight"
            found.append(Rule(f"{own}{norm}/scale", theirs, "D->D", layers))
        found += _attention(f"{own}attention", f"{block}0.SelfAttention", layers)
        if cross:
            found += _attention(f"{own}cross", f"{block}1.EncDecAttention", layers)
        found += _feed_forward(c, own, f"{block}{last}.", dense, layers, is_moe)
    return found


def _rules(c, dense):
    found = [Rule("embed", "shared.weight", "VD->VD")]
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if c.tie_embeddings:
        copies.append("lm_head.weight")
    else:
        found.append(Rule("head", "lm_head.weight", "VD->VD"))
    found += [Rule("embed", name, "VD->VD", copy=True) for name in copies]
    return found + _stack(c, "encoder", dense) + _stack(c, "decoder", dense)


def t5_rules(c: EncoderDecoderConfig) -> list[Rule]:
    """Dense feed-forwards are called DenseReluDense, whatever they compute."""
    return _rules(c, "DenseReluDense")


def switch_rules(c: EncoderDecoderConfig) -> list[Rule]:
    """Both kinds are called mlp."""
    return _rules(c, "mlp")


# Of T5 1.0: a table that its second attention does not read.
OLD: dict[str, None] = {
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": None,
}
OUT = r"\.wo\.weight$"  # which overflows in float16

T5 = Family(
    "T5ForConditionalGeneration", False, t5, t5_fields, {"dense": t5_rules}, OLD, OUT,
)  # fmt: skip
SWITCH = Family(
    "SwitchTransformersForConditionalGeneration", True, switch, switch_fields,
    {"per_expert": switch_rules}, OLD, OUT,
)  # fmt: skip
