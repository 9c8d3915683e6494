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
from moe.models import decoder
from moe.routing import reinforce, stats

BY_LAYER = ("dropped", "max_load", "unused", "realised_k")


class Inputs(NamedTuple):
    """What a step reads, int32 [B, T]; see `moe.data.batches.Batch`."""

    tokens_BT: jax.Array
    targets_BT: jax.Array
    segment_BT: jax.Array  # 0 is padding
    position_BT: jax.Array
    domain_BT: jax.Array | None = None  # for routers that read it
    loss_mask_BT: jax.Array | None = None  # True where the target counts; None: at every real token


def input_shapes(batch: int, length: int, layout=None) -> Inputs:
    """The Inputs of a step as shapes, with their sharding if there is one."""
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=layout)
    return Inputs(*[ids] * len(Inputs._fields))


class Sums(NamedTuple):
    """Sums over the real tokens of a batch; they add across micro-batches."""

    nll: jax.Array  # nats
    tokens: jax.Array  # that have a target
    router_stats: stats.RouterStats | None  # stacked over the MoE layers, None for a dense model


class ForwardOutput(NamedTuple):
    """What a forward pass tells."""

    sums: Sums
    nll_BT: jax.Array
    choices: jax.Array | None  # expert_GSK of every MoE layer, [L, G, S, K], if tokens choose


def forward(network, params, routing, inputs: Inputs, key, train: bool) -> ForwardOutput:
    """Runs the network.

    Args:
      routing: the routers' state, see `decoder.routing_state`.

    Returns:
      The sums, nll_BT in nats, 0 where no target counts, and the experts chosen.

    Raises:
      ValueError: if a model with MoE layers returns no router_stats, so that no loss is silently
      zero.
    """
    model, real_BT = network.config, inputs.segment_BT > 0
    logits_BTV, aux = network.apply(
        {"params": params, **decoder.routing_variables(model, routing)},
        inputs.tokens_BT, inputs.segment_BT, inputs.position_BT, train, inputs.domain_BT,
        rngs={"router": key}, mutable=decoder.SOWN,
    )  # fmt: skip
    loss_mask_BT = real_BT if inputs.loss_mask_BT is None else real_BT & (inputs.loss_mask_BT > 0)
    nll_BT = cross_entropy(logits_BTV, inputs.targets_BT) * loss_mask_BT
    router_stats = _router_stats(aux.get("router"))
    if (router_stats is None) != (model.experts is None):
        raise ValueError(f"config.experts={model.experts} but the network sowed {router_stats}")
    policy = decoder.sown(model, aux, "policy", "policy")
    if policy is not None:
        learn = jax.vmap(reinforce.learn, (0, None, None))
        router_stats = router_stats._replace(extra=learn(policy, nll_BT, loss_mask_BT))
    sums = Sums(nll_BT.sum(), loss_mask_BT.sum().astype(jnp.float32), router_stats)
    return ForwardOutput(sums, nll_BT, decoder.sown(model, aux, "choices", "expert_GSK"))


@jax.custom_vjp
def cross_entropy(logits_BTV, targets_BT):
    """-log p(target), float32 nats [B, T].

    Of [B, T, V] nothing is kept but the logits, and the gradient is written in one pass.
    """
    return _cross_entropy(logits_BTV, targets_BT)[0]


def _cross_entropy(logits_BTV, targets_BT):
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    nll_BT = total_BT - embedding.pick(logits_BTV, targets_BT)
    return nll_BT, (logits_BTV, targets_BT, total_BT)


def _cross_entropy_bwd(saved, dnll_BT):
    logits_BTV, targets_BT, total_BT = saved
    p_BTV = jnp.exp(logits_BTV - total_BT[..., None])
    hit_BTV = embedding.hit(targets_BT, logits_BTV.shape[-1])
    return (p_BTV - hit_BTV) * dnll_BT[..., None], None


cross_entropy.defvjp(_cross_entropy, _cross_entropy_bwd)


def total(sums: Sums, experts) -> tuple[jax.Array, dict]:
    """The loss to minimise and its metrics, from the sums of a whole batch.

    Router losses and scalar statistics are means over the MoE layers; what has an axis of its own
    is kept by layer, [L, ...], and so are the numbers that a mean would hide.
    """
    nll = sums.nll / jnp.maximum(sums.tokens, 1.0)
    if experts is None:
        return nll, {"loss": nll, "nll": nll}
    by_layer = jax.vmap(stats.metrics)(sums.router_stats)
    losses = {
        name: jax.vmap(fn)(sums.router_stats).mean() for name, fn in experts.routing.losses.items()
    }
    weights = {name: experts.weight(name) for name in losses if experts.weight(name)}
    loss = nll + sum(weight * losses[name] for name, weight in weights.items())
    metrics = {name: value.mean() for name, value in by_layer.items() if value.ndim == 1}
    metrics |= {f"{name[:-2]}_L{name[-1]}": x for name, x in by_layer.items() if x.ndim > 1}
    metrics |= {f"{name}_L": by_layer[name] for name in BY_LAYER}
    metrics |= {f"{name}_loss": value for name, value in losses.items()}
    return loss, {"loss": loss, "nll": nll, **metrics}


def value_and_grad(network, params, routing, inputs: Inputs, key, accumulate: int = 1):
    """((loss, (metrics, sums)), gradients of params) of one batch, in `accumulate` micro-batches.

    Args:
      routing: the routers' state, see `decoder.routing_state`.
      inputs: [B, T] fields; B a multiple of `accumulate` times the sequences of a group.
        Micro-batch i takes every accumulate-th group, so that it lies on all devices and keeps
        its groups whole.
    """
    experts = network.config.experts
    together = max(1, experts.group_size // inputs.tokens_BT.shape[1]) if experts else 1

    def judge(sums):
        loss, metrics = total(sums, experts)
        return loss, (metrics, sums)

    def loss_fn(params):
        if accumulate == 1:
            return judge(forward(network, params, routing, inputs, key, True).sums)

        @jax.checkpoint
        def micro(params, i):
            part = jax.tree.map(lambda x: _micro_batch(x, i, accumulate, together), inputs)
            key_i = jax.random.fold_in(key, i)
            return forward(network, params, routing, part, key_i, True).sums

        first = micro(params, 0)
        rest, _ = jax.lax.scan(
            lambda sums, i: (jax.tree.map(jnp.add, sums, micro(params, i)), None),
            first, jnp.arange(1, accumulate),
        )  # fmt: skip
        return judge(rest)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)


def _micro_batch(x_BT, i, accumulate, together):
    B, T = x_BT.shape
    blocks = sharding.reshape_tokens(x_BT, (B // accumulate // together, accumulate, together, T))
    block = jax.lax.dynamic_index_in_dim(blocks, i, axis=1, keepdims=False)
    return sharding.reshape_tokens(block, (B // accumulate, T))


def _router_stats(sown):
    found = jax.tree.leaves(sown, is_leaf=lambda x: isinstance(x, stats.RouterStats))
    if len(found) > 1:
        raise ValueError(
            f"the network sowed {len(found)} router_stats, expected one stack of layers"
        )
    return found[0] if found else None
