"""Experts of one choice a token in float64 NumPy, one group after the other, and the gradients.

Letters of this file: N rows of one group.
"""

from typing import NamedTuple

import numpy as np


class Experts(NamedTuple):
    """SwiGLU matrices of E experts."""

    w_in_EDF: np.ndarray
    w_out_EFD: np.ndarray
    w_gate_EDF: np.ndarray


class Case(NamedTuple):
    """Rows, whose they are, and the gradient of what comes out."""

    x_SD: np.ndarray
    expert_S: np.ndarray  # E is nobody
    gate_S: np.ndarray
    dy_SD: np.ndarray
    experts: Experts


class Results(NamedTuple):
    """y and gradients; zeros where a row is nobody's, and of the weights nobody met."""

    y_SD: np.ndarray
    dx_SD: np.ndarray
    dw: Experts


def compute(case: Case) -> Results:
    """y_s = gate_s (silu(x W_gate) * x W_in) W_out, and what dy makes of x and the weights."""
    x_SD, expert_S, gate_S, dy_SD, experts = _wide(case)
    made = Results(np.zeros_like(x_SD), np.zeros_like(x_SD), Experts(*map(np.zeros_like, experts)))
    for expert in range(len(experts.w_in_EDF)):
        rows = np.flatnonzero(expert_S == expert)
        dz_ND = gate_S[rows, None] * dy_SD[rows]
        y_ND, dx_ND, dw = _group(x_SD[rows], dz_ND, [w[expert] for w in experts])
        made.y_SD[rows] = gate_S[rows, None] * y_ND
        made.dx_SD[rows] = dx_ND
        for sum_EDF, one_DF in zip(made.dw, dw, strict=True):
            sum_EDF[expert] = one_DF
    return made


def _wide(case):
    floats = [np.asarray(x, np.float64) for x in (case.x_SD, case.gate_S, case.dy_SD)]
    experts = Experts(*(np.asarray(w, np.float64) for w in case.experts))
    return floats[0], np.asarray(case.expert_S), floats[1], floats[2], experts


def _group(x_ND, dz_ND, matrices):
    """z = (silu(x W_gate) * x W_in) W_out of one expert; dx and the gradients of its matrices."""
    w_in_DF, w_out_FD, w_gate_DF = matrices
    up_NF = x_ND @ w_in_DF
    a_NF = x_ND @ w_gate_DF
    sigmoid_NF = 1 / (1 + np.exp(-a_NF))
    h_NF = a_NF * sigmoid_NF * up_NF
    dh_NF = dz_ND @ w_out_FD.T
    dup_NF = dh_NF * a_NF * sigmoid_NF
    da_NF = dh_NF * up_NF * sigmoid_NF * (1 + a_NF * (1 - sigmoid_NF))
    dx_ND = dup_NF @ w_in_DF.T + da_NF @ w_gate_DF.T
    return h_NF @ w_out_FD, dx_ND, (x_ND.T @ dup_NF, h_NF.T @ dz_ND, x_ND.T @ da_NF)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """max |got - want| / max |want|, infinite if something is not finite, or should have been 0."""
    if not np.isfinite(got).all():
        return np.inf
    error = np.abs(got - want).max(initial=0)
    peak = np.abs(want).max(initial=0)
    if peak == 0:
        return np.inf if error else 0.0
    return float(error / peak)
