"""QMoE: experts whose weights have three values a row, and fewer than two bits each in a file.

Each row of a matrix (one output) has a grid {least weight, 0, largest weight}. Columns are rounded
one after another, and what a column loses is made up for by those behind it, as far as the inputs
that reach this expert make them alike: GPTQ (Frantar et al. 2022, algorithm 1) with H = X^T X over
the expert's own tokens. Layers are done in turn, so that a layer's tokens are those of the layers
before it as they have become (Frantar and Alistarh 2023, section 3).

Letters of this file: R rows, outputs of a matrix; C its columns, inputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from moe import schema, sharding
from moe.adapt import banks, observing
from moe.adapt.banks import Trained

DAMPING = 0.1  # of the mean of H's diagonal, added to it
# (measure, model) -> its sums over text.
Look = Callable[[observing.Measure, Trained], Any]


class Ternary(NamedTuple):
    """Matrices as symbols: 0 is the row's least weight, 1 is 0, 2 the row's largest."""

    symbol: np.ndarray  # uint8 [..., R, C]
    grid: np.ndarray  # bfloat16 [..., R, 2]: least and largest

    def weights(self) -> np.ndarray:
        """float32 [..., R, C]."""
        least, largest = np.moveaxis(self.grid.astype(np.float32), -1, 0)[..., None]
        return np.choose(self.symbol, [least, np.float32(0), largest])


def rounded(w_RC: jax.Array, h_CC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(symbol_RC, grid_R2) of one matrix; without inputs every weight goes to the nearest value.

    Args:
      w_RC: the weights.
      h_CC: sums of x x^T over inputs, zeros if there were none.
    """
    # The grid as the file will hold it: what is rounded to is what is read back.
    grid_R2 = jnp.stack([w_RC.min(1), w_RC.max(1)], axis=1).astype(jnp.bfloat16)
    least_R, largest_R = grid_R2.astype(jnp.float32).T
    C = len(h_CC)
    size = jnp.trace(h_CC) / C
    damped_CC = jnp.where(size > 0, h_CC + DAMPING * size * jnp.eye(C), jnp.eye(C))
    # The upper Cholesky factor of the inverse, row by row what a column passes on.
    upper_CC = jnp.linalg.cholesky(jnp.linalg.inv(damped_CC), upper=True)

    def column(j: jax.Array, state: tuple) -> tuple:
        w_RC, symbol_RC = state
        w_R = w_RC[:, j]
        value_3R = jnp.stack([0 * w_R, least_R, largest_R])  # of two as near the first
        near_R = jnp.abs(w_R[None] - value_3R).argmin(0)
        symbol_R = jnp.array([1, 0, 2], jnp.int8)[near_R]
        value_R = jnp.take_along_axis(value_3R, near_R[None], axis=0)[0]
        lost_R = (w_R - value_R) / upper_CC[j, j]
        return w_RC - lost_R[:, None] * upper_CC[j][None], symbol_RC.at[:, j].set(symbol_R)

    start = w_RC.astype(jnp.float32), jnp.ones(w_RC.shape, jnp.int8)
    _, symbol_RC = jax.lax.fori_loop(0, C, column, start)
    return symbol_RC, grid_R2


_rounded = jax.jit(jax.vmap(rounded))


def quantised(trained: Trained, look: Look) -> tuple[Trained, list[dict[str, Ternary]]]:
    """The model with such experts, and of each MoE layer their matrices [E, R, C], by name.

    Args:
      trained: the model.
      look: sums of a measure over calibration text.

    Raises:
      UserError: if the model has no experts.
    """
    layers = []
    for layer in range(len(banks.by_layer(trained))):
        moments = look(observing.all_moments, trained)
        made = {}
        for name, w_EXY in banks.by_layer(trained)[layer].items():
            seen = (moments.hidden if name == "w_out" else moments.inputs)[layer]
            w_ERC = np.asarray(w_EXY).swapaxes(-1, -2)  # whole, however it lies on a mesh
            symbol, grid = _rounded(jnp.asarray(w_ERC), jnp.asarray(seen))
            made[name] = Ternary(np.asarray(symbol, np.uint8), np.asarray(grid))
        layers.append(made)
        trained = with_layers(trained, {layer: made})
    return trained, layers


def with_layers(trained: Trained, layers: dict[int, dict[str, Ternary]]) -> Trained:
    """The model whose experts are these in some of its MoE layers."""
    found = banks.of(trained)
    places = banks.places(trained.model)
    for layer, matrices in layers.items():
        number, own = places[layer]
        experts = dict(found[number]["experts"])
        for name, made in matrices.items():
            w_EXY = jnp.asarray(made.weights().swapaxes(-1, -2), experts[name].dtype)
            experts[name] = _with_layer(experts[name], own, w_EXY)
        found[number] = found[number] | {"experts": experts}
    return trained._replace(params=banks.with_banks(trained.params, trained.model, found))


def check_fit(trained: Trained, layers: list[dict[str, Ternary]]) -> None:
    """Refuses matrices that are not those of the model's experts.

    Raises:
      UserError: with both shapes.
    """
    want = [
        {name: (w.shape[0], w.shape[2], w.shape[1]) for name, w in weights.items()}
        for weights in banks.by_layer(trained)
    ]
    got = [{name: made.symbol.shape for name, made in layer.items()} for layer in layers]
    schema.require(
        want == got,
        f"the packed experts are of another model: {len(got)} layers of {got[:1]}, and this one has"
        f" {len(want)} of {want[:1]}",
    )


def _with_layer(w, layer, w_EXY):
    def put(w: jax.Array, w_EXY: jax.Array) -> jax.Array:
        return w.at[layer].set(w_EXY)

    return sharding.laid_out_as(w, put)(w, w_EXY)


def layers_of(trained: Trained) -> list[dict[str, Ternary]]:
    """The matrices of a model whose experts are ternary, as of `quantised`.

    Raises:
      UserError: if a row has other values than a least, 0 and a largest.
    """
    return [
        {name: _read_off(np.asarray(w).swapaxes(-1, -2), name) for name, w in weights.items()}
        for weights in banks.by_layer(trained)
    ]


def _read_off(w_ERC, name):
    none = w_ERC == 0  # a row's least weight may be above 0, and its largest below
    least = np.where(none, np.inf, w_ERC).min(-1, keepdims=True)
    largest = np.where(none, -np.inf, w_ERC).max(-1, keepdims=True)
    symbol = np.where(none, 1, np.where(w_ERC == largest, 2, 0)).astype(np.uint8)
    grid = np.concatenate([least, largest], -1)
    grid = np.where(np.isfinite(grid), grid, 0).astype(ml_dtypes.bfloat16)
    found = Ternary(symbol, grid)
    schema.require(
        bool((found.weights() == w_ERC).all()),
        f"{name} of some expert has rows of more than three values: quantise it first",
    )
    return found


def zeros(layers: list[dict[str, Ternary]]) -> float:
    """The share of weights that are 0."""
    counts = counted(layers)
    return counts[1] / sum(counts)


def counted(layers: list[dict[str, Ternary]]) -> tuple[int, int, int]:
    """How often each symbol occurs."""
    total = np.zeros(3, np.int64)
    for matrices in layers:
        for made in matrices.values():
            total += np.bincount(made.symbol.ravel(), minlength=3)
    least, zero, largest = total.tolist()
    return least, zero, largest
