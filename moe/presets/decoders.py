"""GLaM, and the decoders that came after it."""

from typing import Any

from moe.attention_config import AttentionConfig
from moe.config import ModelConfig, MoEConfig
from moe.presets.contract import Preset
from moe.routing import rre, top_k


def glam(
    layers: int, d_model: int, d_ff: int, heads: int, d_head: int, experts: int | None = None
) -> ModelConfig:
    """GLaM: MoE in every other layer, plain GELU experts beside gated dense layers."""
    return ModelConfig(
        vocab_size=256_000,
        num_layers=layers,
        d_model=d_model,
        num_heads=heads,
        d_head=d_head,
        d_ff=d_ff,
        activation="gelu" if experts else "geglu",
        dense_activation="geglu" if experts else "",
        position="relative",
        remat=True,
        experts=_experts(experts, d_ff, 2),
    )


def _experts(number: int | None, d_ff: int, k: int, **options: Any) -> MoEConfig | None:
    """So many experts with the usual router; None for a dense model."""
    if not number:
        return None
    own = top_k.ROUTER.options(**options)
    return MoEConfig(num_experts=number, d_ff=d_ff, k=k, router_scale=1.0, options=own)


def mixtral(
    layers: int,
    d_model: int,
    d_ff: int,
    heads: int,
    kv_heads: int,
    experts: int,
    k: int,
    vocab: int,
    theta: float = 10_000.0,
    normalise_gates: bool | None = None,
    **changes: Any,
) -> ModelConfig:
    """The decoders of 2023 and 2024: every layer MoE, SwiGLU experts, grouped-query attention."""
    fields: dict[str, Any] = {
        "vocab_size": vocab,
        "num_layers": layers,
        "moe_every": 1,
        "d_model": d_model,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "d_head": 128,
        "d_ff": d_ff,
        "activation": "swiglu",
        "attention": AttentionConfig(rope_theta=theta),
        "norm_epsilon": 1e-5,
        "scale_embedding": False,
        "tie_embeddings": False,
        "remat": True,
        "experts": _experts(experts, d_ff, k, normalise_gates=normalise_gates),
    }
    return ModelConfig(**fields | changes)


def gpt(
    layers: int,
    d_model: int,
    d_ff: int,
    heads: int,
    vocab: int,
    number: int | None = None,
    k: int = 2,
    **changes: Any,
) -> ModelConfig:
    """GPT-3's shape: plain GELU feed-forwards, or experts of that shape in every layer."""
    fields: dict[str, Any] = {
        "vocab_size": vocab,
        "num_layers": layers,
        "moe_every": 1,
        "d_model": d_model,
        "num_heads": heads,
        "d_head": 128,
        "d_ff": d_ff,
        "remat": True,
        "experts": _experts(number, d_ff, k),
    }
    return ModelConfig(**fields | changes)


def switch_base_like(experts: int | None = None) -> ModelConfig:
    """Switch-Base's sizes in a decoder: its encoder-decoder has twice the layers.

    Gated as T5 v1.1 is: plain experts would make 4.8B of the published 7B, gated ones 7.2B.
    """
    routed = MoEConfig(num_experts=experts, d_ff=2048, k=1, jitter=0.01) if experts else None
    return ModelConfig(
        vocab_size=32_128,
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_head=64,
        d_ff=2048,
        activation="geglu",
        position="relative",
        remat=True,
        experts=routed,
    )


GLAM = "Du et al. 2022, table 4"
RUMOUR = "a rumour, not a publication"
RRE = MoEConfig(num_experts=640, d_ff=20_480, router="rre", options=rre.Options(groups=4))

