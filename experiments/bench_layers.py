"""The layers that `experiments.bench_dispatch` measures, with the choices and weights they get.

A layer is a function of tokens, choices and weights; that module says what each name stands for.
"""

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import ffn
from moe.dispatch import einsum, gather, grouped, hopper
from moe.routing import assignment
from moe.routing.assignment import TopKAssignment


class Cell(NamedTuple):
    """One size of layer, and its tokens."""

    tokens: int
    d_model: int
    d_ff: int
    dtype: str
    experts: int
    k: int
    factor: float  # of the capacity of dispatchers with slots
    loads: str  # see `choices`
    activation: str
    einsum_groups: tuple[int, ...]


# (x_SD, choice, weights) -> y_SD
Layer = Callable[[jax.Array, TopKAssignment, ffn.Weights], jax.Array]


def choices(cell: Cell, seed: int = 0) -> TopKAssignment:
    """Who goes where, [1, S, K]: evenly ("uniform"), or drawn with unequal chances.

    "learned" has the spread of loads of trained routers (largest load about twice the mean, as in
    `experiments/RESULTS.md`), "skewed" is Zipf's law.
    """
    rng = np.random.default_rng(seed)
    S = cell.tokens
    K = cell.k
    E = cell.experts
    if cell.loads == "uniform":
        expert_SK = (np.arange(S * K).reshape(S, K) % E)[rng.permutation(S)]
    else:
        log_p_E = {
            "learned": rng.normal(0, 0.3, E),
            "skewed": -np.log(1 + np.arange(E)),
        }[cell.loads]
        expert_SK = np.argsort(-(log_p_E + rng.gumbel(size=(S, E))), axis=-1)[:, :K]
    gate_SK = rng.random((S, K)) + 0.5
    gate_SK /= gate_SK.sum(-1, keepdims=True)
    return TopKAssignment(
        jnp.asarray(expert_SK[None], jnp.int32), jnp.asarray(gate_SK[None], jnp.float32)
    )


def by_slots(
    dispatcher: ModuleType,
    slots: int,
    group: int,
    activation: str,
    x_SD: jax.Array,
    choice: TopKAssignment,
    weights: ffn.Weights,
) -> jax.Array:
    """y_SD by a dispatcher with so many slots an expert, in groups of so many tokens."""
    S, D = x_SD.shape
    x_GSD = x_SD.reshape(-1, group, D)
    choice = jax.tree.map(lambda x: x.reshape(-1, group, x.shape[-1]), choice)
    seats = assignment.assign_slots(choice, len(weights.w_in), slots)
    x_EGCD = dispatcher.dispatch(x_GSD, seats).swapaxes(0, 1)
    with jax.named_scope("experts"):
        y_EGCD = ffn.apply(x_EGCD, weights, activation, "EGC", "E")
    return dispatcher.combine(y_EGCD.swapaxes(0, 1), seats, group).reshape(S, D)


def dropless(
    kernel: str,
    activation: str,
    x_SD: jax.Array,
    choice: TopKAssignment,
    weights: ffn.Weights,
) -> jax.Array:
    """y_SD by the grouped dispatcher."""
    return grouped.IMPLEMENTATIONS[kernel].apply(x_SD, choice, weights, activation)[0]


def dense(activation: str, x_SD: jax.Array, _: TopKAssignment, weights: ffn.Weights) -> jax.Array:
    """y_SD of a feed-forward that every token meets."""
    return ffn.apply(x_SD, weights, activation, "S")


def computed(kernel: str, cell: Cell, choice: TopKAssignment) -> int:
    """Rows that a kernel's experts compute: the pairs, or slots and blocks, whatever the width."""
    if not kernel.endswith("blocks"):
        return cell.tokens * cell.k
    thin = jnp.zeros((cell.experts, 1, 1))
    x_SD = jnp.zeros((cell.tokens, 1))
    apply = jax.jit(grouped.IMPLEMENTATIONS[kernel].apply, static_argnums=3)
    return int(apply(x_SD, choice, ffn.Weights(thin, thin), "relu")[1])


def usable(cell: Cell) -> list[str]:
    """The kernels of `grouped` that are here and multiply the cell's type."""
    unfit = hopper.misfit(cell.dtype, cell.d_model, cell.d_ff)
    return [name for name in grouped.fit() if name != "hopper" or not unfit]


def layers(
    cell: Cell, choice: TopKAssignment, kernels: Iterable[str]
) -> dict[str, tuple[Layer, float]]:
    """name -> the layer, and the rows that its experts compute for each choice of a token."""
    S = cell.tokens
    E = cell.experts
    found: dict[str, Layer] = {"gather": _in_slots(cell, gather, S)}
    rows = {"gather": E * _slots(cell, S)}
    for kernel in kernels:
        name = "grouped" if kernel == "blocks" else f"grouped_{kernel}"
        found[name] = functools.partial(dropless, kernel, cell.activation)
        rows[name] = computed(kernel, cell, choice)
    for group in cell.einsum_groups:
        found[f"einsum_{group}"] = _in_slots(cell, einsum, group)
        rows[f"einsum_{group}"] = E * _slots(cell, group) * (S // group)
    return {name: (layer, rows[name] / (S * cell.k)) for name, layer in found.items()}


def _slots(cell, group):
    """Slots of an expert in a group of so many tokens."""
    return assignment.capacity(cell.factor, group, cell.k, cell.experts)


def _in_slots(cell, dispatcher, group):
    """The layer of a dispatcher with slots, in groups of so many tokens."""
    return functools.partial(by_slots, dispatcher, _slots(cell, group), group, cell.activation)


def sample(cell: Cell, width: int, experts: tuple = ()) -> ffn.Weights:
    """Random weights of one feed-forward or of E."""
    key = jax.random.key(width)
    D = cell.d_model
    gated = ffn.ACTIVATIONS[cell.activation][1]

    @jax.jit
    def make() -> ffn.Weights:
        def matrix(*shape: int) -> jax.Array:
            return 0.02 * jax.random.normal(key, (*experts, *shape), cell.dtype)

        return ffn.Weights(matrix(D, width), matrix(width, D), matrix(D, width) if gated else None)

    return make()
