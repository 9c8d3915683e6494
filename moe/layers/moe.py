"""The Mixture-of-Experts layer: logits, router, seats, dispatch, experts, combine.

What happened leaves through one `sow`: the collection "router" holds a `tally.Tally` per layer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import dispatch, routing, sharding
from moe.config import ModelConfig
from moe.dispatch import groups
from moe.layers import feed_forward, weights
from moe.routing import assignment, tally


class MoELayer(nn.Module):
    """x_BTD -> y_BTD. A dropped token gets zeros: the residual connection carries it on."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train: bool):
        model, moe = self.config, self.config.moe
        router, dispatcher = routing.ROUTERS[moe.router], dispatch.DISPATCHERS[moe.dispatcher]
        B, T, _ = x_BTD.shape
        S = moe.tokens_per_group(B, T)
        x_GSD, mask_GS = groups.split(x_BTD, S), groups.split(mask_BT, S)

        with jax.named_scope("router"):
            logits_GSE = self.logits(x_GSD, train) if router.learned else self.no_logits(x_GSD)
            key = self.make_rng("router") if router.random else None
            choice = router.choose(logits_GSE, mask_GS, moe.k, key)
        with jax.named_scope("dispatch"):
            C = assignment.capacity(moe.factor(train), S, moe.k, moe.num_experts)
            seat = sharding.over_groups(lambda choice: assignment.seat(choice, moe.num_experts, C))
            slots = seat(choice)
            x_GECD = sharding.over_groups(dispatcher.dispatch)(x_GSD, slots)
            x_EGCD = sharding.to_experts(x_GECD)
        with jax.named_scope("experts"):
            y_EGCD = feed_forward.FeedForward(
                moe.d_ff, model.activation, model.init_scale, model.dtype, moe.num_experts,
                name="experts",
            )(x_EGCD)  # fmt: skip
        with jax.named_scope("dispatch"):
            y_GECD = sharding.to_tokens(y_EGCD)
            y_GSD = sharding.over_groups(lambda y, slots: dispatcher.combine(y, slots, S))(
                y_GECD, slots
            )
        with jax.named_scope("router"):
            counted = tally.count(logits_GSE, mask_GS, choice, slots)
            self.sow("router", "tally", counted, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return groups.join(y_GSD, B, T)

    def logits(self, x_GSD, train):
        """Router logits in float32, from the router's own jittered copy of its input."""
        moe = self.config.moe
        x_GSD = x_GSD.astype(jnp.float32)
        if train and moe.jitter:
            low, high = 1 - moe.jitter, 1 + moe.jitter
            x_GSD *= jax.random.uniform(
                self.make_rng("router"), x_GSD.shape, minval=low, maxval=high
            )
        D = x_GSD.shape[-1]
        w_DE = weights.weight(
            self, "router", "D.", (D, moe.num_experts), fan_in=D, scale=moe.router_scale
        )
        return jnp.einsum("GSD,DE->GSE", x_GSD, w_DE)

    def no_logits(self, x_GSD):
        """Zeros in place of logits, for routers that have no weights."""
        zeros = jnp.zeros((*x_GSD.shape[:2], self.config.moe.num_experts), jnp.float32)
        return sharding.reshard(zeros, "GSE")
