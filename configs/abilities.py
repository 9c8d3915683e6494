"""What are experts good for beside a lower loss? Models whose tasks and calibration are measured.

    python -m experiments.few_shot --config=configs/abilities.py:demo       # minutes, 2 cores
    python -m experiments.few_shot --config=configs/abilities.py:cpu        # hours, 2 cores
    python -m experiments.calibration --config=configs/abilities.py:cpu     # of the same runs

A dense decoder, two with 8 and 32 experts at its executed FLOPs, and a dense one of ten times the
FLOPs, on rows of 256 tokens of all packaged domains, which hold a question with an example or two.
Learning rates are those of `configs.laws.rate`.
"""

from ml_collections import ConfigDict

from configs import laws, scaling
from moe import schema
from moe.training.config import RunConfig

LARGE = {"d_model": 192, "num_heads": 6, "num_layers": 3}


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 6.1M tokens each, and runs of a quarter of that."""
    config = ConfigDict()
    config.name = "abilities_cpu"
    config.seeds = 3
    config.jobs = 2
    config.match = "executed"
    config.shorter = (1 / 4,)
    base = scaling.small()
    base["data"] = {**base["data"], "source": laws.SOURCES}
    base["train"] |= {"steps": 3000, "batch_size": 8, "seq_len": 256, "eval_every": 750}
    base["optimizer"] |= {"learning_rate": laws.RATE}
    config.base = schema.complete(RunConfig, base)
    config.experts = scaling.shared()
    config.variants = {
        "dense": {},
        "e8_top2": {"experts": {"num_experts": 8, "k": 2}, "learning_rate": rate(64, 4)},
        "e32_top2": {"experts": {"num_experts": 32, "k": 2}, "learning_rate": rate(64, 16)},
        "dense_10x": {"flops": 10.0, "model": LARGE, "learning_rate": rate(LARGE["d_model"])},
    }
    config.tasks = ("triviaqa", "lambada", "hellaswag", "piqa", "arc_easy", "boolq", "copa", "cb")
    config.shots = (0, 1, 5)
    config.questions = 200  # of each task, the first
    config.test_batches = 0  # of calibration, 0 is the whole test split
    return config


def rate(width: int, experts: float = 1) -> float:
    """The learning rate by the rule of the law's pilots."""
    return round(laws.RATE * laws.rule(width, experts), 5)


def demo() -> ConfigDict:
    """One seed, 0.8M tokens, two tasks."""
    config = scaling.in_minutes(cpu(), "abilities_demo")
    config.shorter = ()
    del config.variants["e8_top2"], config.variants["dense_10x"]
    config.tasks = ("piqa", "copa")
    config.shots = (0, 1)
    config.questions = 50
    config.test_batches = 16
    return config
