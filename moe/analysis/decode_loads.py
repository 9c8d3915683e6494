"""What decode steps ask of experts, counted from the choices of their tokens.

The numbers belong to the router and the text, not to a machine. A step reads one token of each of B
texts; T steps, L MoE layers.
"""

from typing import Any

import numpy as np

from moe.adapt import place
from moe.dispatch import blocks


def per_step(expert_LBTK: np.ndarray, experts: int) -> np.ndarray:
    """count_TLE: tokens of each expert in each step.

    Args:
      expert_LBTK: what the tokens chose, of `generation.written`; E is none.
      experts: E.
    """
    chosen_LBTKE = expert_LBTK[..., None] == np.arange(experts)
    return chosen_LBTKE.sum((1, 3)).swapaxes(0, 1)


def turns(count_TLE: np.ndarray, pairs: int) -> np.ndarray:
    """turn_T: turns of the loops of `dispatch.blocks` in each step, all that varies in its work.

    Args:
      count_TLE: of `per_step`.
      pairs: B K, the choices of a layer and step.
    """
    slots, rows = blocks.sizes(pairs, count_TLE.shape[2])
    left_TLE = np.maximum(count_TLE - slots, 0)
    return (-(-left_TLE // rows)).sum((1, 2))


def summary(count_TLE: np.ndarray) -> dict[str, Any]:
    """How uneven the loads of experts are.

    Returns:
      mean: tokens of an expert in a step. largest: those of the busiest one, over the mean, in the
      mean step and layer. varies: the standard deviation over steps of an expert's tokens (root of
      the mean variance), over the mean. read: the share of experts that a step's tokens chose.
      unused: the share that no step's chose.
    """
    mean = count_TLE.mean()
    return {
        "mean": float(mean),
        "largest": float(count_TLE.max(2).mean() / mean),
        "varies": float(np.sqrt(count_TLE.var(0).mean()) / mean),
        "read": float((count_TLE > 0).mean()),
        "unused": float((count_TLE.sum(0) == 0).mean()),
    }


def largest_device(count_TLE: np.ndarray, device_LE: np.ndarray) -> float:
    """Tokens of the busiest device over the mean, in the mean step and layer.

    Args:
      count_TLE: of `per_step`.
      device_LE: a placement of `adapt.place`.
    """
    here_ZLE = device_LE == np.arange(device_LE.max() + 1)[:, None, None]
    load_TLZ = np.einsum("TLE,ZLE->TLZ", count_TLE, here_ZLE)
    return float(load_TLZ.max(2).mean() / load_TLZ.mean())


def placements(used_LE: np.ndarray, devices: int) -> dict[str, np.ndarray]:
    """Experts in turn, and evenly by their use; none where the devices do not divide them."""
    L, E = used_LE.shape
    if E % devices:
        return {}
    return {"in_turn": place.as_it_is(L, E, devices), "even": place.even(used_LE, devices)}
