"""Dropless: every choice is computed, whatever the loads (as MegaBlocks, Gale et al. 2022).

No capacity and no groups: a device routes its tokens, sends each choice to the device of its
expert, and experts compute as many rows as came. What computes them is a kernel, `IMPLEMENTATIONS`.

Shapes are static, so with e devices along 'expert' each sends to each a buffer of
`Execution.ep_capacity_factor` times the even share of its choices. What does not fit is not
computed; it is counted as dropped, and reported (with a buffer of e nothing can be lost).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import compat, execution, ffn, sharding, target
from moe.dispatch import blocks, gather, hopper, ragged
from moe.errors import UserError
from moe.routing import assignment

KINDS = (assignment.TopKAssignment,)  # what it carries


class Implementation(NamedTuple):
    """(x_SD, choice, weights, activation, expected) -> y_SD, computed rows; where it is fast."""

    apply: Callable[..., tuple[jax.Array, jax.Array]]
    backends: tuple[str, ...]


IMPLEMENTATIONS = {
    "blocks": Implementation(blocks.apply, ("cpu", "gpu", "tpu")),
    "ragged_dot": Implementation(ragged.by_xla, compat.RAGGED_DOT),
    "wide_blocks": Implementation(functools.partial(blocks.apply, shape=blocks.WIDE), ("gpu",)),
    "hopper": Implementation(ragged.by_hopper, ("gpu",)),
}


AUTO = "auto"  # the fastest here, see `choose`


def choose(implementation: str, dtype: str, d_model: int, d_ff: int) -> str:
    """The name of the kernel that computes: the one asked for, or the fastest that is known here.

    Hopper's where they fit (measured: docs/cost.md); `ragged_dot` on TPUs where it is a kernel (not
    measured, by the compiled program); else blocks. None of them is a dense product.

    Args:
      implementation: of `IMPLEMENTATIONS`, or AUTO.
      dtype: of the arithmetic.
      d_model, d_ff: of the experts.
    """
    if implementation != AUTO:
        return implementation
    backend = target.platform()
    if backend == "gpu" and not hopper.misfit(dtype, d_model, d_ff):
        return "hopper"
    return "ragged_dot" if backend == "tpu" and "ragged_dot" in fit() else "blocks"


def fit() -> list[str]:
    """The kernels that are no dense product on `target.platform()`."""
    backend = target.platform()
    return [name for name, k in IMPLEMENTATIONS.items() if backend in k.backends]


def check(kernel: str) -> None:
    """Refuses a kernel that would be a dense product on `target.platform()`.

    Raises:
      UserError: with those that are not dense.
    """
    if kernel not in (AUTO, *fit()):
        raise UserError(
            f"mesh.implementation={kernel!r} is not for {target.platform()} in JAX"
            f" {jax.__version__}: it has no kernel there for values and gradients, or multiplies"
            " every row with every expert (moe/dispatch/ragged.py)."
            f" Use {' or '.join(map(repr, (AUTO, *fit())))}"
        )


def apply(
    x_GSD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
    activation: str,
    implementation: str,
    ep_capacity_factor: float,
) -> tuple[jax.Array, assignment.DispatchResult]:
    """y_s = sum_k gate_sk f_e(x_s) over all experts of the mesh.

    Args:
      x_GSD: tokens.
      choice: expert_GSK and gate_GSK; expert E is nobody.
      weights: of E experts, as they lie on the mesh.
      activation: of `ffn.ACTIVATIONS`.
      implementation: of `IMPLEMENTATIONS`, or AUTO.
      ep_capacity_factor: size of the buffers between devices, times the even share.

    Returns:
      y_GSD and `assignment.DispatchResult`.
    """
    (_, D, F) = weights.w_in.shape
    kernel = IMPLEMENTATIONS[choose(implementation, x_GSD.dtype.name, D, F)].apply
    letters: dict[str, Any] = {"w_in": "EDF", "w_out": "EFD"}
    if weights.w_gate is not None:
        letters["w_gate"] = "EDF"
    of_weights = weights._replace(**letters)
    local = functools.partial(_local, kernel, activation, ep_capacity_factor)
    own = sharding.shard_mapped(local, ("GSD", "GSK", of_weights), ("GSD", "GSK", "G"))
    y_GSD, kept_GSK, rows = own(x_GSD, choice, weights)
    return y_GSD, assignment.DispatchResult(
        kept_GSK, rows.sum().astype(jnp.float32), len(weights.w_in)
    )


def _local(kernel, activation, buffer, x_GSD, choice, weights):
    """One device's tokens, there and back."""
    (G, S, D) = x_GSD.shape
    K = choice.expert_GSK.shape[-1]
    expert_1SK, gate_1SK = (x.reshape(1, G * S, K) for x in choice)
    x_SD, gate_1SK, weights = sharding.pvary((x_GSD.reshape(G * S, D), gate_1SK, weights))
    mine = len(weights.w_in)
    devices = sharding.num_devices(("expert",))
    here = assignment.TopKAssignment(expert_1SK, gate_1SK)
    if devices == 1:
        y_SD, rows = kernel(x_SD, here, weights, activation, G * S * K)
        kept_1SK = expert_1SK < mine
    else:
        C = min(G * S * K, math.ceil(buffer * G * S * K / devices))
        slots = assignment.assign_slots(here._replace(expert_GSK=expert_1SK // mine), devices, C)
        slot_1SK = slots.slot_GSK
        assert slot_1SK is not None  # tokens chose
        kept_1SK = slot_1SK < devices * C
        x_MD = _cross(gather.dispatch(x_SD[None], slots).reshape(devices * C, D))
        expert_M = jnp.full(devices * C, mine, jnp.int32)
        expert_M = expert_M.at[slot_1SK.ravel()].set(expert_1SK.ravel() % mine, mode="drop")
        expert_M = _cross(expert_M)[None, :, None]
        ones = sharding.pvary(jnp.ones(expert_M.shape, jnp.float32))
        come = min(G * S * K, devices * C)  # if as many as it has; the rest of a buffer is empty
        y_MD, rows = kernel(
            x_MD, assignment.TopKAssignment(expert_M, ones), weights, activation, come
        )
        y_SD = gather.combine(_cross(y_MD).reshape(1, devices, C, D), slots, G * S)[0]
    if sharding.current():
        y_SD = jax.lax.psum(y_SD, "model")
    return y_SD.reshape(G, S, D), kept_1SK.reshape(G, S, K), rows[None]


def _cross(x_M):
    """Part i of the rows goes to device i, which lays what comes from device j in its part j."""
    x_M = jax.lax.all_to_all(x_M, "expert", split_axis=0, concat_axis=0, tiled=True)
    return checkpoint_name(x_M, execution.CROSSED)
