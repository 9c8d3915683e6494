"""Weak scaling: experts, tokens and devices grow together; what each device sends must not.

    python -m experiments.expert_parallel --config=configs/expert_parallel.py
    python -m experiments.expert_parallel --config=configs/expert_parallel.py:tpu

The first compiles and runs a small model on simulated devices, in minutes on 2 cores. The second
asks the TPU compiler (requirements-plan.txt) for Switch-Base's sizes.
"""

from ml_collections import ConfigDict

from moe import schema
from moe.training.config import RunConfig


def get_config(where: str = "cpu") -> ConfigDict:
    """The study on simulated devices ("cpu") or by the TPU compiler ("tpu")."""
    schema.one_of("what follows the colon", where, ("cpu", "tpu"))
    config = ConfigDict()
    config.name = f"expert_parallel_{where}"
    config.experts_per_device = 4
    config.sequences_per_device = 1
    config.axes = (1, 2, 4, 8, 16, 32, 64)
    config.topologies = ()
    config.chip = "v5e"  # whose figures the arithmetic takes
    experts = {"num_experts": 4, "d_ff": 128, "k": 2}
    model = {
        "vocab_size": 1024,
        "num_layers": 4,
        "d_model": 64,
        "num_heads": 2,
        "d_head": 32,
        "d_ff": 256,
        "dtype": "float32",
    }
    if where == "tpu":
        config.axes = (4, 16, 64)
        config.topologies = ("v5e:2x2", "v5e:4x4", "v5e:8x8")
        experts |= {"d_ff": 2048}
        model |= {"num_layers": 12, "d_model": 768, "num_heads": 12, "d_head": 64, "d_ff": 2048}
        model |= {"vocab_size": 32_128, "dtype": "bfloat16", "remat": True}
    train = {"steps": 1, "batch_size": 64, "seq_len": 512}
    run = {
        "data": {"vocab_size": model["vocab_size"]},
        "model": {**model, "experts": experts},
        "train": train,
    }
    config.base = schema.complete(RunConfig, run)
    return config
