"""The loss: cross-entropy per token, plus each MoE layer's balance and z-loss.

The forward pass returns sums, not means (`Sums`). Micro-batches add their sums, and only the total
becomes a loss. So gradient accumulation leaves the balance loss, which is not linear, exactly
what it is on the whole batch (routers that draw noise draw it afresh in each micro-batch); the
price is one recomputed forward pass.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import sharding
from moe.layers import embedding
from moe.routing import tally


class Inputs(NamedTuple):
    """What a step reads, int32 [B, T]; see `moe.data.batches.Batch`."""

    tokens_BT: jax.Array
    targets_BT: jax.Array
    segment_BT: jax.Array  # 0 is padding
    position_BT: jax.Array


class Sums(NamedTuple):
    """Sums over the real tokens of a batch; they add across micro-batches."""

    nll: jax.Array  # nats
    tokens: jax.Array
    tallies: tally.Tally | None  # stacked over the MoE layers, None for a dense model


def forward(network, params, inputs: Inputs, key, train: bool) -> tuple[Sums, jax.Array]:
    """Runs the network.

    Returns:
      The sums, and nll_BT in nats, 0 at padding.

    Raises:
      ValueError: if a model with MoE layers returns no tally, so that no loss is silently zero.
    """
    tokens, targets, segment, position = inputs
    logits_BTV, aux = network.apply(
        {"params": params}, tokens, segment, position, train,
        rngs={"router": key}, mutable=["router"],
    )  # fmt: skip
    nll_BT = cross_entropy(logits_BTV, targets) * (segment > 0)
    tallies = _tallies(aux)
    if (tallies is None) != (network.config.moe is None):
        raise ValueError(f"config.moe={network.config.moe} but the network sowed {tallies}")
    return Sums(nll_BT.sum(), (segment > 0).sum().astype(jnp.float32), tallies), nll_BT


def cross_entropy(logits_BTV, targets_BT):
    """-log p(target), float32 nats [B, T]."""
    return jax.nn.logsumexp(logits_BTV, axis=-1) - embedding.pick(logits_BTV, targets_BT)


def total(sums: Sums, moe) -> tuple[jax.Array, dict]:
    """The loss to minimise and its metrics, from the sums of a whole batch.

    Router losses and statistics are means over the MoE layers; load_LE is kept by layer.
    """
    nll = sums.nll / jnp.maximum(sums.tokens, 1.0)
    if moe is None:
        return nll, {"loss": nll, "nll": nll}
    by_layer = jax.vmap(tally.statistics)(sums.tallies)
    load_LE = by_layer.pop("load_E")
    means = jax.tree.map(jnp.mean, by_layer)
    loss = nll + moe.balance_weight * means["balance"] + moe.z_weight * means["router_z"]
    return loss, {"loss": loss, "nll": nll, **means, "load_LE": load_LE}


def value_and_grad(network, params, inputs: Inputs, key, accumulate: int = 1):
    """((loss, metrics), gradients) of one batch, in `accumulate` micro-batches.

    Args:
      inputs: [B, T] fields; B a multiple of `accumulate` times the sequences of a group.
        Micro-batch i takes every accumulate-th group, so that it lies on all devices and keeps
        its groups whole.
    """
    moe = network.config.moe
    together = max(1, moe.group_size // inputs.tokens_BT.shape[1]) if moe else 1

    def loss_fn(params):
        if accumulate == 1:
            return total(forward(network, params, inputs, key, True)[0], moe)

        @jax.checkpoint
        def micro(params, i):
            part = jax.tree.map(lambda x: _micro_batch(x, i, accumulate, together), inputs)
            return forward(network, params, part, jax.random.fold_in(key, i), True)[0]

        first = micro(params, 0)
        rest, _ = jax.lax.scan(
            lambda sums, i: (jax.tree.map(jnp.add, sums, micro(params, i)), None),
            first, jnp.arange(1, accumulate),
        )  # fmt: skip
        return total(rest, moe)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)


def _micro_batch(x_BT, i, accumulate, together):
    B, T = x_BT.shape
    blocks = sharding.reshape_tokens(x_BT, (B // accumulate // together, accumulate, together, T))
    block = jax.lax.dynamic_index_in_dim(blocks, i, axis=1, keepdims=False)
    return sharding.reshape_tokens(block, (B // accumulate, T))


def _tallies(aux):
    found = jax.tree.leaves(aux, is_leaf=lambda x: isinstance(x, tally.Tally))
    if len(found) > 1:
        raise ValueError(f"the network sowed {len(found)} tallies, expected one stack of layers")
    return found[0] if found else None
