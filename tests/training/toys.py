"""A toy corpus and a run on it, short enough to repeat on every mesh and in several processes."""

import contextlib
import pathlib

import jax
import numpy as np

from moe.data import prepare, prepared
from moe.training import checkpoint, loop, metrics, optimizer, step
from moe.training import config as configs
from tests import tiny

V = 257  # the smallest vocabulary that a tokenizer has
STEPS = 6
EVERY = 3


def data() -> prepared.Prepared:
    """Documents of about ten tokens, of which there are five kinds."""
    rng = np.random.default_rng(0)
    tokens = {
        split: np.where(rng.random(size) < 0.1, 0, rng.integers(1, 6, size)).astype(np.uint16)
        for split, size in {"train": 400, "validation": 200, "test": 200}.items()
    }
    domains = {split: np.zeros(len(x), np.uint8) for split, x in tokens.items()}
    token_bytes = np.append(0, np.ones(V - 1, np.int32))
    return prepared.Prepared(
        path=pathlib.Path("."), tokens=tokens, domains=domains, domain_names=("toy",),
        token_bytes=token_bytes, meta={"files": {"train.npy": {"sha256": "toy"}}},
    )  # fmt: skip


def run_config(**sections) -> configs.RunConfig:
    """Sparse, with noise and a state in the router, on a mesh of 2 x 4."""
    losses = {"balance_weight": 0.01, "z_weight": 0.001}
    experts = tiny.moe_config(router="sigmoid", k=2, jitter=0.1, **losses)
    run = configs.RunConfig(
        model=tiny.model(vocab_size=V, num_layers=1, moe_every=1, experts=experts),
        data=prepare.DataConfig(vocab_size=V),
        train=configs.TrainConfig(
            steps=STEPS, batch_size=8, seq_len=8, log_every=1, eval_every=2, eval_batches=1,
            test_batches=2, checkpoint_every=EVERY, evaluators=("loss",),
        ),
        optimizer=optimizer.OptimizerConfig(learning_rate=0.01, warmup_steps=1),
        mesh=configs.MeshConfig(data=2, expert=4),
    )  # fmt: skip
    return run.replace(**sections)


class Run:
    """A finished run: its result, and what lies in its workdir."""

    def __init__(self, workdir, result):
        self.workdir = workdir
        self.result = result
        self.records = metrics.read(workdir / "metrics.jsonl")

    def state(self, run):
        """The state of the last checkpoint."""
        with jax.set_mesh(loop.sharding.make_mesh(run.mesh.data, run.mesh.expert)):
            template = step.init(run.task.model, run.tx, 1)
            with contextlib.closing(checkpoint.Checkpoints(self.workdir)) as checkpoints:
                return tiny.host(checkpoints.restore(template)[0])
