"""The Mixture-of-Experts layer: logits, router, seats, dispatch, experts, combine.

What happened leaves through `sow`: the collection "router" holds a `tally.Tally` per layer,
"policy" what a router that learns from reward says, and "choices" expert_GSK and gate_GSK, where
tokens choose. Given back as the collection "forced", expert_GSK is replayed. A router's own state
comes in as the collection "routing" (`decoder.routing_variables` wraps both).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import dispatch, sharding
from moe.config import ModelConfig
from moe.dispatch import grouped, groups, transport
from moe.layers import feed_forward, products, weights
from moe.routing import assignment, contract, tally


class MoELayer(nn.Module):
    """x_BTD -> y_BTD. A dropped token gets zeros from experts: the residual connection carries it.

    Args of `__call__`:
      mask_BT: True for real tokens.
      ids_BT, domain_BT: token ids and document domains, for routers that read them.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train: bool, ids_BT=None, domain_BT=None):
        moe = self.config.moe
        B, T, _ = x_BTD.shape
        S = moe.tokens_per_group(T)
        x_GSD, mask_GS = groups.split(x_BTD, S), groups.split(mask_BT, S)
        C = moe.slots(S, train)

        with jax.named_scope("router"):
            setting = contract.Setting(moe.num_experts, moe.k, C, train, moe.options)
            routed = moe.routing.route(self.seen(x_GSD, mask_GS, ids_BT, domain_BT, train), setting)
        if isinstance(routed.assignment, assignment.Choice):
            for name, value in routed.assignment._asdict().items():
                self.tell("choices", name, value)
        if moe.dropless:
            y_GSD, seats = self.dropless(x_GSD, routed, train)
        else:
            y_GSD, seats = self.in_slots(x_GSD, routed, C, train)
        with jax.named_scope("router"):
            self.tell("router", "tally", tally.count(routed, seats, mask_GS))
            if routed.policy is not None:
                join = functools.partial(groups.join, batch=B, length=T)
                self.tell("policy", "policy", jax.tree.map(join, routed.policy))
        y_BTD = groups.join(y_GSD, B, T)
        if not moe.shared_experts:
            return y_BTD
        with jax.named_scope("experts"):
            return y_BTD + self.experts(moe.shared_experts * moe.d_ff, None, "shared")(x_BTD, train)

    def in_slots(self, x_GSD, routed, C, train):
        """y_GSD by slots, and these: tokens that chose are seated, the others sit already."""
        moe = self.config.moe
        dispatcher = dispatch.DISPATCHERS[moe.dispatcher]
        with jax.named_scope("dispatch"):
            seats = self.seats(routed, C)
            x_EGCD = transport.send(dispatcher.dispatch, x_GSD, seats)
        with jax.named_scope("experts"):
            y_EGCD = self.experts(moe.d_ff, moe.num_experts, "experts")(x_EGCD, train)
        with jax.named_scope("dispatch"):
            combine = functools.partial(dispatcher.combine, tokens=x_GSD.shape[1])
            return transport.receive(combine, y_EGCD, seats), seats

    def dropless(self, x_GSD, routed, train):
        """y_GSD of every choice, and what became of them."""
        moe, activation = self.config.moe, self.config.activation

        def by(x_GSD, weights):
            return grouped.apply(x_GSD, routed.assignment, weights, activation)

        with jax.named_scope("dispatch"):
            return self.experts(moe.d_ff, moe.num_experts, "experts")(x_GSD, train, by)

    def experts(self, d_ff, number, name):
        """All E experts in packed weights, or those that every token meets as one."""
        model = self.config
        return feed_forward.FeedForward(
            d_ff=d_ff,
            activation=model.activation,
            init_scale=model.init_scale,
            dtype=model.dtype,
            num_experts=number,
            dropout=model.moe.expert_dropout,
            name=name,
        )

    def seen(self, x_GSD, mask_GS, ids_BT, domain_BT, train) -> contract.Seen:
        """What the router may read."""
        moe, S = self.config.moe, mask_GS.shape[1]
        split = lambda x_BT: None if x_BT is None else groups.split(x_BT, S)  # noqa: E731
        return contract.Seen(
            logits=self.logits(x_GSD, train) if moe.routing.learned else {},
            mask_GS=mask_GS,
            ids_GS=split(ids_BT),
            domain_GS=split(domain_BT),
            key=self.make_rng("router") if self.has_rng("router") else None,
            state=self.variables.get("routing", {}),
            forced=self.forced(),
        )

    def forced(self):
        """expert_GSK to replay, None if nothing is."""
        found = self.variables.get("forced", {}).get("expert_GSK")
        if found is not None and self.config.moe.routing.kind is not assignment.Choice:
            raise ValueError(
                f"tokens do not choose under {self.config.moe.router!r}: nothing to force"
            )
        return found

    def logits(self, x_GSD, train):
        """The router's scores in float32, from its own jittered copy of its input."""
        moe = self.config.moe
        x_GSD = x_GSD.astype(jnp.float32)
        if train and moe.jitter:
            noise_GSD = jax.random.uniform(
                self.make_rng("router"), x_GSD.shape, minval=-1.0, out_sharding=sharding.out("GSD")
            )
            x_GSD *= 1 + moe.jitter * noise_GSD
        return {
            name: self.score(x_GSD, name, columns)
            for name, columns in moe.routing.matrices(moe).items()
        }

    def score(self, x_GSD, name, columns):
        # Replicated, not spread by E: every device routes its own tokens over all experts.
        D, scale = x_GSD.shape[-1], self.config.moe.router_scale
        if name in self.config.moe.routing.detached:
            x_GSD = jax.lax.stop_gradient(x_GSD)
        w = weights.weight(self, name, "D.", (D, columns), fan_in=D, scale=scale)
        return products.einsum("GSD,DE->GSE", x_GSD, w, precision=jax.lax.Precision.HIGHEST)

    def seats(self, routed, C):
        """Slots, or Mixing."""
        assigned = routed.assignment
        if not isinstance(assigned, assignment.Choice):
            return assigned
        E, priority_GS = self.config.moe.num_experts, routed.priority_GS
        seat = lambda choice, priority: assignment.seat(choice, E, C, priority)  # noqa: E731
        return sharding.over_groups(seat)(assigned, priority_GS)

    def tell(self, collection, name, value):
        """Leaves `value` to whoever asks for the collection."""
        self.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
