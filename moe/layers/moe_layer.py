"""The Mixture-of-Experts layer: logits, router, slots, dispatch, experts, combine.

What happened leaves through `sow`: the collection "router" holds a `stats.RouterStats` per layer,
"policy" what a router that learns from reward says, and "choices" expert_GSK and gate_GSK, where
tokens choose. Given back as the collection "replayed", expert_GSK is replayed. A router's own state
comes in as the collection "routing" (`decoder.routing_variables` wraps both).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import dispatch, matmul, sharding
from moe.config import ModelConfig
from moe.dispatch import grouped, groups, transport
from moe.layers import feed_forward, weights
from moe.routing import assignment, contract, stats


class MoELayer(nn.Module):
    """x_BTD -> y_BTD. A dropped token gets zeros from experts: the residual connection carries it.

    Args of `__call__`:
      mask_BT: True for real tokens.
      ids_BT, domain_BT: token ids and document domains, for routers that read them.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train: bool, ids_BT=None, domain_BT=None):
        config = self.config.experts
        B, T, _ = x_BTD.shape
        S = config.tokens_per_group(T)
        x_GSD, mask_GS = groups.split(x_BTD, S), groups.split(mask_BT, S)
        C = config.slots(S, train)

        with jax.named_scope("router"):
            settings = contract.RouterSettings(
                config.num_experts, config.k, C, train, config.options
            )
            routed = config.routing.route(
                self.seen(x_GSD, mask_GS, ids_BT, domain_BT, train), settings
            )
        if isinstance(routed.assignment, assignment.TopKAssignment):
            for name, value in routed.assignment._asdict().items():
                self.sow_last("choices", name, value)
        if config.dropless:
            y_GSD, slots = self.dropless(x_GSD, routed, train)
        else:
            y_GSD, slots = self.in_slots(x_GSD, routed, C, train)
        with jax.named_scope("router"):
            self.sow_last("router", "router_stats", stats.compute(routed, slots, mask_GS))
            if routed.policy is not None:
                join = functools.partial(groups.join, batch=B, length=T)
                self.sow_last("policy", "policy", jax.tree.map(join, routed.policy))
        y_BTD = groups.join(y_GSD, B, T)
        if not config.shared_experts:
            return y_BTD
        with jax.named_scope("experts"):
            return y_BTD + self.experts(config.shared_experts * config.d_ff, None, "shared")(
                x_BTD, train
            )

    def in_slots(self, x_GSD, routed, C, train):
        """y_GSD by slots, and these: tokens that chose are given a slot, the others sit already."""
        config = self.config.experts
        dispatcher = dispatch.DISPATCHERS[config.dispatcher]
        with jax.named_scope("dispatch"):
            slots = self.slots(routed, C)
            x_EGCD = transport.send(dispatcher.dispatch, x_GSD, slots)
        with jax.named_scope("experts"):
            y_EGCD = self.experts(config.d_ff, config.num_experts, "experts")(x_EGCD, train)
        with jax.named_scope("dispatch"):
            combine = functools.partial(dispatcher.combine, tokens=x_GSD.shape[1])
            return transport.receive(combine, y_EGCD, slots), slots

    def dropless(self, x_GSD, routed, train):
        """y_GSD of every choice, and what became of them."""
        config, activation = self.config.experts, self.config.activation

        def by(x_GSD, weights):
            return grouped.apply(x_GSD, routed.assignment, weights, activation)

        with jax.named_scope("dispatch"):
            return self.experts(config.d_ff, config.num_experts, "experts")(x_GSD, train, by)

    def experts(self, d_ff, number, name):
        """All E experts in packed weights, or those that every token meets as one."""
        model = self.config
        return feed_forward.FeedForward(
            d_ff=d_ff,
            activation=model.activation,
            init_scale=model.init_scale,
            dtype=model.dtype,
            num_experts=number,
            dropout=model.experts.expert_dropout,
            name=name,
        )

    def seen(self, x_GSD, mask_GS, ids_BT, domain_BT, train) -> contract.RouterInputs:
        """What the router may read."""
        config, S = self.config.experts, mask_GS.shape[1]
        split = lambda x_BT: None if x_BT is None else groups.split(x_BT, S)  # noqa: E731
        return contract.RouterInputs(
            logits=self.logits(x_GSD, train) if config.routing.learned else {},
            mask_GS=mask_GS,
            ids_GS=split(ids_BT),
            domain_GS=split(domain_BT),
            key=self.make_rng("router") if self.has_rng("router") else None,
            state=self.variables.get("routing", {}),
            replayed=self.replayed(),
        )

    def replayed(self):
        """expert_GSK to replay, None if nothing is."""
        found = self.variables.get("replayed", {}).get("expert_GSK")
        if found is not None and self.config.experts.routing.kind is not assignment.TopKAssignment:
            raise ValueError(
                f"tokens do not choose under {self.config.experts.router!r}: nothing to force"
            )
        return found

    def logits(self, x_GSD, train):
        """The router's scores in float32, from its own jittered copy of its input."""
        config = self.config.experts
        x_GSD = x_GSD.astype(jnp.float32)
        if train and config.jitter:
            noise_GSD = jax.random.uniform(
                self.make_rng("router"),
                x_GSD.shape,
                minval=-1.0,
                out_sharding=sharding.out_sharding("GSD"),
            )
            x_GSD *= 1 + config.jitter * noise_GSD
        return {
            name: self.score(x_GSD, name, columns)
            for name, columns in config.routing.projections(config).items()
        }

    def score(self, x_GSD, name, columns):
        # Replicated, not spread by E: every device routes its own tokens over all experts.
        D, scale = x_GSD.shape[-1], self.config.experts.router_scale
        if name in self.config.experts.routing.detached:
            x_GSD = jax.lax.stop_gradient(x_GSD)
        w = weights.weight(self, name, "D.", (D, columns), fan_in=D, scale=scale)
        return matmul.einsum("GSD,DE->GSE", x_GSD, w, precision=jax.lax.Precision.HIGHEST)

    def slots(self, routed, C):
        """Slots, or DispatchMasks."""
        assigned = routed.assignment
        if not isinstance(assigned, assignment.TopKAssignment):
            return assigned
        E, priority_GS = self.config.experts.num_experts, routed.priority_GS
        seat = lambda choice, priority: assignment.assign_slots(choice, E, C, priority)  # noqa: E731
        return sharding.map_groups(seat)(assigned, priority_GS)

    def sow_last(self, collection, name, value):
        """Leaves `value` to whoever asks for the collection."""
        self.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
