"""One general model, or one of each domain? At as many FLOPs of training in all.

    python -m experiments.domain_experts --config=configs/domain_experts.py:demo   # minutes
    python -m experiments.domain_experts --config=configs/domain_experts.py:cpu    # an hour

The dense model of `configs/scaling.py` on its five domains. Branch-Train-Merge: a seed phase on all
text, then a branch for each domain on text of that domain alone. Branch-Train-Mix: shorter
branches, whose feed-forwards become experts, which are trained together for what is left.
"""

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.training.config import RunConfig

# An expert for each domain, without slots: nothing is dropped, and little is padded.
DEMIX = {
    "num_experts": 5,
    "router": "domain",
    "router_scale": 0.0,
    "dispatcher": "grouped",
    "group_size": 0,
    "capacity_factor": 0.0,
    "eval_capacity_factor": 0.0,
}


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 12.3M tokens in all for each way."""
    config = ConfigDict()
    config.name = "domain_experts_cpu"
    config.seeds = 3
    config.jobs = 2
    config.match = "executed"
    config.base = schema.complete(RunConfig, scaling.small())
    # Steps of 2,048 tokens. `whole` is of the dense model, to whose FLOPs all ways come.
    config.steps = {"whole": 6000, "seed": 1000, "mix": 600}
    config.warmup_steps = 50  # of what starts from another run
    # Of that; the best of `configs/upcycling.py:pilots`, which go on from a model of 2,000 steps.
    config.rates = {"branches": 0.008, "mix": 0.008}
    config.experts = scaling.shared()
    config.variants = scaling.tuned({
        "dense": {},
        "e8_top2": scaling.experts(8),
        "demix": {"experts": DEMIX, "learning_rate": scaling.RATES["e32_hash"]},
    })  # fmt: skip
    config.mixed = {"num_experts": 5, "k": 2, **scaling.shared()}  # of Branch-Train-Mix
    return config


def demo() -> ConfigDict:
    """One seed, 2.5M tokens in all."""
    config = scaling.in_minutes(cpu(), "domain_experts_demo")
    config.steps = {"whole": 1200, "seed": 300, "mix": 100}
    config.warmup_steps = 20
    config.base.optimizer.warmup_steps = 50
    config.base.train.update(eval_every=100)
    return config
