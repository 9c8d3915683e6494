"""Grouped matrix products on NVIDIA's Hopper GPUs, by the Pallas kernels that JAX brings.

They multiply bfloat16 or float16. These blocks were the fastest of ten, and of six for `columns`,
on an H100 (experiments/results/accelerator_h100/parts.md): 429, 403 and 365 TFLOP/s.

Their modules are imported where they are called: they bring JAX's own test tools along.
"""

from typing import Any

import jax

from moe.errors import UserError

DTYPES = ("bfloat16", "float16")
MULTIPLE = 128  # of the widths
BLOCKS: Any = {"block_m": 128, "block_n": 128, "block_k": 64, "grid_block_n": 10}
CAPABILITY = "9.0"  # of Hopper


def misfit(dtype: str, d_model: int, d_ff: int) -> str:
    """What the kernels want and do not get; "" if they fit."""
    device = jax.devices()[0]
    if getattr(device, "compute_capability", "") != CAPABILITY:
        return f"a Hopper GPU, not {device.device_kind}"
    if dtype not in DTYPES:
        return f"{' or '.join(DTYPES)}, not {dtype}"
    if d_model % MULTIPLE or d_ff % MULTIPLE:
        return f"widths that are multiples of {MULTIPLE}, not d_model={d_model} and d_ff={d_ff}"
    return ""


def check(dtype: str, d_model: int, d_ff: int) -> None:
    """Refuses what the kernels do not multiply.

    Raises:
      UserError: with what they want.
    """
    reason = misfit(dtype, d_model, d_ff)
    if reason:
        raise UserError(f"mesh.implementation='hopper' wants {reason}. Use 'blocks'")


def rows(x_PD: jax.Array, w_EDF: jax.Array, count_E: jax.Array) -> jax.Array:
    """PD,EDF->PF, every row with its own expert's matrix."""
    return _by_rows(x_PD, w_EDF, count_E, transposed=False)


def rows_transposed(x_PF: jax.Array, w_EDF: jax.Array, count_E: jax.Array) -> jax.Array:
    """PF,EDF->PD: the gradient of the rows."""
    return _by_rows(x_PF, w_EDF, count_E, transposed=True)


def _by_rows(x, w, count_E, transposed):
    from jax.experimental.pallas.ops.gpu import ragged_dot_mgpu

    return ragged_dot_mgpu.ragged_dot(
        x, w, group_sizes=count_E, transpose_rhs=transposed, max_concurrent_steps=5, **BLOCKS
    )


def columns(x_PD: jax.Array, dy_PF: jax.Array, count_E: jax.Array) -> jax.Array:
    """PD,PF->EDF, of the rows of each expert: the gradient of the matrices."""
    from jax.experimental.pallas.ops.gpu import transposed_ragged_dot_mgpu

    return transposed_ragged_dot_mgpu.transposed_ragged_dot(
        x_PD, dy_PF, group_sizes=count_E, max_concurrent_steps=4, **BLOCKS
    )
