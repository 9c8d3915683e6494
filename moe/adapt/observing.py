"""What the experts of a trained model do with text: sums over the tokens that reach them."""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import dispatch, ffn, models, objectives, schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.config import ModelConfig
from moe.dispatch import transport
from moe.evaluation import held_out
from moe.execution import Execution
from moe.routing import assignment


class Reached(NamedTuple):
    """The tokens that chose an expert, in slots of which every token finds one."""

    x_EGCD: jax.Array  # what they are; 0 in an empty slot
    gate_EGC: jax.Array  # 0 in an empty slot
    taken_EGC: jax.Array  # 1, or 0 in an empty slot


# (weights, what reached them, activation) -> sums [E, ...] of one layer.
Measure = Callable[[ffn.Weights, Reached, str], Any]


class Use(NamedTuple):
    """How an expert was used, [L, E] each."""

    tokens: jax.Array  # that chose it, before any is dropped
    gate: jax.Array  # the sum of their gates
    output: jax.Array  # the sum of gate x norm of the expert's output, see `prune`


def use(weights: ffn.Weights, reached: Reached, activation: str) -> Use:
    """The measure that pruning needs."""
    y_EGCD = ffn.apply(reached.x_EGCD, weights, activation, "EGC", "E")
    norm_EGC = jnp.sqrt(jnp.square(y_EGCD.astype(jnp.float32)).sum(-1))
    return Use(
        tokens=reached.taken_EGC.sum((1, 2)),
        gate=reached.gate_EGC.sum((1, 2)),
        output=(reached.gate_EGC * norm_EGC).sum((1, 2)),
    )


def moments(weights: ffn.Weights, reached: Reached, activation: str) -> jax.Array:
    """Sums of x x^T over the tokens of each expert, [E, D, D]."""
    del weights, activation
    return _products(reached.x_EGCD)


class Moments(NamedTuple):
    """Sums of x x^T over what each matrix of an expert reads."""

    inputs: jax.Array  # of the expert, [L, E, D, D]
    hidden: jax.Array  # of its last matrix, [L, E, F, F]


def all_moments(weights: ffn.Weights, reached: Reached, activation: str) -> Moments:
    """The measure that GPTQ needs."""
    function, gated = ffn.ACTIVATIONS[activation]
    layout = sharding.out_sharding("EGCF")
    inner = [
        jnp.einsum("EGCD,EDF->EGCF", reached.x_EGCD, w, out_sharding=layout)
        for w in (weights.w_in, weights.w_gate)[: 1 + gated]
    ]
    return Moments(_products(reached.x_EGCD), _products(ffn.hidden(function, *inner)))


def _products(x_EGCX):
    """Sums of x x^T."""
    x_EGCX = x_EGCX.astype(jnp.float32)
    layout = sharding.out_sharding("E..")
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("EGCX,EGCY->EXY", x_EGCX, x_EGCX, precision=exact, out_sharding=layout)


def observe(trained: Trained, batches: Iterable[Batch], measure: Measure, domain: int = -1) -> Any:
    """The sums of a measure over all batches, host arrays [L, E, ...].

    Every choice counts, whether the layer has a slot for it or not; the layers after it read what
    evaluation gives them.

    Args:
      trained: the model.
      batches: of host arrays, as of `BatchSource.held_out`.
      measure: of one layer, such as `use`.
      domain: only tokens of this one count; -1: all.

    Raises:
      UserError: if tokens do not choose in this model, or there are no tokens.
    """
    kind = banks.experts(trained.model).routing.kind
    schema.require(
        kind is assignment.TopKAssignment,
        f"experts.router={banks.experts(trained.model).router!r} gives slots their tokens: what an"
        " expert is used for is counted where tokens choose",
    )
    total = None
    tokens = 0
    for batch in batches:
        counted_BT = np.asarray(batch.segment_BT) > 0
        if domain >= 0:
            counted_BT &= np.asarray(batch.domain_BT) == domain
        tokens += int(counted_BT.sum())
        found = _sums(
            trained.model, measure, domain, trained.params, trained.router_state,
            sharding.shard_batch(batch),
        )  # fmt: skip
        found = jax.tree.map(np.asarray, found)
        total = found if total is None else jax.tree.map(np.add, total, found)
    schema.require(
        tokens > 0,
        "no token to look at: give batches of text" + (f" of domain {domain}" * (domain >= 0)),
    )
    return total


def loss(
    trained: Trained, batches: Iterable[Batch], objective: objectives.ObjectiveConfig | None = None
) -> float:
    """Mean loss of the targets that count, nats, as in evaluation.

    Args:
      trained: the model.
      batches: of host arrays.
      objective: what they are of; the model's usual one if it is None.
    """
    eval_step = held_out.eval_step_of(objectives.task(trained.model, objective))
    sums = None
    for index, batch in enumerate(batches):
        output = eval_step(trained, sharding.shard_batch(batch), jnp.int32(index))
        sums = held_out.add(sums, output.sums)
    assert sums is not None  # there is a batch
    return float(sums.nll / sums.targets)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(model: ModelConfig, measure, domain, params, router_state, batch):
    built = models.build(model, Execution(watched=True))
    output = built.apply(params, router_state, batch, key=jax.random.key(0), train=False)
    trained = Trained(model, params, router_state)
    found = [
        _of_stack(model, measure, bank, record, _counted(batch, domain, name))
        for (name, bank, record) in zip(
            model.stacks, banks.of(trained), output.by_stack, strict=True
        )
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _counted(batch, domain, stack):
    """Which tokens of a stack count, or None for all that are real."""
    if domain < 0:
        return None
    schema.require(stack != "encoder", "the domains of an encoder's tokens are not known")
    return batch.domain_BT == domain


def _of_stack(model, measure, bank, record, counted_BT):
    """Layer after layer: the slots of one would not have room beside another's."""
    layers = ffn.Weights(**bank["experts"]), record.x_GSD, record.assignment
    found = []
    for i in range(len(record.x_GSD)):
        weights, x_GSD, choice = jax.tree.map(operator.itemgetter(i), layers)
        found.append(_of_layer(model, measure, weights, x_GSD, choice, counted_BT))
    return jax.tree.map(lambda *parts: jnp.stack(parts), *found)


def _of_layer(model, measure, weights, x_GSD, choice, counted_BT):
    E, S = banks.experts(model).num_experts, x_GSD.shape[1]
    if counted_BT is not None:
        counted_GS1 = sharding.reshape_tokens(counted_BT, (*x_GSD.shape[:2], 1))
        choice = assignment.TopKAssignment(
            jnp.where(counted_GS1, choice.expert_GSK, E), choice.gate_GSK * counted_GS1
        )

    def assign(choice: assignment.TopKAssignment) -> assignment.Slots:
        return assignment.assign_slots(choice, E, S)

    slots = sharding.map_groups(assign)(choice)
    send = dispatch.DISPATCHERS["gather"].dispatch
    x_EGCD = transport.send(send, x_GSD, slots, "all_to_all")
    about_EGC2 = transport.send(_about, x_GSD, slots, "all_to_all")
    return measure(weights, Reached(x_EGCD, *jnp.moveaxis(about_EGC2, -1, 0)), model.activation)


def _about(x_GSD, slots):
    """Gates, and which slots are taken, as a dispatcher brings tokens: [G, E, C, 2]."""
    taken_GEC = slots.token_GEC < x_GSD.shape[1]
    return jnp.stack([slots.gate_GEC, taken_GEC.astype(slots.gate_GEC.dtype)], axis=-1)
