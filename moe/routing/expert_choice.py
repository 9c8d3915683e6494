"""Expert choice: every expert takes its C best tokens (Zhou et al. 2022, section 3).

p = softmax over experts; expert e takes the C = capacity_factor * S * K / E tokens of its group
with the largest p_e, so K times the capacity factor is the mean number of experts a token. Balanced
by construction, no loss needed. The gate is p. An expert looks at the whole group to choose, later
tokens too: never causal, so in a decoder its teacher-forced loss is not one of prediction.

With `most` no token has more than so many experts (section 3.3): the choice is that of A, which
maximises <p, A> + lambda H(A) with C in every expert's row, at most `most` in a token's column and
0 <= A <= 1, by alternating projections. The paper's choice is the C largest of each row of A, which
exceeds the cap where A is not there yet; ours asks the tokens, too. How near the optimum that is
depends on the cap: within 0.5% where it leaves room; where it is tight (`most` = k times the
factor) 100 iterations lose 0.5 to 2.5% on average and up to 4%, 400 lose 0.3% on average and up to
1% (tests/routing/test_balanced.py).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats

LAMBDA = 0.001  # the paper's
START = 0.1  # from where it falls
ROUNDS = 8  # in which experts ask and tokens answer


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """The capped variant."""

    most: int = 0  # experts a token; 0 is no cap
    iterations: int = 100


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Gives each expert its C best tokens."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)
    o = settings.options

    def choose(p_GSE: jax.Array, mask_GS: jax.Array) -> tuple[jax.Array, jax.Array]:
        p_GES = p_GSE.swapaxes(1, 2)
        able_GES = jnp.broadcast_to(mask_GS[:, None], p_GES.shape)
        real_G11 = mask_GS.sum(-1)[:, None, None]
        share_G11 = -(-settings.slots * real_G11 // mask_GS.shape[1])  # as in a group of all real
        if o.most:
            plan_GES = capped(jnp.where(able_GES, p_GES, -1.0), share_G11, o.most, o.iterations)
            able_GES = agreed(plan_GES, share_G11, o.most)
        token_GEC = jax.lax.top_k(jnp.where(able_GES, p_GES, -1.0), settings.slots)[1]
        real_GEC = jnp.take_along_axis(able_GES, token_GEC, axis=2)
        real_GEC &= jnp.arange(settings.slots)[None, None] < share_G11
        gate_GEC = jnp.take_along_axis(p_GES, token_GEC, axis=2)
        token_GEC = jnp.where(real_GEC, token_GEC, mask_GS.shape[1]).astype(jnp.int32)
        return token_GEC, jnp.where(real_GEC, gate_GEC, 0.0)

    token_GEC, gate_GEC = sharding.map_groups(choose)(p_GSE, inputs.mask_GS)
    return contract.RouterOutput(assignment.Slots(token_GEC, gate_GEC, None), p_GSE, logits_GSE)


def capped(score_GES: jax.Array, share_G11: jax.Array, most: int, iterations: int) -> jax.Array:
    """log A of the capped problem with so many tokens an expert, -inf for padding (scores below 0).

    Block coordinate ascent on its dual, one multiplier for each of the three constraints. At the
    paper's lambda alone it would creep: it falls to it from START, over four fifths of the turns.
    """
    real_GES = score_GES >= 0
    s_GES = jnp.where(real_GES, jax.lax.stop_gradient(score_GES), -jnp.inf)
    # An expert can't have more tokens than there are. Where all together want more than tokens may
    # hold, a share is the most that an expert gets: who gets less is for the scores to say.
    real_G11 = real_GES.sum(-1, keepdims=True)[:, :1]
    row_G11 = jnp.minimum(share_G11, real_G11)
    too_much_G11 = row_G11 * s_GES.shape[1] > real_G11 * most
    row_G11 = jnp.log(jnp.maximum(row_G11, 1e-9))

    def at_most_1(row: jax.Array, column: jax.Array) -> jax.Array:
        return jnp.where(real_GES, jnp.minimum(-(s_GES + row + column), 0.0), 0.0)

    def turn(i: int, duals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        t = jnp.maximum(LAMBDA, START * (LAMBDA / START) ** (1.25 * i / iterations))
        _, column, box = duals
        row = t * (row_G11 - jax.nn.logsumexp((s_GES + column + box) / t, axis=2, keepdims=True))
        row = jnp.where(too_much_G11, jnp.minimum(row, 0.0), row)
        box = at_most_1(row, column)
        column = jax.nn.logsumexp((s_GES + row + box) / t, axis=1, keepdims=True)
        column = jnp.minimum(t * (jnp.log(most) - column), 0.0)  # of padding inf: 0
        return row, column, at_most_1(row, column)

    zeros = jnp.zeros_like(s_GES)
    duals = zeros[..., :1], zeros[:, :1], zeros
    row, column, box = jax.lax.fori_loop(0, iterations, turn, duals)
    return (s_GES + row + column + box) / LAMBDA


def agreed(plan_GES: jax.Array, share_G11: jax.Array, most: int) -> jax.Array:
    """Who takes whom, [G, E, S]: at most `share` tokens an expert, at most `most` experts a token.

    In every round an expert asks for the best tokens of the plan that have room, as many as it
    lacks, and of those that ask a token takes the best. So an expert stays short only if no token
    has room, or rounds end.
    """
    by_expert_GES = jnp.argsort(-plan_GES, axis=2)
    by_token_GSE = jnp.argsort(-plan_GES.swapaxes(1, 2), axis=2)

    def turn(_: int, taken_GES: jax.Array) -> jax.Array:
        room_G1S = most - taken_GES.sum(1, keepdims=True)
        able_GES = ~taken_GES & (room_G1S > 0) & (plan_GES > -jnp.inf)
        asked_GES = _first(able_GES, by_expert_GES, share_G11 - taken_GES.sum(2, keepdims=True))
        got_GSE = _first(asked_GES.swapaxes(1, 2), by_token_GSE, room_G1S.swapaxes(1, 2))
        return taken_GES | got_GSE.swapaxes(1, 2)

    return jax.lax.fori_loop(0, ROUNDS, turn, jnp.zeros_like(plan_GES, bool))


def _first(able, order, room):
    """Of those able, along the last axis, the first so many in that order."""
    sorted_ = jnp.take_along_axis(able, order, axis=-1)
    sorted_ &= jnp.cumsum(sorted_, axis=-1) <= room
    return jnp.take_along_axis(sorted_, jnp.argsort(order, axis=-1), axis=-1)


def experts_per_token(config: contract.Experts) -> float:
    """On average; a token can't meet more experts than there are, whatever the factor."""
    return min(config.num_experts, config.k * config.capacity_factor)


def check(config: contract.Experts) -> None:
    """Refuses a cap that cannot hold."""
    o = config.options
    mean = config.k * max(config.capacity_factor, config.eval_capacity_factor)
    if o.most < 0 or o.iterations < 1 or 0 < o.most < mean:
        raise UserError(
            f"experts.options: {o.most=} must be 0 (no cap) or at least k *"
            f" capacity_factor={mean:g}, the mean number of experts a token, and {o.iterations=}"
            " above 0"
        )


def idle(config: contract.Experts) -> None:
    """Refuses a cap that holds by itself, and turns where nothing turns."""
    o = config.options
    if not o.most and o.iterations != Options.iterations:
        raise UserError(f"experts.options: {o.iterations=} does nothing without `most`")
    if o.most >= config.num_experts:
        raise UserError(
            f"experts.options: {o.most=} caps nothing with {config.num_experts} experts"
        )


ROUTER = contract.Router(
    route,
    kind=assignment.Slots,
    options=Options,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 0.1},
    causal="never",
    experts_per_token=experts_per_token,
    losses={"z": stats.z_loss},
    check=check,
    idle=idle,
)
