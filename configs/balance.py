"""What keeps experts busy: nothing, a loss, another loss, or a bias without a loss?

    python -m experiments.balance --config=configs/balance.py:demo   # 1 seed, 0.8M tokens
    python -m experiments.balance --config=configs/balance.py:cpu    # 2 seeds, 3.1M tokens

The top-2 model of `configs/routers.py` with and without balance loss and z-loss, and sigmoid
scores with and without the bias that moves against the load.
"""

from ml_collections import ConfigDict

from configs import routers
from moe import schema

WEIGHTS = {  # of the balance loss and the z-loss
    "neither": (0.0, 0.0),
    "balance": (0.01, 0.0),
    "z": (0.0, 0.001),
    "balance_and_z": (0.01, 0.001),
    "balance_x10": (0.1, 0.0),
}


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    schema.one_of("what follows the colon", size, ("demo", "cpu"))
    variants = {"dense": {}}
    for name, (balance, z) in WEIGHTS.items():
        variants[name] = routers.learned(k=2, balance_weight=balance, z_weight=z)
    no_bias = {"bias_rate": 0.0}
    variants["sigmoid"] = routers.learned("sigmoid", 2, options=no_bias)
    for name, weight in (("sigmoid_loss", 0.001), ("sigmoid_loss_x10", 0.01)):
        variants[name] = routers.learned("sigmoid", 2, options=no_bias, balance_weight=weight)
    variants["sigmoid_bias"] = routers.learned("sigmoid", 2)
    config = routers.setting(f"balance_{size}", variants)
    return routers.shortened(config) if size == "demo" else config
