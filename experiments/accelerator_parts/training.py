"""Part 4: runs of configs/scaling.py:gpu, one after the other, for the time that is left.

Each has its workdir, OUT/training/<variant>. One that is not at its end when the time is over saves
a checkpoint, and a later call goes on from there.
"""

import functools
import os
import pathlib

import numpy as np
from ml_collections import ConfigDict

from configs import scaling as configs_scaling
from experiments import scaling
from experiments.accelerator_parts.cells import Cell, Settings, Skipped
from moe import schema
from moe.data import prepare as preparing
from moe.data import prepared, splits
from moe.errors import UserError
from moe.training import loop, metrics, signals
from moe.training.config import RunConfig

FIRST = ("dense", "e64_top2", "e8_top2", "e256_top2")  # the others follow
LEAST = 60.0  # seconds that a run needs to be worth its compilation
MARGIN = 15.0  # seconds for the checkpoint
NO_NETWORK = {"PIP_RETRIES": "0", "PIP_TIMEOUT": "5"}  # or pip waits for minutes


def cells(settings: Settings) -> list[Cell]:
    """A cell for each variant.

    Raises:
      Skipped: if there is no data.
    """
    config = tiny(settings.out) if settings.tiny else configs_scaling.gpu()
    if settings.prepared_dir:
        config.base.data.prepared_dir = settings.prepared_dir
    try:
        prepare(config)
    except (ImportError, UserError, OSError) as error:
        raise Skipped(f"no --prepared data, and none can be made here: {error}") from error
    names = sorted(config.variants, key=lambda name: (*FIRST, name).index(name))
    least, margin = (0.0, 0.0) if settings.tiny else (LEAST, MARGIN)
    return [
        Cell(name, functools.partial(train, config, name, settings, margin), least, elastic=True)
        for name in names
    ]


def prepare(config: ConfigDict) -> prepared.Prepared:
    """The study's text, made if it is not in the cache; says where it is."""
    os.environ.update({name: os.environ.get(name, value) for name, value in NO_NETWORK.items()})
    found = preparing.prepare(_base(config).data)
    print(f"prepared data: {found.path}")
    return found


def train(config: ConfigDict, name: str, settings: Settings, margin: float) -> dict:
    """Trains one variant, from its checkpoint if it has one, for the time that is left."""
    alone = config.copy_and_resolve_references()
    needed = {name, config.variants[name].get("parameters_of", name)}
    alone.variants = {one: config.variants[one] for one in needed}
    run = scaling.variants(alone)[name]
    workdir = settings.out / "training" / name

    def stop(step: int) -> bool:
        del step
        return settings.seconds_left() < margin

    try:
        result = loop.train(run, workdir, name, stop=stop)
    except signals.Stopped as error:
        reason = "the time was over: the same command goes on"
        found = {"status": "unfinished", "step": error.step, "reason": reason}
    else:
        found = {"step": result["steps"], "test_nll": result["test_nll"]}
        found["training_seconds"] = result["seconds"]
    return {**found, "steps": run.train.steps, **_validation(workdir / "metrics.jsonl")}


def _validation(path):
    """The last score on validation, and its step; nothing if there is none."""
    records = metrics.read(path) if path.exists() else []
    for record in reversed(records):
        if record["split"] == "validation":
            return {"validation_nll": record["nll"], "validation_step": record["step"]}
    return {}


def _base(config):
    return schema.from_config_dict(RunConfig, config.base, "base.")


def tiny(out: pathlib.Path) -> ConfigDict:
    """Two models of a few thousand parameters, on random tokens that lie in OUT."""
    config = configs_scaling.demo()
    config.variants = {"dense": {}, "e4_top2": configs_scaling.experts(4)}
    config.experts.group_size = 16
    config.base.model.update(vocab_size=300, num_layers=1, d_model=16, num_heads=2, d_head=8)
    config.base.model.d_ff = 64
    config.base.data.update(source=("code",), vocab_size=300)
    config.base.train.update(steps=20, batch_size=8, seq_len=16, eval_every=10, eval_batches=1)
    config.base.train.update(test_batches=1, log_every=5, checkpoint_every=10)
    config.base.optimizer.warmup_steps = 5
    config.shorter = ()
    path = out / "toy_text"
    if not path.exists():
        write_random_tokens(_base(config).data, path)
    config.base.data.prepared_dir = str(path)
    return config


def write_random_tokens(data: preparing.DataConfig, path: pathlib.Path) -> None:
    """A prepared directory as of this config, of documents without meaning."""
    rng = np.random.default_rng(0)
    with prepared.writing(path) as directory:
        for split in splits.SHARES:
            tokens = rng.integers(1, data.vocab_size, 4000).astype(np.uint16)
            tokens[::40] = 0
            np.save(directory / f"{split}.npy", tokens)
            np.save(directory / f"{split}_domain.npy", np.zeros(len(tokens), np.uint8))
        np.save(directory / "token_bytes.npy", np.ones(data.vocab_size, np.int32))
        prepared.write_meta(directory, {"format": prepared.FORMAT, **schema.to_dict(data)})
