"""Ideal FLOPs of a stack of layers and its head, in closed form: what the maths needs."""

from moe import ffn
from moe.config import ModelConfig


def flops(config: ModelConfig, length: int) -> dict[str, float]:
    """Ideal FLOPs per token of a training step by part, in closed form (3 x forward).

    Args:
      config: of the model.
      length: T, over which causal attention averages.

    Routed experts are as many as a token meets on average, or at most
    (`Router.experts_per_token`): K for most. What a capacity factor below 1 drops is not taken off:
    then fewer may be executed.
    """
    D = config.d_model
    forward = {
        "attention": config.num_layers * _attention_flops(config, length),
        "dense_ffn": (config.num_layers - config.moe_layers) * _dense_flops(config),
        "head": 2 * D * config.vocab_size,
    }
    if config.experts:
        matrices = ffn.num_matrices(config.activation)
        met = config.experts.routing.experts_per_token(config.experts)
        one = 2 * matrices * D * config.experts.d_ff
        forward["experts"] = config.moe_layers * (met + config.experts.shared_experts) * one
    return {part: 3.0 * flops for part, flops in forward.items()}


def _attention_flops(config, length):
    attended = config.num_heads * config.d_head
    keys = config.kv_heads * config.d_head
    return 4 * config.d_model * (attended + keys) + 4 * attended * _met(config, length)


def _met(config, length):
    """The mean number of positions that a token attends to."""
    if not config.causal:
        return length
    window = min(config.attention.window or length, length)
    return window - window * (window - 1) / (2 * length)


def _dense_flops(config):
    matrices = ffn.num_matrices(config.dense_activation or config.activation)
    return 2 * matrices * config.d_model * config.d_ff
