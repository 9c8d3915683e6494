"""Equal FLOPs on real text: a dense decoder, and MoE decoders that cost the same per token.

    python -m experiments.scaling --config=configs/scaling.py:demo     # 15 minutes, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:cpu      # 2 hours, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:ladder   # 2 hours more, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:gpu      # one accelerator

All MoE variants are matched to `dense` in executed FLOPs: padding to capacity, the router and the
dispatch are paid for by narrower experts. `experiments/RESULTS.md` has what came out.

The output head shares the embedding's weights in every variant. One of its own would cost no FLOPs,
and helps the dense model more than experts: RESULTS.md, 2026-11-26.
"""

from typing import Any

from ml_collections import ConfigDict

from moe import schema
from moe.training.config import RunConfig

CORPUS = ("encyclopedia_en", "encyclopedia_fr", "encyclopedia_es", "code", "cloud_docs")


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu, ladder or gpu."""
    sizes = {"demo": demo, "cpu": cpu, "ladder": ladder, "gpu": gpu}
    if size not in sizes:
        raise ValueError(f"configs/scaling.py:{size} is unknown: use demo, cpu, ladder or gpu")
    return sizes[size]()


def experts(number: int, **overrides: Any) -> dict:
    """A variant with so many experts, top-2 unless k says else, at the experts' learning rate."""
    return {"experts": {"num_experts": number, "k": 2, **overrides}, "learning_rate": 0.012}


RANDOM = {"router": "random", "router_scale": 0.0}  # no weights, no losses


def cpu() -> ConfigDict:
    """Three paired seeds of each model: 12.3M tokens each, three quarters of an epoch.

    Top-2, because at so few tokens it learns faster than top-1 of the same FLOPs.
    """
    config = ConfigDict()
    config.name = "scaling_cpu"
    config.seeds = 3
    config.jobs = 2  # runs at a time, each on its own share of the cores
    config.match = "executed"
    config.watts = 60.0  # assumed draw of the machine, shared by its jobs, for the energy estimate
    config.base = schema.complete(RunConfig, small())
    # What the experts' variants share; d_ff is solved for.
    config.experts = {
        "group_size": 2048,
        "capacity_factor": 1.25,
        "eval_capacity_factor": 1.25,  # the same: evaluation costs what dense costs, too
        "router_scale": 2.0,
    }
    config.variants = {
        "dense": {},
        "e8_top2": experts(8),
        "e32_top2": experts(32),
        "e32_top2_random": experts(32, **RANDOM),
    }
    return config


def small() -> dict:
    """The dense run that a CPU can do: what differs from the defaults of `RunConfig`."""
    return {
        "data": {"source": CORPUS, "vocab_size": 1024},
        "model": {
            "vocab_size": 1024,
            "num_layers": 2,
            "moe_every": 1,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 256,
            "activation": "relu",
            "dtype": "float32",
        },
        "optimizer": {
            "learning_rate": 0.016,  # best for dense in pilots of 3.1M tokens: RESULTS.md
            "schedule": "inverse_sqrt",
            "warmup_steps": 200,
        },
        "train": {
            "steps": 6000,
            "batch_size": 32,
            "seq_len": 64,
            "eval_every": 200,
            "eval_batches": 16,
            "test_batches": 0,
            "log_every": 200,
            "checkpoint_every": 1000,
        },
    }


def demo() -> ConfigDict:
    """The same models, so that they show the effect in minutes: one seed, 3.1M tokens each."""
    config = cpu()
    config.name = "scaling_demo"
    config.seeds = 1
    config.base.train.steps = 1500
    config.base.train.eval_every = 100
    config.base.train.log_every = 50
    config.base.train.checkpoint_every = 500
    return config


def ladder() -> ConfigDict:
    """The study of `cpu`, in the same folder, grown by top-1 and by dense at twice the FLOPs.

    `dense_2x` is `dense` with a wider feed-forward: one shape at one learning rate, not the best
    that twice the FLOPs buy.
    """
    config = cpu()
    config.variants.dense_2x = {"flops": 2.0}
    for number in (4, 16, 64):
        config.variants[f"e{number}_top1"] = experts(number, k=1)
    return config


def gpu() -> ConfigDict:
    """Up to 256 experts on all seven packaged domains: 65M tokens (3.7 epochs), bfloat16."""
    config = ladder()
    config.name = "scaling_gpu"
    config.jobs = 1
    config.watts = 700.0
    data = {"source": (*CORPUS, "web_api_docs", "framework_docs"), "vocab_size": 4096}
    config.base.data.update(data)
    config.base.model.update(
        vocab_size=4096,
        num_layers=8,
        moe_every=2,
        d_model=256,
        num_heads=4,
        d_head=64,
        d_ff=1024,
        dtype="bfloat16",
    )
    config.base.optimizer.learning_rate = 0.003
    config.base.optimizer.warmup_steps = 500
    config.base.train.steps = 4000
    config.base.train.batch_size = 64
    config.base.train.seq_len = 256
    config.base.train.eval_batches = 8
    config.variants.e64_top2 = experts(64)
    config.variants.e256_top2 = experts(256)
    for variant in config.variants.values():
        if "learning_rate" in variant:
            variant.learning_rate = 0.003
    return config
