"""How much of what experts gain can a dense model of equal FLOPs be taught?

    python -m experiments.distillation --config=configs/distillation.py:demo   # minutes, 2 cores
    python -m experiments.distillation --config=configs/distillation.py:cpu    # 3 seeds, an hour

Teachers are models with experts of `configs/scaling.py`; students are its dense model, at its
learning rate, for as many steps. `dense_copied` starts from the dense model itself, and is the
control of students that start from a teacher.
"""

from ml_collections import ConfigDict

from configs import scaling
from moe import schema


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 6.1M tokens each."""
    config = scaling.cpu()
    config.name = "distillation_cpu"
    config.shorter = ()
    config.base.train.steps = 3000
    config.variants = {"dense": {}}
    for name, number in (("e8_top2", 8), ("e32_top2", 32)):
        rate = scaling.RATES[name]
        config.variants[name] = scaling.experts(number) | {"learning_rate": rate}
    # share: of the loss that is the teacher's; copied: does it start from the teacher's parameters
    # that are no feed-forwards?
    config.students = {
        "soft": {"share": 0.25, "copied": False},
        "copied": {"share": 0.0, "copied": True},
        "switch": {"share": 0.25, "copied": True},
        "half": {"share": 0.5, "copied": True},
    }
    return config


def demo() -> ConfigDict:
    """One seed, 0.8M tokens, one teacher, Switch's student."""
    config = scaling.in_minutes(cpu(), "distillation_demo")
    del config.variants["e8_top2"]
    config.students = {"switch": config.students["switch"]}
    return config