DECODERS = {
    "glam_0.1b": Preset(model=glam(12, 768, 3072, 12, 64), total=130e6, length=1024, source=GLAM),
    "glam_0.1b_64e": Preset(
        model=glam(12, 768, 3072, 12, 64, 64),
        total=1.9e9, active=145e6, length=1024, twin="glam_0.1b", source=GLAM,
    ),
    "glam_1.7b": Preset(model=glam(24, 2048, 8192, 16, 128), total=1.7e9, length=1024, source=GLAM),
    "glam_1.7b_64e": Preset(
        model=glam(24, 2048, 8192, 16, 128, 64),
        total=27e9, active=1.879e9, length=1024, twin="glam_1.7b", source=GLAM,
    ),
    "glam_1.7b_128e": Preset(
        model=glam(24, 2048, 8192, 16, 128, 128),
        total=53e9, active=1.881e9, length=1024, twin="glam_1.7b", source=GLAM,
    ),
    "glam_1.7b_256e": Preset(
        model=glam(24, 2048, 8192, 16, 128, 256),
        total=105e9, active=1.886e9, length=1024, twin="glam_1.7b", source=GLAM,
    ),
    "glam_8b": Preset(model=glam(32, 4096, 16_384, 32, 128), total=8.7e9, length=1024, source=GLAM),
    "glam_8b_64e": Preset(
        model=glam(32, 4096, 16_384, 32, 128, 64),
        total=143e9, active=9.8e9, length=1024, twin="glam_8b", source=GLAM,
    ),
    "glam_137b": Preset(
        model=glam(64, 8192, 65_536, 128, 128), total=137e9, length=1024, source=GLAM
    ),
    "glam_64b_64e": Preset(
        model=glam(64, 8192, 32_768, 128, 128, 64),
        total=1.2e12, active=96.6e9, length=1024, tokens=600e9, twin="gpt3", source=GLAM,
    ),
    "gpt3": Preset(
        model=gpt(96, 12_288, 49_152, 96, 50_257 + 47),
        total=175e9, tokens=300e9, length=2048, source="Brown et al. 2020, table 2.1",
        note="vocabulary padded from 50,257 to 50,304, so that a mesh divides it",
    ),
    "switch_base_like": Preset(
        model=switch_base_like(128), total=None, length=512, twin="t5_base_like",
        source="Fedus et al. 2021, table 9", note="a decoder with the sizes of one side",
    ),
    "t5_base_like": Preset(
        model=switch_base_like(), total=None, length=512,
        source="Fedus et al. 2021, table 9", note="a decoder with the sizes of one side",
    ),
    "mixtral_8x7b": Preset(
        model=mixtral(32, 4096, 14_336, 32, 8, 8, 2, 32_000, theta=1e6),
        total=46.7e9, active=12.9e9, length=32_768, source="Jiang et al. 2024, table 1",
    ),
    "mixtral_8x22b": Preset(
        model=mixtral(56, 6144, 16_384, 48, 8, 8, 2, 32_768, theta=1e6),
        total=141e9, active=39e9, length=65_536, source="Mistral AI 2024, the release",
    ),
    "dbrx": Preset(
        model=mixtral(
            40, 6144, 10_752, 48, 8, 16, 4, 100_352,
            attention=AttentionConfig(rope_theta=5e5, clip_qkv=8.0),
        ),
        total=132e9, active=36e9, tokens=12e12, length=32_768,
        source="Databricks 2024, the release",
    ),
    "grok_1": Preset(
        model=mixtral(
            64, 6144, 32_768, 48, 8, 8, 2, 131_072, activation="geglu", tie_embeddings=True
        ),
        total=314e9, active=0.25 * 314e9, length=8192, source="xAI 2024, the release",
    ),
    "olmoe_1b_7b": Preset(
        model=mixtral(
            16, 2048, 1024, 16, 16, 64, 8, 50_304,
            attention=AttentionConfig(qk_norm="width"),
            normalise_gates=False,
        ),
        total=6.9e9, active=1.3e9, length=4096, tokens=5.1e12,
        source="Muennighoff et al. 2024, table 1",
    ),
    "pangu_sigma": Preset(
        model=gpt(40, 5120, 20_480, 40, 40_960, num_dense_layers=32, experts=RRE),
        total=1.085e12, length=1024, tokens=329e9, source="Ren et al. 2023, section 3",
        note="the vocabulary and the number of groups of experts are ours",
    ),
    "gpt4_16x111b": Preset(
        model=gpt(120, 10_752, 43_008, 84, 100_352, 16),
        total=1.76e12, active=280e9, length=8192, tokens=13e12, source=RUMOUR,
        note="widths chosen so that an expert is the rumoured 111B and attention 55B",
    ),
    "gpt4_8x220b": Preset(
        model=gpt(120, 12_288, 49_152, 96, 100_352, 8),
        total=1.76e12, length=8192, source=RUMOUR,
        note="'8 x 220B' of a 220B dense model: attention is shared, so it is less than 1.76T",
    ),
}  # fmt: skip
