"""The grid for the law: model size x experts x tokens, learning rates by one rule for all.

    python -m experiments.laws --config=configs/laws.py:demo    # 3 small cells: 5 minutes, 2 cores
    python -m experiments.laws --config=configs/laws.py:cpu     # 10 core-hours
    python -m experiments.laws --config=configs/laws.py:pilots  # what chose learning rates
    python -m experiments.laws --config=configs/laws.py:gpu     # one accelerator

Every expert is as wide as the dense feed-forward, top-1, so that active parameters hardly depend on
E; what its padding, router and dispatch cost is counted, not matched. Fine-grained lines have K
experts a token, of a K-th of the width. All seven packaged domains, once (but for the part
that repeats some of them); every cell is trained at several lengths, each with its own decay
(`experiments.horizons`).
"""

import math
from typing import Any

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.training.config import RunConfig

SIZES = {
    "xs": {"d_model": 32, "num_heads": 1, "d_ff": 128, "num_layers": 2},
    "s": {"d_model": 64, "num_heads": 2, "d_ff": 256, "num_layers": 2},
    "m": {"d_model": 128, "num_heads": 4, "d_ff": 512, "num_layers": 3},
    "l": {"d_model": 192, "num_heads": 6, "d_ff": 768, "num_layers": 4},
}
EXPERTS = (4, 16, 64)
LENGTHS = (375, 750, 1500, 3000, 6000)  # steps of 2,048 tokens
FINE = ((16, 4), (64, 4), (256, 4), (32, 2), (128, 8))  # E and K: K times as narrow
RATES = (0.002, 0.004, 0.008, 0.016)


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu, pilots or gpu."""
    sizes = {"demo": demo, "cpu": cpu, "pilots": pilots, "gpu": gpu}
    if size not in sizes:
        raise ValueError(f"configs/laws.py:{size} is unknown: use {', '.join(sizes)}")
    return sizes[size]()


def rate(size: str, experts: int) -> float:
    """The learning rate of a cell: a power law in width and experts, to be fitted on `pilots`."""
    return 0.008 * math.sqrt(64 / SIZES[size]["d_model"]) * experts**-0.0


def cell(size: str, experts: int = 1, k: int = 1, **train: Any) -> dict:
    """A variant: one size, dense or with experts, at the rule's learning rate."""
    variant: dict = {"model": SIZES[size], "learning_rate": rate(size, experts), "train": train}
    if experts > 1:
        variant["experts"] = {"num_experts": experts, "k": k, "d_ff": SIZES[size]["d_ff"] // k}
    return variant


def part(variants: dict, lengths: tuple[int, ...], seeds: int, first_seed: int = 0) -> dict:
    """A study of the grid: cells that have their lengths and seeds in common."""
    *shorter, longest = lengths
    for variant in variants.values():
        variant["train"]["steps"] = longest
    return {
        "variants": variants,
        "shorter": tuple(shorter),
        "seeds": seeds,
        "first_seed": first_seed,
    }


def cells(size: str, numbers: tuple[int, ...] = (1, *EXPERTS)) -> dict:
    """One size with these numbers of experts."""
    return {f"{size}_e{number}": cell(size, number) for number in numbers}


def study(name: str) -> ConfigDict:
    """What all sizes of this file share."""
    config = ConfigDict()
    config.name = name
    config.jobs = 2
    config.recorded = ""  # whose cells.csv the report is of, in the repository; its own if empty
    config.draws = 500  # of each law's bootstrap; 0 leaves out the report
    base = scaling.small()
    base["data"] = {**base["data"], "source": (*scaling.CORPUS, "web_api_docs", "framework_docs")}
    base["train"] |= {"eval_every": 3000, "log_every": 250}
    config.base = schema.complete(RunConfig, base)
    config.experts = {
        "group_size": 2048,
        "capacity_factor": 1.25,
        "eval_capacity_factor": 1.25,
        "router_scale": 2.0,
    }
    return config


def cpu() -> ConfigDict:
    """121 cells of the grid with two seeds, four corners with a third, and repeated text."""
    config = study("laws_cpu")
    fine = {f"s_e{number}_k{k}": cell("s", number, k=k) for number, k in FINE}
    corners = cells("xs", (1, 64)) | cells("l", (1, 64))
    config.parts = {
        "small": part(cells("xs") | cells("s", (1, 2, 4, 8, 16, 32, 64, 256)) | fine, LENGTHS, 2),
        "middle": part(cells("m"), LENGTHS, 2),
        "large": part(cells("l"), LENGTHS[:-1], 2),
        "corners": part(corners, LENGTHS[:-1], 1, first_seed=2),
        "repeated": part(repeated(), LENGTHS[-1:], 2),
    }
    return config


def repeated() -> dict:
    """12.3M tokens that are the same 6.1M twice, 3.1M four times, or 1.5M eight times."""
    tokens = LENGTHS[-1] * 2048
    return {
        f"s_e{number}_seen_{times}": cell("s", number, unique_tokens=tokens // times)
        for number in (1, 16, 64)
        for times in (2, 4, 8)
    }


def pilots() -> ConfigDict:
    """Four learning rates for three sizes, dense and with 16 experts, on a seed of their own."""
    config = study("laws_pilots")
    config.draws = 0
    variants = {
        f"{size}_e{number}_lr_{value}".replace(".", "_"): {
            **cell(size, number),
            "learning_rate": value,
        }
        for size in ("xs", "s", "m")
        for number in (1, 16)
        for value in RATES
    }
    config.parts = {"rates": part(variants, (1500,), 1, first_seed=100)}
    return config


def demo() -> ConfigDict:
    """Three small cells at three short lengths, one seed."""
    config = study("laws_demo")
    config.draws = 0
    config.parts = {"demo": part(cells("xs", (1, 16)) | cells("s", (1,)), (188, 375, 750), 1)}
    return config


def gpu() -> ConfigDict:
    """Two more sizes with up to 256 experts, one epoch, batches of 8,192 tokens, bfloat16."""
    config = study("laws_gpu")
    config.jobs = 1
    config.base.model.dtype = "bfloat16"
    config.base.train.batch_size = 128
    config.experts.group_size = 8192
    config.parts = {
        "l": part(cells("l", (1, 16, 64, 256)), (375, 750, 1500, 2900), 2),
        "m": part(cells("m", (1, 16, 64, 256)), (375, 750, 1500, 2900), 2),
    }
    return config
