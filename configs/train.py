"""A small MoE decoder on the packaged corpus: 16 experts, top-1, 2M tokens.

python -m experiments.train --config=configs/train.py --workdir=runs/train
"""

from ml_collections import ConfigDict

from moe import config as configs
from moe.training.config import RunConfig


def get_config() -> ConfigDict:
    """The run."""
    moe = {"num_experts": 16, "d_ff": 256, "group_size": 256, "jitter": 0.01}
    run = {
        "data": {"source": ("encyclopedia_en", "code", "cloud_docs"), "vocab_size": 1024},
        "model": {
            "vocab_size": 1024,
            "num_layers": 4,
            "every": 2,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 256,
            "dtype": "float32",
            "moe": moe,
        },
        "optimizer": {"learning_rate": 0.008},
        "train": {"steps": 1000, "batch_size": 32, "seq_len": 64},
    }
    return configs.complete(RunConfig, run)
