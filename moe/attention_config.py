"""What published models do differently in attention; the defaults are what our own models do."""

from dataclasses import dataclass

from moe import ranges
from moe.schema import one_of, require

LAYOUTS = ("halves", "pairs")
QK_NORMS = ("none", "width", "head")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How queries, keys and values become scores, in this order."""

    qkv_bias: bool = False  # added to the projections: Qwen2
    # RMSNorm of queries and keys, over all heads together (OLMoE) or each head alone (Qwen3)
    qk_norm: str = "none"
    clip_qkv: float = 0.0  # queries, keys and values lie within +- it: DBRX; 0: anywhere
    rope_theta: float = 10_000.0  # the slowest pair of a head turns by about 1 / theta a position
    rope_layout: str = (
        "halves"  # (h, h + H/2) turn together as in GPT-NeoX, or "pairs" (2h, 2h + 1)
    )
    scaled: bool = True  # scores are divided by sqrt(H); else, as in T5, initial queries are
    window: int = 0  # a token sees so many, itself the last: Mistral; 0: all before it

    def __post_init__(self) -> None:
        ranges.check(self, "model.attention", ranges.ATTENTION)
        one_of("model.attention.qk_norm", self.qk_norm, QK_NORMS)
        one_of("model.attention.rope_layout", self.rope_layout, LAYOUTS)

    def check(self, position: str, causal: bool) -> None:
        """Refuses what does nothing, or has no meaning, in a model.

        Args:
          position: the model's.
          causal: whether it sees no later token.
        """
        for name in ("rope_theta", "rope_layout"):
            require(
                position == "rotary" or getattr(self, name) == getattr(AttentionConfig, name),
                f"model.attention.{name}={getattr(self, name)!r} does nothing with"
                f" model.position={position!r}: leave it out, or use 'rotary'",
            )
        require(
            causal or not self.window,
            f"model.attention.window={self.window} counts tokens before each: set it to 0 with"
            " model.causal=False",
        )
