"""Capacity factor and group size against loss, drops and time, at equal executed FLOPs.

    python -m experiments.capacity --config=configs/capacity.py:demo   # 1 seed, 0.8M tokens
    python -m experiments.capacity --config=configs/capacity.py:cpu    # 2 seeds, 3.1M tokens

The models of `configs/routers.py`, top-1 and top-2: more capacity drops less and leaves narrower
experts, larger groups even out their loads (and cost the `einsum` dispatcher more, which is not
used here).
"""

from ml_collections import ConfigDict

from configs import routers
from moe import schema

FACTORS = (1.0, 1.25, 2.0)
GROUPS = (64, 256)  # one sequence and four; the others have the whole batch of 2,048 tokens


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    schema.one_of("what follows the colon", size, ("demo", "cpu"))
    variants = {"dense": {}}
    for k in (1, 2):
        for factor in FACTORS:
            name = f"top_{k}_factor_{factor:g}".replace(".", "_")
            variants[name] = routers.learned(k=k, **routers.factors(factor))
    for group in GROUPS:
        variants[f"top_1_group_{group}"] = routers.learned(group_size=group)
    config = routers.setting(f"capacity_{size}", variants)
    return routers.shortened(config) if size == "demo" else config
