"""Is a dense model a good beginning for one with experts?

    python -m experiments.upcycling --config=configs/upcycling.py:demo     # minutes, 2 cores
    python -m experiments.upcycling --config=configs/upcycling.py:cpu      # 3 seeds, two hours
    python -m experiments.upcycling --config=configs/upcycling.py:pilots   # what chose the rates

Parents are the dense model of `configs/scaling.py` after some numbers of steps. Each becomes 8
experts top-2 and is trained for some more on text that it has not read, beside the dense model
itself at equal extra FLOPs, and the same experts from scratch.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.training.config import RunConfig


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu or pilots."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu, "pilots": pilots})


def cpu() -> ConfigDict:
    """Three paired seeds, four lengths of parents by four of what comes after."""
    config = ConfigDict()
    config.name = "upcycling_cpu"
    config.seeds = 3
    config.jobs = 2
    config.base = schema.complete(RunConfig, scaling.small())
    config.parents = (500, 1000, 2000, 4000)  # steps of 2,048 tokens
    config.lengths = (250, 500, 1000, 2000)  # steps after them
    config.scratch = (250, 500, 1000, 2000, 4000, 6000)  # steps of experts from scratch
    config.warmup_steps = 50  # of all but parents
    d_ff = config.base.model.d_ff
    config.experts = {"num_experts": 8, "k": 2, "d_ff": d_ff, **scaling.shared()}
    # What parents become: all of them, or the one of `at` steps alone.
    config.at = 2000
    config.ways = {
        "copies": way(everywhere=True),
        "moments": way(optimizer=True),  # begins with adam's moments of the parent
        "redrawn": way(share=0.5),  # half of each expert's hidden units drawn (Drop-Upcycling)
        "granular": way(parts=2),  # 16 experts half as wide, top-4
    }
    # The best of `pilots`; other ways than copies take that of copies.
    config.rates = {"copies": 0.008, "continued": 0.008, "scratch": scaling.RATES["e8_top2"]}
    return config


def way(
    share: float = 0.0, parts: int = 1, optimizer: bool = False, everywhere: bool = False
) -> dict[str, Any]:
    """One of `config.ways`.

    Args:
      share, parts: as of `experiments.adapt`.
      optimizer: as of `init_from`.
      everywhere: from every parent.
    """
    return {"share": share, "parts": parts, "optimizer": optimizer, "everywhere": everywhere}


def pilots() -> ConfigDict:
    """Learning rates after a parent, on a seed of their own."""
    config = cpu()
    config.name = "upcycling_pilots"
    config.seeds = 1
    config.first_seed = 100
    config.parents = (config.at,)
    config.lengths = (1000,)
    config.scratch = (1000,)
    config.ways = {"copies": config.ways["copies"]}
    rates = (0.002, 0.004, 0.008, 0.016)
    config.rates = {name: rates for name in ("copies", "continued", "scratch")}
    return config


def demo() -> ConfigDict:
    """One seed, two parents by two lengths, the first method."""
    config = scaling.in_minutes(cpu(), "upcycling_demo")
    config.parents = (300, 600)
    config.lengths = (100, 200)
    config.scratch = (100, 200, 400)
    config.at = 600
    config.ways = {name: config.ways[name] for name in ("copies", "redrawn")}
    return config
