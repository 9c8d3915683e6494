"""A run of half a minute for notebooks: 8 experts, top-2, in two layers, on Python code.

    python -m experiments.train --config=configs/lesson.py --workdir=runs/lesson_160

After the colon may stand another number of steps. The text is the standard library of the
interpreter, so nothing is fetched.
"""

from ml_collections import ConfigDict

from moe import schema
from moe.training.config import RunConfig


def get_config(steps: str = "160") -> ConfigDict:
    """The run, of so many steps."""
    schema.require(steps.isdigit(), f"configs/lesson.py:{steps}: expected steps, as in :160")
    experts = {
        "num_experts": 8,
        "d_ff": 64,
        "k": 2,
        "group_size": 256,
        "balance_weight": 0.01,
        "router_scale": 1.0,
    }
    run = {
        "data": {"source": ("code",), "vocab_size": 512, "max_documents": 60},
        "model": {
            "vocab_size": 512,
            "num_layers": 2,
            "moe_every": 1,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 128,
            "dtype": "float32",
            "experts": experts,
        },
        "optimizer": {"learning_rate": 0.008, "warmup_steps": int(steps) // 8},
        "train": {
            "steps": int(steps),
            "batch_size": 32,
            "seq_len": 64,
            "log_every": 4,
            "eval_every": 40,
            "eval_batches": 2,
            "test_batches": 8,
            "evaluators": ("loss",),
        },
    }
    return schema.complete(RunConfig, run)
