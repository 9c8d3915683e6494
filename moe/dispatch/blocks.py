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

from moe import sharding
from moe.dispatch import gather
from moe.layers import bank
from moe.routing import assignment

LARGEST = 64  # rows of a block
SLACK = 1.0  # slots beyond the even share, in standard deviations of a load drawn by chance


def apply(x_SD, choice: assignment.Choice, weights: bank.Weights, activation: str):
    """y_s = sum_k gate_sk f_e(x_s) of one group, nothing dropped.

    Args:
      x_SD: tokens.
      choice: expert_1SK and gate_1SK; expert E is nobody.
      weights: of E experts.
      activation: of `bank.ACTIVATIONS`.

    Returns:
      y_SD, and how many rows were computed.
    """
    (_, S, K), E = choice.expert_GSK.shape, len(weights.w_in)
    C, J = sizes(S * K, E)
    order = assignment.order(choice.expert_GSK, E)
    plan = _plan(order, C, J)
    gate_P = choice.gate_GSK.reshape(-1).astype(x_SD.dtype)
    y_SD = _rest((activation, C, J, K), x_SD, gate_P, weights, plan)
    if C:
        slots = assignment.seats_of(choice, order, C)
        x_ECD = gather.dispatch(x_SD[None], slots)[0]
        with jax.named_scope("experts"):
            y_ECD = bank.compute(x_ECD, weights, activation, "EC", "E")
        y_SD += gather.combine(y_ECD[None], slots, S)[0]
    return y_SD, E * C + plan.last_E[-1] * J


def sizes(pairs: int, experts: int) -> tuple[int, int]:
    """Slots of an expert, and rows of a block, for so many pairs."""
    if pairs < experts:
        return 0, 1
    mean = pairs / experts
    slots = min(pairs, math.ceil(mean + SLACK * math.sqrt(mean)))
    return slots, min(LARGEST, 2 ** math.ceil(math.log2(mean) / 2 + 1))


class _Plan(NamedTuple):
    """Which pairs are left over, and in which blocks."""

    pair_P: jax.Array
    start_E: jax.Array
    count_E: jax.Array
    last_E: jax.Array  # blocks of this expert and all before it


def _plan(order, C, J):
    pair_P, start_E, count_E = (x[0] for x in order)
    return _Plan(pair_P, start_E, count_E, jnp.cumsum(-(-jnp.maximum(count_E - C, 0) // J)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rest(how, x_SD, gate_P, weights, plan):
    """y_SD of the pairs without a slot."""

    def body(i, y_SD):
        expert, token_J, pair_J = _block(how, i, plan)
        y_JD = _compute(how, *_of_block(x_SD, gate_P, weights, expert, token_J, pair_J))
        return y_SD.at[token_J].add(y_JD, mode="drop")

    return _loop(plan, body, sharding.vary(jnp.zeros_like(x_SD)))


def _rest_fwd(how, x_SD, gate_P, weights, plan):
    return _rest(how, x_SD, gate_P, weights, plan), (x_SD, gate_P, weights, plan)


def _rest_bwd(how, saved, dy_SD):
    x_SD, gate_P, weights, plan = saved

    def body(i, sums):
        dx_SD, dgate_P, dweights = sums
        expert, token_J, pair_J = _block(how, i, plan)
        own = _of_block(x_SD, gate_P, weights, expert, token_J, pair_J)
        _, transposed = jax.vjp(functools.partial(_compute, how), *own)
        dx_JD, dgate_J, dw = transposed(_rows(dy_SD, token_J))
        add = lambda sum_E, one: sum_E.at[expert].add(one.astype(jnp.float32))  # noqa: E731
        return (
            dx_SD.at[token_J].add(dx_JD, mode="drop"),
            dgate_P.at[pair_J].add(dgate_J, mode="drop"),
            jax.tree.map(add, dweights, dw),
        )

    wide = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), weights)
    start = jnp.zeros_like(x_SD), jnp.zeros_like(gate_P), wide
    dx, dgate, dw = _loop(plan, body, sharding.vary(start))
    return dx, dgate, jax.tree.map(lambda sum_E, w: sum_E.astype(w.dtype), dw, weights), None


_rest.defvjp(_rest_fwd, _rest_bwd)


def _loop(plan, body, start):
    """As many turns as there are blocks; what they cost is told as realised capacity."""
    with jax.named_scope("as_needed"):
        return jax.lax.fori_loop(0, plan.last_E[-1], body, start)


def _block(how, i, plan):
    """Block i: its expert, and its rows' tokens and pairs, past the end where a row is empty."""
    _, C, J, K = how
    P, S = len(plan.pair_P), len(plan.pair_P) // K
    expert = jnp.searchsorted(plan.last_E, i, side="right", method="compare_all")
    before = jnp.where(expert > 0, plan.last_E[expert - 1], 0)
    at_J = C + (i - before) * J + jnp.arange(J)
    real_J = at_J < plan.count_E[expert]
    pair_J = jnp.where(real_J, plan.pair_P[(plan.start_E[expert] + at_J) % P], P)
    return expert, jnp.where(real_J, pair_J // K, S), pair_J


def _of_block(x_SD, gate_P, weights, expert, token_J, pair_J):
    """A block's rows, gates and weights."""
    own = lambda w: jax.lax.dynamic_index_in_dim(w, expert, keepdims=False)  # noqa: E731
    return _rows(x_SD, token_J), _rows(gate_P, pair_J), jax.tree.map(own, weights)


def _rows(x, index):
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _compute(how, x_JD, gate_J, weights):
    with jax.named_scope("experts"):
        if len(x_JD) == 1:  # products with a vector read the weights where they lie
            return (bank.compute(x_JD[0], weights, how[0], "") * gate_J)[None]
        return bank.compute(x_JD, weights, how[0], "S") * gate_J[:, None]
