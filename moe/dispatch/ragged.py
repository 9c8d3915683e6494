"""Dropless experts by a grouped matrix product: rows sorted by expert, and how many each has.

`jax.lax.ragged_dot` is a kernel on TPUs from JAX 0.11 on. On CPUs and NVIDIA GPUs (jax 0.10 to
0.12) XLA makes of it a product of every row with every expert, and so does JAX 0.10 on TPUs of the
gradient of weights: there it is refused. For NVIDIA's Hopper GPUs see `moe.dispatch.hopper`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import execution, ffn, sharding
from moe.dispatch import gather, hopper
from moe.routing import assignment


def apply(
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
    activation: str,
    general: Callable[..., jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """As `blocks.apply`; `general` is called as `jax.lax.ragged_dot_general`."""
    S = len(x_SD)
    E = len(weights.w_in)
    rows, count_E = sort(choice, E)
    x_PD = gather.dispatch(x_SD[None], rows)[0, 0]
    function, gated = ffn.ACTIVATIONS[activation]
    real_P1 = (jnp.arange(S * choice.expert_GSK.shape[-1]) < count_E.sum())[:, None]

    def dot(x: jax.Array, w: Any) -> jax.Array:
        """Zeros in the rows of nobody: NaN there would reach the gradient of weights."""
        y = jnp.where(real_P1, product(general, x, w, count_E), 0)
        return checkpoint_name(y, execution.PRODUCT)

    with jax.named_scope("experts"):
        inner = [dot(x_PD, w) for w in (weights.w_in, weights.w_gate)[: 1 + gated]]
        hidden = jax.checkpoint(functools.partial(ffn.hidden, function))(*inner)
        y_PD = dot(hidden, weights.w_out)
    return gather.combine(y_PD[None, None], rows, S)[0], count_E.sum()


def sort(choice: assignment.TopKAssignment, experts: int) -> tuple[assignment.Slots, jax.Array]:
    """All pairs in the slots of one expert, sorted by the real ones; and rows of each."""
    order = assignment.order(choice.expert_GSK, experts)
    (_, S, K) = choice.expert_GSK.shape
    pair_GP = order.pair_GP
    P = S * K
    real_GP = jnp.arange(P)[None] < order.count_GE.sum(-1, keepdims=True)
    token_GP = jnp.where(real_GP, pair_GP // K, S)
    gate_GP = jnp.take_along_axis(choice.gate_GSK.reshape(1, P), pair_GP, axis=-1)
    is_any_GP = choice.expert_GSK.reshape(1, P) < experts
    place_GP = jnp.where(is_any_GP, assignment.inverse(pair_GP), P)
    slots = token_GP[:, None], jnp.where(real_GP, gate_GP, 0)[:, None], place_GP.reshape(1, S, K)
    return assignment.Slots(*slots), order.count_GE[0]


def _rows_by(contracted: tuple, groups: tuple):
    """A product of rows that lie in groups, as `jax.lax.ragged_dot_general` is told."""
    return jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(contracted, ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=groups,
    )


PD_EDF = _rows_by(((1,), (1,)), (0,))
PF_EDF = _rows_by(((1,), (2,)), (0,))
PD_PF = _rows_by(((0,), (0,)), ())  # E products, of the rows of each group


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(
    general: Callable[..., jax.Array], x_PD: jax.Array, w_EDF: jax.Array, count_E: jax.Array
) -> jax.Array:
    """PD,EDF->PF, every row with its own expert's matrix; with `general` in its gradients, too.

    Rows are sorted by expert, count_E of each; what comes after them has results without meaning.
    """
    return sharding.pvary(general(x_PD, w_EDF, count_E, PD_EDF))


def _product_fwd(general, x, w, count):
    return product(general, x, w, count), (x, w, count)


def _product_bwd(general, saved, dy_PF):
    x_PD, w_EDF, count_E = saved
    dx_PD = general(dy_PF, w_EDF, count_E, PF_EDF)
    dw_EDF = general(x_PD, dy_PF, count_E, PD_PF)
    return (*sharding.pvary((dx_PD, dw_EDF)), None)


product.defvjp(_product_fwd, _product_bwd)


def by_xla(
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
    activation: str,
    _expected: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """By `jax.lax.ragged_dot_general`."""
    return apply(x_SD, choice, weights, activation, jax.lax.ragged_dot_general)


def by_hopper(
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
    activation: str,
    _expected: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """By JAX's Pallas kernels for Hopper GPUs.

    Raises:
      UserError: if they do not multiply these types and sizes.
    """
    hopper.check(x_SD.dtype.name, *weights.w_in.shape[1:])
    kernels = {PD_EDF: hopper.rows, PF_EDF: hopper.rows_transposed, PD_PF: hopper.columns}

    def general(
        a: jax.Array,
        b: jax.Array,
        count_E: jax.Array,
        dimensions: jax.lax.RaggedDotDimensionNumbers,
    ) -> jax.Array:
        return kernels[dimensions](a, b, count_E)

    return apply(x_SD, choice, weights, activation, general)
