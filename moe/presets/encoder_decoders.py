"""T5, Switch and ST-MoE: both stacks, span corruption of 512 tokens into 114.

Switch's table 9 does not say which feed-forwards are gated. Totals do: gated ones of its d_ff meet
Base and Large, plain ones Switch-C (1571B to the digit).
"""

from typing import Any

from moe.config import MoEConfig
from moe.models.encoder_decoder import EncoderDecoderConfig
from moe.presets.contract import Preset

TOKENS = 568  # of text: 512 are left for the encoder, 114 for the decoder
SWITCH = "Fedus et al. 2021, table 9"


def t5(
    layers: int,
    d_model: int,
    d_ff: int,
    heads: int,
    d_head: int = 64,
    activation: str = "geglu",
    experts: MoEConfig | None = None,
    moe_every: int = 1,
    **changes: Any,
) -> EncoderDecoderConfig:
    """The sizes of one side, which both have; a tied head, as in T5 1.0 and Switch."""
    fields: dict[str, Any] = {
        "vocab_size": 32_128,
        "num_layers": layers,
        "moe_every": moe_every,
        "d_model": d_model,
        "num_heads": heads,
        "d_head": d_head,
        "d_ff": d_ff,
        "activation": activation,
        "remat": True,
        "experts": experts,
    }
    return EncoderDecoderConfig(**fields | changes)


def routed(number: int, d_ff: int, k: int = 1, **changes: Any) -> MoEConfig:
    """Experts as Switch routes to them."""
    return MoEConfig(num_experts=number, d_ff=d_ff, k=k, jitter=0.01, **changes)


RELEASED = routed(128, 3072, expert_capacity=64, capacity_factor=0.0, eval_capacity_factor=0.0)

ENCODER_DECODERS = {
    "t5_base": Preset(
        model=t5(12, 768, 2048, 12), total=0.22e9, length=TOKENS, source=SWITCH,
        note="its table rounds to 0.2B; T5 1.1 unties the head, 0.248B",
    ),
    "t5_large": Preset(
        model=t5(24, 1024, 2816, 16), total=0.7e9, length=TOKENS, source=SWITCH,
        note="its table rounds 0.75B",
    ),
    "t5_xxl": Preset(model=t5(24, 4096, 10_240, 64), total=11e9, length=TOKENS, source=SWITCH),
    "switch_base": Preset(
        model=t5(12, 768, 2048, 12, experts=routed(128, 2048), moe_every=2),
        total=7e9, length=TOKENS, twin="t5_base", source=SWITCH,
    ),
    "switch_base_released": Preset(
        model=t5(12, 768, 3072, 12, activation="relu", experts=RELEASED, moe_every=2),
        total=7.4e9, length=TOKENS, twin="t5_base", source="google/switch-base-128, the release",
        note="plain experts of 3072 have as many parameters as gated ones of 2048",
    ),
    "switch_large": Preset(
        model=t5(24, 1024, 2816, 16, experts=routed(128, 2816), moe_every=2),
        total=26e9, length=TOKENS, twin="t5_large", source=SWITCH,
    ),
    "switch_xxl": Preset(
        model=t5(24, 4096, 10_240, 64, experts=routed(64, 10_240), moe_every=2),
        total=395e9, length=TOKENS, twin="t5_xxl", source=SWITCH,
        note="64 experts, as the table says, are 201B; its 395B are 128 of them",
    ),
    "switch_c": Preset(
        model=t5(15, 2080, 6144, 32, activation="relu", experts=routed(2048, 6144)),
        total=1571e9, length=TOKENS, source=SWITCH,
        note="the release has 30 heads",
    ),
    "st_moe_32b": Preset(
        model=t5(
            27, 5120, 20_480, 64, 128,
            experts=routed(64, 20_480, k=2), moe_every=4, num_dense_layers=3,
        ),
        total=269e9, length=TOKENS, source="Zoph et al. 2022, ST-MoE-32B",
        note="its 27 layers are three dense ones and six blocks of four",
    ),
}  # fmt: skip
