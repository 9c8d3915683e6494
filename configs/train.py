"""A small MoE decoder on the packaged corpus: 16 experts, top-1, 2M tokens.

python -m experiments.train --config=configs/train.py --workdir=runs/train
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The run."""
    config = ConfigDict()
    config.data = {"source": ("encyclopedia_en", "code", "cloud_docs"), "vocab_size": 1024}
    config.model = {
        "vocab_size": 1024,
        "num_layers": 4,
        "every": 2,
        "d_model": 64,
        "num_heads": 2,
        "d_head": 32,
        "d_ff": 256,
        "dtype": "float32",
        "moe": {
            "num_experts": 16,
            "d_ff": 256,
            "k": 1,
            "router": "top_k",
            "dispatcher": "gather",
            "group_size": 2048,
            "capacity_factor": 1.25,
            "jitter": 0.01,
        },
    }
    config.optimizer = {"name": "adamw", "learning_rate": 0.004, "warmup_steps": 100}
    config.train = {"steps": 1000, "batch_size": 32, "seq_len": 64, "seed": 0, "accumulate": 1}
    config.mesh = {"data": -1, "expert": 1}
    return config
