"""What a router does over time: how much its choices move, and whether it collapses."""

import warnings

import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.data.prepared import Prepared
from moe.evaluation import held_out
from moe.evaluation.contract import Evaluator, State
from moe.objectives.contract import Run
from moe.routing import assignment, contract


class CollapseWarning(UserWarning):
    """A router has stopped using its experts."""


def agreement(before: np.ndarray, after: np.ndarray, experts: int) -> list[float]:
    """Share of each layer's choices that were made before, too, whatever their rank.

    Args:
      before, after: expert_GSK of the same tokens, [L, G, S, K], `experts` for none.
    """
    same = (after[..., :, None] == before[..., None, :]).any(-1) & (after < experts)
    axes = tuple(range(1, after.ndim))
    return (same.sum(axes) / np.maximum((after < experts).sum(axes), 1)).tolist()


def agreement_over_a_step(run: Run, data: Prepared, split: str = "validation") -> Evaluator:
    """`agreement_L`: the share of choices on fixed tokens that one more step did not change.

    Nothing is logged of models in which tokens do not choose.
    """
    experts = run.model.experts
    if experts is None or experts.routing.kind is not assignment.TopKAssignment:
        return Evaluator(lambda state: {})
    eval_step = held_out.eval_step_of(run.task)
    batch = next(run.source(data).held_out(split, held_out.max_batches(run, split)))
    before: list[np.ndarray] = []  # the choices one step earlier, once they are there

    def choices(state: State) -> np.ndarray:
        return np.asarray(eval_step(state, sharding.shard_batch(batch), jnp.int32(0)).choices)

    def evaluate(state: State) -> dict:
        return {"agreement_L": agreement(before.pop(), choices(state), experts.num_experts)}

    def before_step(state: State) -> None:
        before[:] = [choices(state)]

    return Evaluator(evaluate, before_step)


class CollapseMonitor:
    """Warns, once for each layer, when a collapse has lasted for so many steps.

    Collapsed: an expert is unused, or one gets more than half of the load (of two experts three
    quarters) or nearly every token.
    """

    def __init__(self, steps: int, router: contract.Router):
        self.steps = steps
        self._advice = advice(router)
        self._since: dict[int, int] = {}  # layer -> the step at which its collapse was first seen
        self._warned: set[int] = set()  # layers

    def update(self, record: dict) -> None:
        """Looks at a logged record; of a dense model it sees nothing."""
        for layer, load_E in enumerate(np.asarray(record.get("load_LE", []))):
            reason = collapse(load_E, float(record["realised_k_L"][layer]))
            if reason is None:
                self._since.pop(layer, None)
                continue
            since = self._since.setdefault(layer, record["step"])
            if record["step"] - since >= self.steps and layer not in self._warned:
                self._warned.add(layer)
                warnings.warn(
                    f"router of MoE layer {layer} has collapsed: since step {since} {reason}."
                    f" {self._advice}",
                    CollapseWarning,
                    stacklevel=2,
                )


def advice(router: contract.Router) -> str:
    """What may help against a collapse, of all that this router can use."""
    able = []
    if "balance_weight" in router.common:
        able.append("raise experts.balance_weight")
    if router.learned:
        able.append("lower optimizer.learning_rate")
    if "router_scale" in router.common:
        able.append("lower experts.router_scale")
    able.append("take a router that balances itself (sigmoid, sinkhorn, base)")
    text = ", or ".join(able)
    return text[0].upper() + text[1:]


def collapse(load_E: np.ndarray, realised_k: float) -> str | None:
    """What is wrong with the loads of one layer's experts; None if nothing is wrong."""
    experts = len(load_E)
    idle = int((load_E == 0).sum())
    most = float(load_E.max())
    if idle:
        return f"{idle} of {experts} experts get no token"
    nearly_all = most * realised_k > 0.95 and realised_k < 0.9 * experts
    if experts > 1 and (most > max(0.5, 1.5 / experts) or nearly_all):
        return f"expert {int(load_E.argmax())} gets {most:.0%} of the load"
    return None
