"""Models of one cost and different numbers of experts, whole and pruned, that write side by side.

    python -m experiments.serving --config=configs/serving.py:demo   # minutes, 2 cores
    python -m experiments.serving --config=configs/serving.py:cpu    # 3 seeds, an hour

`dense` and `e32_top2` are runs of `configs/compression.py:cpu`, too: folders that are copied from
runs/compression_cpu to runs/serving_cpu are not trained again.
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
    config.name = "serving_cpu"
    config.shorter = ()
    config.base.train.steps = 3000
    numbers = (8, 32, 64)
    sparse = {f"e{number}_top2": scaling.experts(number) for number in numbers}
    config.variants = scaling.tuned({"dense": {}, **sparse})
    config.calibration_batches = 32  # of validation text, by which experts are pruned and placed
    config.test_batches = 0  # 0 is the whole test split
    config.pruned_by = (2, 4)  # so many times fewer experts
    config.devices = 4  # that experts lie on, in what is counted
    config.batches = (1, 4, 16, 64)  # texts that are written at once
    config.prompts = (8, 32)  # the shortest and the longest, tokens of test text
    config.sets = 8  # of prompts
    config.rounds = 5  # that each set is continued the same way
    config.tokens = 31  # that each text is continued by, after the first
    config.temperature = 1.0  # at which they are drawn; 0: the most probable
    return config


def demo() -> ConfigDict:
    """One seed, 0.8M tokens, fewer models and batch sizes."""
    config = scaling.in_minutes(cpu(), "serving_demo")
    del config.variants["e64_top2"]
    config.calibration_batches = 8
    config.test_batches = 16
    config.batches = (1, 16, 64)
    config.sets = 4
    config.rounds = 3
    config.tokens = 15
    return config
