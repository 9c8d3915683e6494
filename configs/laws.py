"""The grid for the law: model size x experts x tokens, learning rates by one rule for all.

    python -m experiments.laws --config=configs/laws.py:demo    # 3 small cells: 5 minutes, 2 cores
    python -m experiments.laws --config=configs/laws.py:cpu     # 10 core-hours
    python -m experiments.laws --config=configs/laws.py:pilots  # what chose learning rates
    python -m experiments.laws --config=configs/laws.py:foretold  # a longer run than the laws know
    python -m experiments.laws --config=configs/laws.py:gpu     # one accelerator

Every expert is as wide as the dense feed-forward, top-1, so that a token meets as many parameters,
but for the router's; what padding, router and dispatch cost is counted, not matched. Fine-grained
lines have K experts a token, of a K-th of the width. All seven packaged domains, once (but for the
part that repeats some of them); every cell is trained at several lengths, each with its own decay
(`experiments.horizons`). Lengths are shares of `base.train.steps`, learning rates multiples of
`base.optimizer.learning_rate`; what a size says of the model is said by each variant.
"""

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
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of 6,000 steps of 2,048 tokens
SOURCES = (*scaling.CORPUS, "web_api_docs", "framework_docs")
RATE = 0.0157  # of a dense model of width 64, see `rate`
RECORDED = "experiments/results/laws_cpu/cells.csv"
FINE = ((32, 2), (64, 4), (128, 8), (256, 16))  # E and K: experts K times as narrow


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu, pilots, foretold or gpu."""
    sizes = {"demo": demo, "cpu": cpu, "pilots": pilots, "foretold": foretold, "gpu": gpu}
    return schema.after_colon(size, sizes)


def rate(size: str, experts: int = 1, k: int = 1) -> float:
    """The learning rate of a cell over that of the base, by the rule that `pilots` gave.

    It is `experiments.laws --rates=experiments/results/laws_pilots/cells.csv`; fine-grained experts
    count as E / K.
    """
    return rule(SIZES[size]["d_model"], experts / k)


def rule(width: int, experts: float = 1) -> float:
    """The same of a width and a number of experts."""
    return (width / 64) ** -0.81 * experts**-0.215


def cell(size: str, experts: int = 1, k: int = 1, seen: int = 1) -> dict:
    """A variant: one size, dense or with experts, whose text is read so many times."""
    variant: dict = {"model": SIZES[size], "rate": rate(size, experts, k), "seen": seen}
    if experts > 1:
        variant["experts"] = {"num_experts": experts, "k": k, "d_ff": SIZES[size]["d_ff"] // k}
    return variant


def part(variants: dict, shares: tuple[float, ...], seeds: int, first_seed: int = 0) -> dict:
    """A study of the grid: cells that have their lengths and seeds in common."""
    return {"variants": variants, "shares": shares, "seeds": seeds, "first_seed": first_seed}


def cells(size: str, numbers: tuple[int, ...] = (1, *EXPERTS)) -> dict:
    """One size with these numbers of experts."""
    return {f"{size}_e{number}": cell(size, number) for number in numbers}


def study(name: str) -> ConfigDict:
    """What all sizes of this file share."""
    config = ConfigDict()
    config.name = name
    config.jobs = 2
    config.draws = 500  # of each law's bootstrap; 0 leaves out the report
    config.timed = True  # take step times, side by side
    config.recorded = ""  # a cells.csv in the clone to report on instead of the grid's own
    base = scaling.small()
    base["data"] = {**base["data"], "source": SOURCES}
    base["train"] |= {"eval_every": 3000, "log_every": 250}
    base["optimizer"] |= {"learning_rate": RATE}
    config.base = schema.complete(RunConfig, base)
    config.experts = scaling.shared()
    return config


def cpu() -> ConfigDict:
    """101 cells of the grid with two seeds, the corners with a third, and repeated text.

    The larger a model, the shorter its longest run: no size takes more than a third of the time.
    """
    config = study("laws_cpu")
    half, quarter = SHARES[:-1], SHARES[:-2]
    fine = {f"s_e{number}_k{k}": cell("s", number, k=k) for number, k in FINE}
    config.parts = {
        "small": part(cells("xs") | cells("s", (1, 4, 16, 64, 256)), SHARES, 2),
        "between": part(cells("s", (2, 8, 32)) | fine, half, 2),
        "middle": part(cells("m"), half, 2),
        "large": part(cells("l"), quarter, 2),
        "corners": part(cells("xs", (1, 64)) | cells("l", (1, 64)), quarter, 1, first_seed=2),
        "repeated": part(repeated(), (1 / 2,), 2),
    }
    return config


def repeated() -> dict:
    """As many tokens, which are the same half twice, quarter four times, eighth eight times."""
    return {
        f"s_e{number}_seen_{times}": cell("s", number, seen=times)
        for number in (1, 16, 64)
        for times in (2, 4, 8)
    }


def pilots() -> ConfigDict:
    """Learning rates for three sizes, dense and with 16 experts, on a seed of their own."""
    config = study("laws_pilots")
    config.base.optimizer.learning_rate = 0.008
    config.draws = 0
    config.timed = False
    variants = {
        f"{size}_e{number}_x{times}".replace(".", "_"): {**cell(size, number), "rate": times}
        for size in ("xs", "s", "m")
        for number in (1, 16)
        for times in (0.25, 0.5, 1.0, 2.0)
    }
    for size in ("xs", "s"):  # where the best of four was at an edge, a fifth beyond it
        for number in (1, 16):
            variants[f"{size}_e{number}_x4_0"] = {**cell(size, number), "rate": 4.0}
    variants["xs_e1_x8_0"] = {**cell("xs"), "rate": 8.0}
    config.parts = {"rates": part(variants, (1 / 4,), 1, first_seed=100)}
    return config


def foretold() -> ConfigDict:
    """Runs that the laws of `cpu` foretell before they are run (`experiments.laws --foretell`).

    All are as long as nearly a whole epoch. First the largest size, dense and with 16 experts: 7.7
    times its longest run in `cpu`. Then, after a law was taken up that those two had asked for, a
    smaller size, dense and with 32 experts: 1.9 and 3.9 times.
    """
    config = study("laws_foretold")
    config.draws = 0
    config.timed = False
    config.recorded = RECORDED
    epoch = (11_600 / 6000,)
    config.parts = {
        "foretold": part(cells("l", (1, 16)), epoch, 1),
        "again": part(cells("s", (1, 32)), epoch, 1),
    }
    return config


def demo() -> ConfigDict:
    """Three small cells at three short lengths, one seed; figures of the recorded grid."""
    config = study("laws_demo")
    config.draws = 100
    config.recorded = RECORDED
    config.parts = {"demo": part(cells("xs", (1, 16)) | cells("s", (1,)), SHARES[:3], 1)}
    return config


def gpu() -> ConfigDict:
    """Up to 256 experts in the two larger sizes, one epoch, batches of 8,192 tokens, bfloat16.

    It adds cells to those of `cpu`, and is too small for laws of its own.
    """
    config = study("laws_gpu")
    config.draws = 0
    config.jobs = 1
    config.base.model.dtype = "bfloat16"
    config.base.train.update(batch_size=128, steps=2900)
    config.experts.group_size = 8192
    config.parts = {size: part(cells(size, (1, 16, 64, 256)), SHARES[1:], 2) for size in ("m", "l")}
    return config
