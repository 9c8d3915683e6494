"""The Mixture-of-Experts layer: logits, router, seats, dispatch, experts, combine.

What happened leaves through one `sow`: the collection "router" holds a `tally.Tally` per layer.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import dispatch, routing, sharding
from moe.config import ModelConfig
from moe.dispatch import groups, transport
from moe.layers import feed_forward, weights
from moe.routing import assignment, tally


class MoELayer(nn.Module):
    """x_BTD -> y_BTD. A dropped token gets zeros: the residual connection carries it on."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train: bool):
        moe = self.config.moe
        router, dispatcher = routing.ROUTERS[moe.router], dispatch.DISPATCHERS[moe.dispatcher]
        B, T, _ = x_BTD.shape
        S = moe.tokens_per_group(T)
        x_GSD, mask_GS = groups.split(x_BTD, S), groups.split(mask_BT, S)

        with jax.named_scope("router"):
            logits_GSE = self.logits(x_GSD, train) if router.learned else self.no_logits(x_GSD)
            key = self.make_rng("router") if router.random else None
            choice = router.choose(logits_GSE, mask_GS, moe.k, key)
        with jax.named_scope("dispatch"):
            C = assignment.capacity(moe.factor(train), S, moe.k, moe.num_experts)
            seat = functools.partial(assignment.seat, experts=moe.num_experts, slots=C)
            slots = sharding.over_groups(seat)(choice)
            x_EGCD = transport.send(dispatcher.dispatch, x_GSD, slots)
        with jax.named_scope("experts"):
            y_EGCD = self.bank()(x_EGCD)
        with jax.named_scope("dispatch"):
            combine = functools.partial(dispatcher.combine, tokens=S)
            y_GSD = transport.receive(combine, y_EGCD, slots)
        with jax.named_scope("router"):
            counted = tally.count(logits_GSE, mask_GS, choice, slots)
            self.sow("router", "tally", counted, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return groups.join(y_GSD, B, T)

    def bank(self):
        """The experts, all E of them in packed weights."""
        model, moe = self.config, self.config.moe
        return feed_forward.FeedForward(
            d_ff=moe.d_ff,
            activation=model.activation,
            init_scale=model.init_scale,
            dtype=model.dtype,
            num_experts=moe.num_experts,
            name="experts",
        )

    def logits(self, x_GSD, train):
        """Router logits in float32, from the router's own jittered copy of its input."""
        moe = self.config.moe
        x_GSD = x_GSD.astype(jnp.float32)
        if train and moe.jitter:
            noise_GSD = jax.random.uniform(
                self.make_rng("router"), x_GSD.shape, minval=-1.0, out_sharding=sharding.out("GSD")
            )
            x_GSD *= 1 + moe.jitter * noise_GSD
        shape = (x_GSD.shape[-1], moe.num_experts)
        # Replicated, not spread by E: every device routes its own tokens over all experts.
        w_DE = weights.weight(self, "router", "D.", shape, fan_in=shape[0], scale=moe.router_scale)
        return jnp.einsum("GSD,DE->GSE", x_GSD, w_DE, precision=jax.lax.Precision.HIGHEST)

    def no_logits(self, x_GSD):
        """Zeros in place of logits, for routers that have no weights."""
        zeros = jnp.zeros((*x_GSD.shape[:2], self.config.moe.num_experts), jnp.float32)
        return sharding.reshard(zeros, "GSE")
