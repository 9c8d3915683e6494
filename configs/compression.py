"""One model with experts made smaller in many ways, on one axis.

    python -m experiments.compression --config=configs/compression.py:demo   # minutes, 2 cores
    python -m experiments.compression --config=configs/compression.py:cpu    # 3 seeds, half an hour

The model is 32 experts top-2 of `configs/scaling.py` beside its dense baseline. What experts do is
observed on validation text, and judged on test text. Methods are those of `moe.adapt.METHODS`.
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
    config.name = "compression_cpu"
    config.shorter = ()
    config.base.train.steps = 3000
    config.variants = {
        "dense": {},
        "e32_top2": scaling.experts(32) | {"learning_rate": scaling.RATES["e32_top2"]},
    }
    config.students = {"student": {"share": 0.25, "copied": True}}  # as in configs/distillation.py
    config.calibration_batches = 32  # of validation text
    config.test_batches = 0  # 0 is the whole test split
    config.timed_tokens = 64  # that each of 32 texts is continued by; 0: nothing is timed
    config.methods = {
        f"{how}_{number}": {"how": how, "experts": number}
        for how in ("prune_use", "prune_reap", "merge_mean", "merge_use", "merge_aligned")
        for number in (24, 16, 8, 4)
    }
    for how in ("merge_mean", "merge_use", "merge_aligned"):
        config.methods[f"{how}_dense"] = {"how": how, "experts": 0}
    for how in ("int8", "int4", "qmoe"):
        config.methods[how] = {"how": how}
    return config


def demo() -> ConfigDict:
    """One seed, 0.8M tokens, a few methods."""
    config = scaling.in_minutes(cpu(), "compression_demo")
    config.calibration_batches = 8
    config.test_batches = 16
    config.timed_tokens = 16
    kept = ("prune_reap_16", "merge_aligned_16", "int8", "qmoe")
    config.methods = {name: config.methods[name] for name in kept}
    return config
