"""Experts that rest in the host's memory while text of another domain is read (PanGu-Sigma).

python -m experiments.hosted --config=configs/hosted.py:demo   # minutes, 2 cores
python -m experiments.hosted --config=configs/hosted.py:cpu    # 3 seeds, half an hour
"""

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.training.config import RunConfig


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 6.1M tokens each: five domains of eight experts each."""
    config = ConfigDict()
    config.name = "hosted_cpu"
    config.seeds = 3
    config.base = schema.complete(RunConfig, scaling.small())
    config.base.optimizer.learning_rate = scaling.RATES["e32_hash"]
    config.base.train.steps = 3000
    config.experts = {
        "num_experts": 8 * len(scaling.CORPUS),
        "k": 1,
        "router": "rre",
        "options": {"groups": len(scaling.CORPUS)},
        "dispatcher": "grouped",  # no capacity: all ways compute the same for a token
        "capacity_factor": 0.0,
        "eval_capacity_factor": 0.0,
    }
    config.round = 20  # steps on text of one domain, before the next comes
    return config


def demo() -> ConfigDict:
    """One seed, 0.8M tokens."""
    return scaling.in_minutes(cpu(), "hosted_demo")
