"""Which arithmetic does a router need? Switch's table 2, at equal executed FLOPs.

    python -m experiments.precision --config=configs/precision.py:demo   # 1 seed, 1.5M tokens
    python -m experiments.precision --config=configs/precision.py:cpu    # 3 seeds, 6.1M tokens

The top-1 model with 32 experts of `configs/scaling.py` in float32, in bfloat16 throughout, and in
bfloat16 with a router in float32. Weights, optimizer and softmaxes are in float32 in all three.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import scaling
from moe import schema


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    schema.one_of("what follows the colon", size, ("demo", "cpu"))
    config = scaling.cpu()
    config.name = f"precision_{size}"
    config.shorter = ()
    config.base.train.steps = 3000
    config.variants = {
        "float32": in_type("float32", "float32"),
        "bfloat16": in_type("bfloat16", "bfloat16"),
        "selective": in_type("bfloat16", "float32"),
        "dense": {},
        "dense_bfloat16": {"model": {"dtype": "bfloat16"}},
    }
    if size == "demo":
        config.seeds = 1
        config.base.train.update(steps=750, eval_every=150, eval_batches=16)
    return config


def in_type(dtype: str, router_dtype: str) -> dict[str, Any]:
    """A variant whose layers and whose router compute in these types."""
    experts = {"num_experts": 32, "k": 1, "router_dtype": router_dtype}
    rate = scaling.RATES["e32_top1"]
    return {"experts": experts, "model": {"dtype": dtype}, "learning_rate": rate}
