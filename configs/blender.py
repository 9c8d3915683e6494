"""LLM-Blender (Jiang et al. 2023) over five of our own models, which continue documents.

    python -m experiments.blender --config=configs/blender.py:demo   # minutes, 2 cores
    python -m experiments.blender --config=configs/blender.py:cpu    # an hour of one core

The models are those of `configs/scaling.py`: dense, three with experts at its FLOPs, and a dense
one of twice the FLOPs. Both the ranker and the fuser begin with what a model of their own kind has
learned of plain text, as DeBERTa and Flan-T5 have in the paper. They learn from documents that none
of the models has read.
"""

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.training.config import RunConfig


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 3.1M tokens for each model."""
    config = ConfigDict()
    config.name = "blender_cpu"
    config.seeds = 3
    config.jobs = 2
    config.match = "executed"
    config.base = schema.complete(RunConfig, scaling.small())
    config.base.optimizer.learning_rate = 0.016
    config.base.train.update(steps=1500, eval_every=500, eval_batches=16, test_batches=16)
    config.base.train.update(unique_tokens=1500 * 2048)  # the rest is for ranker and fuser
    config.experts = scaling.shared()
    config.variants = scaling.tuned({
        "dense": {},
        "dense_2x": scaling.DOUBLED["dense_2x_wide"] | {"learning_rate": 0.008},
        "e8_top2": scaling.experts(8),
        "e32_top2": scaling.experts(32),
        "e32_hash": scaling.experts(32, **scaling.HASH),
    })  # fmt: skip
    # Inputs of 48 tokens and what follows them, of `train` at most so many.
    config.inputs = {"length": 48, "written": 16, "of_document": 3, "train": 5000}
    config.encoder = {"steps": 1200, "rate": 0.016}  # where the ranker begins
    # Where the fuser begins: rows of 57 tokens have a sentinel for each candidate.
    config.reader = {"steps": 1200, "rate": 0.002, "length": 57}
    config.fused = 3  # candidates
    # Trained at each rate; the best by validation loss is reported.
    config.ranker = {"steps": 1000, "rates": (0.001, 0.004)}
    config.fuser = {"steps": 1000, "rates": (0.0005, 0.002)}
    return config


def demo() -> ConfigDict:
    """One seed, a few steps of each: that it runs, and what the report looks like."""
    config = cpu()
    config.name = "blender_demo"
    config.seeds = 1
    config.base.train.update(steps=200, eval_every=100, eval_batches=4, test_batches=4)
    config.base.train.update(checkpoint_every=200, unique_tokens=200 * 2048)
    config.base.optimizer.warmup_steps = 40
    del config.variants["dense_2x"].learning_rate
    config.inputs.update(of_document=1, train=800)
    config.encoder.steps = config.reader.steps = 100
    config.ranker = {"steps": 100, "rates": (0.004,)}
    config.fuser = {"steps": 100, "rates": (0.002,)}
    return config
