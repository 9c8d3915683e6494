"""Part 1: is every dispatcher right, group by group, whatever the sizes of groups?

Each is compared with `reference` in y, dx and dw. An error is relative to the largest entry of its
own group: beside the largest of all, a wrong small group would not be seen. A group without rows
must have a gradient of exact zeros, and so must rows that are nobody's: they are full of NaN, which
must reach nothing else. float32 is multiplied at the highest precision, not in TF32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator_parts import attention, reference
from experiments.accelerator_parts.cells import Cell, Settings, require
from moe import ffn
from moe.dispatch import einsum, gather, grouped
from moe.routing import assignment

TOLERANCES = {"float32": 1e-5, "bfloat16": 0.03}  # of a group's largest entry
ROWS = 1024
SIZES = {  # rows of each expert; what is left of ROWS is nobody's
    "mixed": (0, 1, 7, 63, 64, 65, 255, 8, 257),
    "mixed, no padding": (0, 1, 7, 63, 64, 65, 255, 257, 312),
    "all in one": (0, 0, 0, 701, 0, 0, 0, 0, 0),
    "all but the last empty": (0, 0, 0, 0, 0, 0, 0, 0, 701),
    "one expert": (701,),
}
WIDTHS = (128, 256)  # D and F, as kernels for Hopper want
TINY_WIDTHS = (16, 24)
GUESS = 8.0  # seconds of a cell
SLOTTED = {"einsum": einsum, "gather": gather}

Apply = Callable[[jax.Array, assignment.TopKAssignment, ffn.Weights], jax.Array]


def cells(settings: Settings) -> list[Cell]:
    """Attention, then a cell for each dispatcher or kernel, and type: all sizes of groups."""
    widths = TINY_WIDTHS if settings.tiny else WIDTHS
    of_dispatchers = [
        Cell(f"{name} {dtype}", functools.partial(check, name, dtype, widths), GUESS)
        for dtype in TOLERANCES
        for name in implementations()
    ]
    of_attention = [
        Cell(f"attention {kernel} bfloat16", functools.partial(attention.check, kernel), GUESS)
        for kernel in ("cudnn", "splash")
    ]
    return [*of_attention, *of_dispatchers]


def implementations() -> dict[str, Apply]:
    """name -> (x_SD, choice, weights) -> y_SD, with room for every choice."""
    found: dict[str, Apply] = {}
    for name, dispatcher in SLOTTED.items():
        found[name] = functools.partial(_in_slots, dispatcher)
    for name, kernel in grouped.IMPLEMENTATIONS.items():
        found[f"grouped {name}"] = functools.partial(_dropless, kernel.apply)
    return found


def _in_slots(dispatcher, x_SD, choice, weights):
    """As many slots an expert as there are tokens."""
    slots = assignment.assign_slots(choice, len(weights.w_in), len(x_SD))
    x_ECD = dispatcher.dispatch(x_SD[None], slots)[0]
    y_ECD = ffn.apply(x_ECD, weights, "swiglu", "EC", "E")
    return dispatcher.combine(y_ECD[None], slots, len(x_SD))[0]


def _dropless(kernel, x_SD, choice, weights):
    return kernel(x_SD, choice, weights, "swiglu")[0]


def check(name: str, dtype: str, widths: tuple[int, int]) -> dict:
    """The row of one implementation: its largest errors, where they are, and the verdict.

    Raises:
      Skipped: if it is not for this machine or type.
    """
    require(name.removeprefix("grouped "), dtype, *widths)
    step = jax.jit(functools.partial(_with_gradients, implementations()[name]))
    worst: dict[tuple[str, str, int], float] = {}  # by sizes of groups, what, and expert
    for sizes_name, sizes in SIZES.items():
        case, want = _case(sizes, dtype, widths)
        found = errors(_run(step, case), want, case.expert_S)
        worst |= {(sizes_name, *at): error for at, error in found.items()}
    return summary(worst, TOLERANCES[dtype])


def make(sizes: tuple[int, ...], dtype: str, widths: tuple[int, int]) -> reference.Case:
    """Random rows, those of a group anywhere among the real ones, then NaN that is nobody's."""
    rng = np.random.default_rng(0)
    E = len(sizes)
    (D, F) = widths
    real = sum(sizes)
    expert_S = np.full(ROWS, E, np.int32)
    expert_S[:real] = rng.permutation(np.repeat(np.arange(E, dtype=np.int32), sizes))
    x_SD = rng.normal(size=(ROWS, D))
    x_SD[real:] = np.nan
    gate_S = np.where(expert_S < E, 0.5 + rng.random(ROWS), 0).astype(np.float32)
    dy_SD = rng.normal(size=(ROWS, D))
    shapes = ((E, D, F), (E, F, D), (E, D, F))
    experts = [rng.normal(size=shape) / shape[1] ** 0.5 for shape in shapes]
    x_SD, dy_SD, *experts = (np.asarray(jnp.asarray(x, dtype)) for x in (x_SD, dy_SD, *experts))
    return reference.Case(x_SD, expert_S, gate_S, dy_SD, reference.Experts(*experts))


@functools.cache
def _case(sizes, dtype, widths):
    """A case and what is right, for all implementations."""
    case = make(sizes, dtype, widths)
    return case, reference.compute(case)


def _with_gradients(apply, x_SD, expert_S, gate_S, dy_SD, weights):
    choice = assignment.TopKAssignment(expert_S[None, :, None], gate_S[None, :, None])
    y_SD, transpose = jax.vjp(lambda x, w: apply(x, choice, w), x_SD, weights)
    return y_SD, *transpose(dy_SD)


def _run(step, case):
    """What the implementation makes of a case, in float64."""
    weights = ffn.Weights(*case.experts)
    with jax.default_matmul_precision("highest"):
        made = step(case.x_SD, case.expert_S, case.gate_S, case.dy_SD, weights)
    y_SD, dx_SD, dw = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(made))
    return reference.Results(y_SD, dx_SD, reference.Experts(*dw))


def errors(
    got: reference.Results, want: reference.Results, expert_S: np.ndarray
) -> dict[tuple[str, int], float]:
    """(what, expert) -> error beside the largest entry of that expert's group; E is nobody."""
    found = {}
    E = len(want.dw.w_in_EDF)
    for expert in range(E + 1):
        rows = expert_S == expert
        for what in ("y_SD", "dx_SD"):
            one = getattr(got, what)[rows]
            other = getattr(want, what)[rows]
            found[what.split("_")[0], expert] = reference.relative(one, other)
    for expert in range(E):
        pairs = zip(got.dw, want.dw, strict=True)
        found["dw", expert] = max(reference.relative(a[expert], b[expert]) for a, b in pairs)
    return found


def summary(found: dict[tuple[str, str, int], float], tolerance: float) -> dict:
    """The largest errors in y, dx and dw, every group that is wrong, and the verdict."""
    largest = {
        what: max(error for (_, one, _), error in found.items() if one == what)
        for what in ("y", "dx", "dw")
    }
    wrong = [
        f"{what} of group {expert} ({sizes}): {error:.2g}"
        for (sizes, what, expert), error in found.items()
        if error > tolerance
    ]
    return {**largest, "tolerance": tolerance, "ok": not wrong, "wrong": wrong}
