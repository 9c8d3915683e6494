"""The published models by name, at their papers' sizes.

A preset is a `ModelConfig` and what its paper says of it. Sizes come from `jax.eval_shape`, so none
is ever made in memory: `python -m experiments.plan --model NAME`. What our models do not have
(biases of feed-forwards, LayerNorm's bias, a paper's own router) is a matter of less than 1% of
parameters, except where `note` says more. All presets have a capacity, so they drop tokens, also
where the paper drops none (Mixtral, OLMoE, DBRX); `dispatcher="grouped"` with both capacity factors
0 computes every choice.
"""

from moe.errors import UserError
from moe.presets.contract import Preset
from moe.presets.decoders import DECODERS
from moe.presets.encoder_decoders import ENCODER_DECODERS

PRESETS = DECODERS | ENCODER_DECODERS


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
      UserError: if there is none; all names are shown.
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]
