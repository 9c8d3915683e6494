"""Is a router judged as it was trained? Its choices on the same text by both of its rules.

    python -m experiments.agreement --workdir=runs/routers_cpu/decoder/base/seed0

BASE and S-BASE balance a whole group in training, and each token takes its best expert in
evaluation. On further batches of a run's training text, by its last checkpoint: the share of
choices that both rules make, and the loss by each. Written to agreement.json in the folder. On one
device.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import tqdm
from absl import flags

from experiments import command
from moe import sealed
from moe.batch import Batch
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.evaluation import routing
from moe.routing import assignment
from moe.training import loop, runs
from moe.training.config import RunConfig
from moe.training.step import State


def compare(run: RunConfig, data: Prepared, state: State, batches: int) -> dict:
    """Means over so many batches.

    Raises:
      UserError: if no token of this model chooses.
    """
    experts = run.model.experts
    if experts is None or experts.routing.kind is not assignment.TopKAssignment:
        raise UserError(
            "a model whose tokens choose experts was expected: a dense one, or one whose slots"
            " choose, has nothing to compare"
        )

    @functools.partial(jax.jit, static_argnums=2)
    def by(state: State, inputs: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """The loss, and the experts that every token chooses."""
        key = jax.random.key(0)
        found = run.task.forward(state.params, state.router_state, inputs, key, train)
        assert found.choices is not None  # tokens choose in this model
        return found.sums.nll / found.sums.targets, found.choices

    rows = []
    for i in tqdm.trange(batches, desc="batches"):
        inputs = loop.batch(run, data, run.train.steps + i)
        (trained, before), (judged, after) = (by(state, inputs, train) for train in (True, False))
        same = routing.agreement(np.asarray(before), np.asarray(after), experts.num_experts)
        rows.append((np.mean(same), trained, judged))
    names = ("agreement", "nll_by_training_rule", "nll_by_evaluation_rule")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) | {"batches": batches}


def main(workdir: str, batches: int) -> None:
    """Prints and writes what `compare` finds."""
    run, data, state = runs.load_run(workdir)
    text = json.dumps(compare(run, data, state, batches))
    sealed.write(pathlib.Path(workdir) / "agreement.json", text + "\n")
    print(text)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "The folder of the run.")
    BATCHES = flags.DEFINE_integer("batches", 16, "How many to look at.", lower_bound=1)
    command.run(lambda: main(WORKDIR.value, BATCHES.value))
