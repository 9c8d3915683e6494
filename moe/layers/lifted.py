"""Experts that are not feed-forwards: any Flax module, E times, with parameters of their own.

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x_BTD, mask_BT, train):
            return nn.Dense(x_BTD.shape[-1])(x_BTD)

    layer = LiftedMoELayer(MoEConfig(num_experts=4, d_ff=1, k=2), expert=Linear())

An expert is called as `MoELayer` is, so mixtures nest. Its B are groups and its T are slots: it
sees the tokens that chose it, those of a text in their order unless the router has priorities, and
behind them empty slots, which are zeros and False in mask_BT. With the dispatcher "oracle" it sees
every token, at E / K times the cost, and gates pick what counts.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import schema, sharding
from moe.layers import records
from moe.layers.moe_layer import MoELayer, Slotted
from moe.routing import assignment

KEPT = {"params", records.COLLECTION}  # variables of an expert


class LiftedMoELayer(MoELayer):
    """A `MoELayer` whose experts are copies of `expert`, each born from a key of its own.

    They draw nothing: no keys are handed to them. A mixture within it leaves its records, with a
    leading axis E, below its own; `records.by_path` tells them apart. On a mesh experts lie on the
    axis `expert`, and each of the devices along `data` gives them its own groups. The fields
    `activation`, `init_scale` and `dtype` are those of feed-forwards, and are not read.
    """

    expert: nn.Module | None = None

    def check(self, x_BTD: jax.Array) -> None:
        """Refuses what these experts do not take, and settings that would do nothing."""
        super().check(x_BTD)
        config = self.config
        schema.require(self.expert is not None, "expert is missing: give a Flax module")
        schema.require(
            not config.dropless,
            f"experts.dispatcher={config.dispatcher!r} multiplies feed-forwards and has no slots:"
            " use 'gather', 'einsum' or 'oracle'",
        )
        for name, idle in {"d_ff": 1, "shared_experts": 0, "expert_dropout": 0.0}.items():
            found = getattr(config, name)
            schema.require(
                found == idle,
                f"experts.{name}={found} is of feed-forwards, and does nothing with experts that"
                f" are {type(self.expert).__name__}: set it to {idle}",
            )

    def in_slots(self, x_EGCD: jax.Array, slots: Slotted, tokens: int, train: bool) -> jax.Array:
        """y_EGCD of the lifted experts."""
        assert self.expert is not None  # `check` saw to it
        expert = self.expert.clone(parent=None, name=None)
        params = self.param("experts", init, expert, len(x_EGCD), x_EGCD.shape[2:])
        filled_EGC = self._filled(x_EGCD, slots, tokens)
        y_EGCD, left = apply(expert, params, x_EGCD, filled_EGC, train)
        if left and self.is_mutable_collection(records.COLLECTION):
            self.put_variable(records.COLLECTION, "experts", left)
        return y_EGCD

    def _filled(self, x_EGCD: jax.Array, slots: Slotted, tokens: int) -> jax.Array:
        """Where somebody sits, [E, G, C]: everywhere, if all experts see all tokens."""
        if self.config.dispatcher == "oracle" or not isinstance(slots, assignment.Slots):
            return jnp.ones_like(x_EGCD[..., 0], bool)
        return sharding.reshard((slots.token_GEC < tokens).swapaxes(0, 1), "EGC")


def init(key: jax.Array, expert: nn.Module, number: int, shape: tuple[int, int]) -> Any:
    """The parameters of so many copies of an expert, each leaf [E, ...].

    Args:
      key: of what they draw.
      expert: a module that is called as `MoELayer`.
      number: E.
      shape: C and D of what they will read.

    Raises:
      UserError: if an expert has variables that are no parameters.
    """

    def one(key: jax.Array) -> Any:
        x_1CD = jnp.zeros((1, *shape))
        found = expert.init(key, x_1CD, jnp.ones(x_1CD.shape[:2], bool), False)
        schema.require(
            found.keys() <= KEPT,
            f"an expert may have parameters alone; {type(expert).__name__} has"
            f" {', '.join(sorted(found.keys() - KEPT))}, too",
        )
        return found.get("params", {})

    with sharding.local():
        params = jax.vmap(one)(jax.random.split(key, number))
    return jax.tree.map(lambda w: sharding.reshard(w, "E" + "." * (w.ndim - 1)), params)


def apply(
    expert: nn.Module, params: Any, x_EGCD: jax.Array, filled_EGC: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
    """y_EGCD of copies of an expert, and the records that mixtures among them leave, [E, ...].

    Args:
      expert: the module.
      params: of `init`.
      x_EGCD: slots, zeros where nobody sits.
      filled_EGC: where somebody sits.
      train: is handed to the experts.

    Raises:
      UserError: if such mixtures would leave statistics of parts of a mesh.
    """

    def one(params: Any, x_GCD: jax.Array, filled_GC: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params}
        y_GCD, left = expert.apply(variables, x_GCD, filled_GC, train, mutable=[records.COLLECTION])
        schema.require(
            not left or sharding.num_devices() == 1,
            f"{type(expert).__name__} has mixtures in it, whose statistics are not gathered over"
            " a mesh: use one device",
        )
        return y_GCD, left.get(records.COLLECTION, {})

    def local(*given: Any) -> tuple[jax.Array, Any]:
        with sharding.local():
            return jax.vmap(one)(*given)

    mapped = sharding.shard_mapped(local, ("E", "EGCD", "EGC"), ("EGCD", "E"), checked=False)
    return mapped(params, x_EGCD, filled_EGC)
