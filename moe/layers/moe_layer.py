"""The Mixture-of-Experts layer: logits, router, slots, dispatch, experts, combine.

In someone else's Flax model:

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x_BTD):
            experts = MoEConfig(num_experts=8, d_ff=512, k=2)
            return x_BTD + MoELayer(experts, activation="swiglu")(x_BTD)

    y_BTD, sown = Block().apply(variables, x_BTD, mutable=["router"])
    record = records.collect(sown)  # statistics of all MoE layers, from which losses are made

The layer sows one `records.RouterRecord`. A router's own state comes in as the collection
"router_state", and recorded choices that are to be used again as the collection "replayed".
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import dispatch, ffn, matmul, schema, sharding
from moe.config import MoEConfig
from moe.dispatch import grouped, groups, transport
from moe.errors import UserError
from moe.execution import Execution
from moe.layers import feed_forward, kept, records, weights
from moe.routing import assignment, contract, stats

Slotted = assignment.Slots | assignment.DispatchMasks
Dispatched = Slotted | assignment.DispatchResult


class Read(NamedTuple):
    """What some routers read of tokens beside their scores, [B, T]."""

    ids: jax.Array | None
    domain: jax.Array | None
    segment: jax.Array | None


class MoELayer(nn.Module):
    """x_BTD -> y_BTD. A dropped token gets zeros from experts: the residual connection carries it.

    Args of `__call__`:
      x_BTD: tokens.
      mask_BT: True for real tokens; all are if it is None.
      train: training or evaluation (capacity factor, jitter, dropout).
      ids_BT, domain_BT, segment_BT: token ids, document domains and the number of each document in
        its row, for routers that read them.
    """

    config: MoEConfig
    activation: str = "gelu"
    init_scale: float = 1.0
    dtype: str = "float32"
    execution: Execution = Execution()  # across a mesh

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask_BT: jax.Array | None = None,
        train: bool = False,
        ids_BT: jax.Array | None = None,
        domain_BT: jax.Array | None = None,
        segment_BT: jax.Array | None = None,
    ) -> jax.Array:
        self.check(x_BTD)
        B, T, _ = x_BTD.shape
        if mask_BT is None:
            mask_BT = jnp.ones_like(x_BTD[..., 0], bool)
        S = self.config.tokens_per_group(T)
        x_GSD = groups.split(x_BTD, S)
        mask_GS = groups.split(mask_BT, S)
        with jax.named_scope("router"):
            routed = self.route(x_GSD, mask_GS, Read(ids_BT, domain_BT, segment_BT), train)
        y_GSD, slots = self.through_experts(x_GSD, routed, train)
        with jax.named_scope("router"):
            self.record(routed, slots, x_GSD, mask_GS, B, T)
        return self.add_shared_experts(groups.join(y_GSD, B, T), x_BTD, train)

    def check(self, x_BTD: jax.Array) -> None:
        """Refuses what no experts take."""
        schema.one_of("activation", self.activation, ffn.ACTIVATIONS)
        schema.require(
            x_BTD.ndim == 3, f"x_BTD must be [batch, positions, width], not {x_BTD.shape}"
        )

    def route(
        self, x_GSD: jax.Array, mask_GS: jax.Array, read: Read, train: bool
    ) -> contract.RouterOutput:
        """Who goes where."""
        config = self.config
        C = config.slots(mask_GS.shape[1], train)
        settings = contract.RouterSettings(config.num_experts, config.k, C, train, config.options)
        carried = kept.carried(self, config, len(mask_GS))
        values = {name: variable.value for name, variable in carried.items()}
        inputs = self.router_inputs(x_GSD, mask_GS, read, train)
        routed = config.routing.route(inputs._replace(carried=values), settings)
        for name, variable in carried.items():
            variable.value = routed.carried[name]
        return routed

    def through_experts(
        self, x_GSD: jax.Array, routed: contract.RouterOutput, train: bool
    ) -> tuple[jax.Array, Dispatched]:
        """y_GSD, and what became of every choice."""
        if self.config.dropless:
            return self.without_slots(x_GSD, routed)
        return self.through_slots(x_GSD, routed, train)

    def through_slots(
        self, x_GSD: jax.Array, routed: contract.RouterOutput, train: bool
    ) -> tuple[jax.Array, Dispatched]:
        """The capacity path: returns y_GSD and the slots, into which choices are first turned."""
        dispatcher = dispatch.DISPATCHERS[self.config.dispatcher]
        with jax.named_scope("dispatch"):
            slots = self.assign_slots(routed, self.config.slots(x_GSD.shape[1], train))
            x_EGCD = transport.send(dispatcher.dispatch, x_GSD, slots, self.execution.transport)
        with jax.named_scope("experts"):
            y_EGCD = self.in_slots(x_EGCD, slots, x_GSD.shape[1], train)
        with jax.named_scope("dispatch"):
            combine = functools.partial(dispatcher.combine, tokens=x_GSD.shape[1])
            return transport.receive(combine, y_EGCD, slots, self.execution.transport), slots

    def in_slots(self, x_EGCD: jax.Array, slots: Slotted, tokens: int, train: bool) -> jax.Array:
        """y_EGCD: what the experts make of their slots, in which so many tokens of a group sit."""
        del slots, tokens  # an empty slot is as good as any to a feed-forward
        expert_weights = self.weights("experts", x_EGCD.shape[-1])
        drop = self.dropout(train, "EGF")
        return ffn.apply(x_EGCD, expert_weights, self.activation, "EGC", "E", hidden_fn=drop)

    def without_slots(
        self, x_GSD: jax.Array, routed: contract.RouterOutput
    ) -> tuple[jax.Array, assignment.DispatchResult]:
        """The dropless path: returns y_GSD and an `assignment.DispatchResult`."""
        with jax.named_scope("dispatch"):
            expert_weights = self.weights("experts", x_GSD.shape[-1])
            choice = routed.assignment
            assert isinstance(choice, assignment.TopKAssignment)  # the config saw to it
            return grouped.apply(
                x_GSD,
                kept.seated(self, self.config, choice) if self.config.seats else choice,
                expert_weights,
                self.activation,
                self.execution.implementation,
                self.execution.ep_capacity_factor,
            )

    def add_shared_experts(self, y_BTD: jax.Array, x_BTD: jax.Array, train: bool) -> jax.Array:
        """y_BTD and what the experts that see every token add to it."""
        if not self.config.shared_experts:
            return y_BTD
        with jax.named_scope("experts"):
            shared_weights = self.weights("shared", x_BTD.shape[-1])
            drop = self.dropout(train, "BF")
            return y_BTD + ffn.apply(x_BTD, shared_weights, self.activation, "BT", hidden_fn=drop)

    def weights(self, name: str, d_model: int) -> ffn.Weights:
        """The "experts", packed along E, or those "shared" by all tokens, as one feed-forward."""
        shared = name == "shared"
        return feed_forward.FeedForwardWeights(
            d_ff=self.config.d_ff * (self.config.shared_experts if shared else 1),
            activation=self.activation,
            init_scale=self.init_scale,
            dtype=self.dtype,
            num_experts=None if shared else self.config.num_experts,
            name=name,
        )(d_model)

    def dropout(self, train: bool, letters: str) -> Callable[[jax.Array], jax.Array]:
        """The function that drops hidden units, in training."""
        rate = self.config.expert_dropout
        if not (train and rate):
            return ffn.identity
        key = self.make_rng("dropout")
        return functools.partial(feed_forward.dropout, rate=rate, key=key, letters=letters)

    def router_inputs(
        self, x_GSD: jax.Array, mask_GS: jax.Array, read: Read, train: bool
    ) -> contract.RouterInputs:
        """What the router may read."""
        S = mask_GS.shape[1]
        return contract.RouterInputs(
            logits=self.logits(x_GSD, train) if self.config.routing.learned else {},
            mask_GS=mask_GS,
            ids_GS=None if read.ids is None else groups.split(read.ids, S),
            domain_GS=None if read.domain is None else groups.split(read.domain, S),
            key=self.make_rng("router") if self.has_rng("router") else None,
            state=self.variables.get("router_state", {}),
            replayed=self.replayed_choices(),
            document_GS=None if read.segment is None else groups.documents(read.segment, S),
        )

    def replayed_choices(self) -> jax.Array | None:
        """expert_GSK to use again, None if the router is to choose."""
        found = self.variables.get("replayed", {}).get("expert_GSK")
        if found is not None and self.config.routing.kind is not assignment.TopKAssignment:
            raise UserError(
                f"tokens do not choose under {self.config.router!r}: there is nothing to replay"
            )
        return found

    def logits(self, x_GSD: jax.Array, train: bool) -> dict[str, jax.Array]:
        """The router's scores as float32, from its own jittered copy of its input."""
        config = self.config
        x_GSD = x_GSD.astype(config.router_dtype)
        if train and config.jitter:
            layout = sharding.out_sharding("GSD")
            schema.require(
                self.has_rng("router"),
                f"jitter={config.jitter} draws in training: pass rngs={{'router': key}} to apply",
            )
            key = self.make_rng("router")
            noise_GSD = jax.random.uniform(
                key, x_GSD.shape, x_GSD.dtype, minval=-1.0, out_sharding=layout
            )
            x_GSD *= 1 + config.jitter * noise_GSD
        columns = config.routing.projections(config)
        return {name: self.score(x_GSD, name, number) for name, number in columns.items()}

    def score(self, x_GSD: jax.Array, name: str, columns: int) -> jax.Array:
        # Replicated, not spread by E: every device routes its own tokens over all experts.
        D = x_GSD.shape[-1]
        if name in self.config.routing.detached:
            x_GSD = jax.lax.stop_gradient(x_GSD)
        scale = self.config.router_scale
        assert scale is not None  # the config has put the router's own there
        dtype = self.config.router_dtype
        shape = (D, columns)
        w_DE = weights.weight(self, name, "D.", shape, fan_in=D, scale=scale, dtype=dtype)
        exact = jax.lax.Precision.HIGHEST
        s_GSE = matmul.einsum("GSD,DE->GSE", x_GSD, w_DE, precision=exact)
        return s_GSE.astype(jnp.float32)

    def assign_slots(self, routed: contract.RouterOutput, C: int) -> Slotted:
        """Slots, or dense dispatch and combine masks where the router gives these."""
        chosen = routed.assignment
        if not isinstance(chosen, assignment.TopKAssignment):
            return chosen
        E = self.config.num_experts

        def assign(chosen: assignment.TopKAssignment, priority_GS: jax.Array) -> assignment.Slots:
            return assignment.assign_slots(chosen, E, C, priority_GS)

        return sharding.map_groups(assign)(chosen, routed.priority_GS)

    def record(
        self,
        routed: contract.RouterOutput,
        slots: Dispatched,
        x_GSD: jax.Array,
        mask_GS: jax.Array,
        B: int,
        T: int,
    ) -> None:
        """Sows the record of this layer."""
        chosen = routed.assignment
        policy = routed.policy
        if policy is not None:
            policy = jax.tree.map(lambda x_GS: groups.join(x_GS, B, T), policy)
        record = records.RouterRecord(
            stats=stats.compute(routed, slots, mask_GS),
            assignment=chosen if isinstance(chosen, assignment.TopKAssignment) else None,
            policy=policy,
            x_GSD=x_GSD if self.execution.watched else None,
        )
        self.sow(records.COLLECTION, "record", record, reduce_fn=_last, init_fn=_nothing)


def _last(old, new):
    """A record replaces the one that was there."""
    del old
    return new


def _nothing():
    return None
