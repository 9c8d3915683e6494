"""Dropless experts of batched products alone: most tokens in slots, the rest block by block.

Every expert has slots for a little more than its even share, filled as `gather` fills them and
computed as one batched product. The pairs that find no slot lie sorted by expert and go in blocks
of rows with the same expert, in a loop of as many turns as there are such blocks. So no FLOPs are
spent on tokens times experts, no weight is copied for a token in a slot, and the gradient of the
loop adds to each expert's weights in place, where the transpose of a scan would add an array of all
weights for each block.

With fewer pairs than experts, as in decoding, there are no slots: blocks read the weights of the
experts that were chosen, and of no others.

Letter of this file: J rows of a block.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import counting, ffn, sharding
from moe.dispatch import gather
from moe.routing import assignment

SLACK = 1.0  # slots beyond the even share, in standard deviations of a load drawn by chance


class Shape(NamedTuple):
    """How large blocks may be, and how many slots there are beside."""

    largest: int  # rows of a block
    spare: float  # slots at least, beyond the even share and as a part of it


NARROW = Shape(largest=64, spare=0.0)
# For GPUs: there 256 rows take about as long as 64, and a turn of the loop longer than spare slots.
WIDE = Shape(largest=256, spare=0.25)


def apply(
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
    activation: str,
    expected: int = 0,
    shape: Shape = NARROW,
) -> tuple[jax.Array, jax.Array]:
    """y_s = sum_k gate_sk f_e(x_s) of one group, nothing dropped.

    Args:
      x_SD: tokens.
      choice: expert_1SK and gate_1SK; expert E is nobody.
      weights: of E experts.
      activation: of `ffn.ACTIVATIONS`.
      expected: how many choices are expected not to be nobody's; 0 is all.
      shape: of blocks and slots.

    Returns:
      y_SD, and how many rows were computed.
    """
    (_, S, K) = choice.expert_GSK.shape
    E = len(weights.w_in)
    C, J = sizes(expected or S * K, E, shape)
    order = assignment.order(choice.expert_GSK, E)
    left_E = jnp.maximum(order.count_GE[0] - C, 0)
    plan = _Plan(choice.expert_GSK, order, jnp.cumsum(-(-left_E // J)))
    y_SD = _mixed((activation, C, J), x_SD, choice.gate_GSK, weights, plan)
    return y_SD, E * C + plan.last_E[-1] * J


def sizes(pairs: int, experts: int, shape: Shape = NARROW) -> tuple[int, int]:
    """Slots of an expert, and rows of a block, for so many pairs."""
    if pairs < experts:
        return 0, 1
    mean = pairs / experts
    spare = max(SLACK * math.sqrt(mean), shape.spare * mean)
    block = 2 ** math.ceil(math.log2(mean) / 2 + 1)
    return min(pairs, math.ceil(mean + spare)), min(shape.largest, block)


class _Plan(NamedTuple):
    """Who goes where, and in which blocks those without a slot."""

    expert_1SK: jax.Array
    order: assignment.Order
    last_E: jax.Array  # blocks of this expert and all before it


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed(how, x_SD, gate_1SK, weights, plan):
    """y_SD, from slots and blocks."""
    return _in_blocks(
        how, _in_slots(how, plan, x_SD, gate_1SK, weights), x_SD, gate_1SK, weights, plan
    )


def _mixed_fwd(how, x_SD, gate_1SK, weights, plan):
    own = x_SD, gate_1SK, weights
    y_SD, back = jax.vjp(functools.partial(_in_slots, how, plan), *own)
    return _in_blocks(how, y_SD, *own, plan), (back, own, plan)


def _mixed_bwd(how, saved, dy_SD):
    """The gradients of the slots, to which the blocks add theirs in place."""
    back, own, plan = saved

    def body(i: jax.Array, sums: tuple) -> tuple:
        dx_SD, dgate_P, dweights = sums
        expert, token_J, pair_J = _block(how, i, plan)
        _, transposed = jax.vjp(
            functools.partial(_compute, how[0]), *_of_block(own, expert, token_J, pair_J)
        )
        dx_JD, dgate_J, dw = transposed(_rows(dy_SD, token_J))

        def add(sum_E: jax.Array, one: jax.Array) -> jax.Array:
            return sum_E.at[expert].add(one.astype(sum_E.dtype))

        return (
            dx_SD.at[token_J].add(dx_JD, mode="drop"),
            dgate_P.at[pair_J].add(dgate_J, mode="drop"),
            jax.tree.map(add, dweights, dw),
        )

    dx_SD, dgate_1SK, dweights = back(dy_SD)
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), dweights)
    dx_SD, dgate_P, wide = _loop(plan, body, (dx_SD, dgate_1SK.ravel(), wide))
    dweights = jax.tree.map(lambda sum_E, w: sum_E.astype(w.dtype), wide, dweights)
    return dx_SD, dgate_P.reshape(dgate_1SK.shape), dweights, None


_mixed.defvjp(_mixed_fwd, _mixed_bwd)


def _in_slots(how, plan, x_SD, gate_1SK, weights):
    """y_SD of the pairs that have a slot."""
    activation, C, _ = how
    if not C:
        return sharding.pvary(jnp.zeros_like(x_SD))
    choice = assignment.TopKAssignment(plan.expert_1SK, gate_1SK)
    slots = assignment.slots_of(choice, plan.order, C)
    x_ECD = gather.dispatch(x_SD[None], slots)[0]
    with jax.named_scope("experts"):
        y_ECD = ffn.apply(x_ECD, weights, activation, "EC", "E")
    return gather.combine(y_ECD[None], slots, len(x_SD))[0]


def _in_blocks(how, y_SD, x_SD, gate_1SK, weights, plan):
    """y_SD with the pairs that have none."""

    def body(i: jax.Array, y_SD: jax.Array) -> jax.Array:
        expert, token_J, pair_J = _block(how, i, plan)
        own = _of_block((x_SD, gate_1SK, weights), expert, token_J, pair_J)
        return y_SD.at[token_J].add(_compute(how[0], *own), mode="drop")

    return _loop(plan, body, y_SD)


def _loop(plan, body, start):
    """As many turns as there are blocks; what they cost is told as realised capacity."""
    with jax.named_scope(counting.AS_NEEDED):
        return jax.lax.fori_loop(0, plan.last_E[-1], body, start)


def _block(how, i, plan):
    """Block i: its expert, and its rows' tokens and pairs, past the end where a row is empty."""
    (_, C, J) = how
    (_, S, K) = plan.expert_1SK.shape
    pair_P, start_E, count_E = (x[0] for x in plan.order)
    expert = jnp.searchsorted(plan.last_E, i, side="right", method="compare_all")
    before = jnp.where(expert > 0, plan.last_E[expert - 1], 0)
    at_J = C + (i - before) * J + jnp.arange(J)
    real_J = at_J < count_E[expert]
    pair_J = jnp.where(real_J, pair_P[(start_E[expert] + at_J) % (S * K)], S * K)
    return expert, jnp.where(real_J, pair_J // K, S), pair_J


def _of_block(whole, expert, token_J, pair_J):
    """A block's rows, gates and weights."""
    x_SD, gate_1SK, weights = whole

    def own(w: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(w, expert, keepdims=False)

    return _rows(x_SD, token_J), _rows(gate_1SK.ravel(), pair_J), jax.tree.map(own, weights)


def _rows(x, index):
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _compute(activation, x_JD, gate_J, weights):
    gate_J = gate_J.astype(x_JD.dtype)
    with jax.named_scope("experts"):
        if len(x_JD) == 1:
            return (ffn.apply(x_JD[0], weights, activation, "") * gate_J)[None]
        return ffn.apply(x_JD, weights, activation, "S") * gate_J[:, None]
