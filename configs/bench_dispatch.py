"""What an MoE layer costs beside the dense feed-forward of equal FLOPs.

    python -m experiments.bench_dispatch --config=configs/bench_dispatch.py        # CPU
    python -m experiments.bench_dispatch --config=configs/bench_dispatch.py:gpu    # one accelerator

Sizes of the first are those of the targets in `moe/analysis/dispatching.py`: 4,096 tokens, D 256,
F 1,024, float32. Those of the second are Mixtral's and OLMoE's, in bfloat16.
"""

from typing import Any

from ml_collections import ConfigDict

from moe import schema


def get_config(where: str = "cpu") -> ConfigDict:
    """The cells: cpu or gpu."""
    schema.one_of("what follows the colon", where, ("cpu", "gpu"))
    config = ConfigDict()
    config.name = f"bench_dispatch_{where}"
    config.rounds = 9  # of which the median is taken, after one that is not counted
    config.cells = cpu() if where == "cpu" else gpu()
    return config


def cell(experts: int, k: int = 1, **changes: Any) -> dict:
    """One size; `loads` is how tokens choose, see `experiments.bench_layers`."""
    size = {"tokens": 4096, "d_model": 256, "d_ff": 1024, "dtype": "float32"}
    ways = {"factor": 1.25, "loads": "learned", "activation": "gelu", "einsum_groups": ()}
    return {**size, **ways, "experts": experts, "k": k, **changes}


def cpu() -> tuple[dict, ...]:
    """Experts by K; around E=64, K=1 loads, capacity, tokens, type; what the peers compute."""
    by_experts = [
        cell(experts, k, einsum_groups=(64, 128, 256) if k == 1 and experts < 256 else ())
        for k in (1, 2)
        for experts in (8, 64, 256)
    ]
    around = [
        cell(64, 8, d_ff=256),
        cell(64, loads="uniform"),
        cell(64, loads="skewed"),
        cell(64, factor=1.0),
        cell(64, factor=2.0),
        cell(64, tokens=1024),
        cell(64, tokens=16_384),
        cell(64, dtype="bfloat16"),
    ]
    of_peers = [cell(e, 2, activation="swiglu") for e in (8, 64)]  # Mixtral's
    of_peers += [cell(e, activation="relu") for e in (8, 64)]  # Switch's
    return (*by_experts, *around, *of_peers)


def gpu() -> tuple[dict, ...]:
    """Mixtral's layer, OLMoE's, and one of many small experts."""
    large = {"tokens": 16_384, "dtype": "bfloat16", "activation": "swiglu"}
    return (
        cell(8, 2, d_model=4096, d_ff=14_336, **large),
        cell(64, 8, d_model=2048, d_ff=1024, **large),
        cell(256, 8, d_model=2048, d_ff=512, **large),
    )
