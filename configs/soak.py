"""The run that `experiments.soak` hurts: seconds long, with all that a checkpoint may hold.

    python -m experiments.soak --out=runs/soak

Experts whose router keeps a state and draws noise, moments, an evaluation now and then, and a
checkpoint every five steps, so that a random moment is often one of a save.
"""

from ml_collections import ConfigDict

from moe import schema
from moe.training.config import RunConfig


def get_config() -> ConfigDict:
    """The run."""
    experts = {"num_experts": 4, "d_ff": 32, "k": 2, "router": "sigmoid", "jitter": 0.1}
    return schema.complete(
        RunConfig,
        {
            "data": {"source": ("cloud_docs",), "vocab_size": 512, "max_documents": 400},
            "model": {
                "vocab_size": 512,
                "num_layers": 1,
                "moe_every": 1,
                "d_model": 32,
                "num_heads": 2,
                "d_head": 16,
                "d_ff": 64,
                "dtype": "float32",
                "experts": experts,
            },
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
            "train": {
                "steps": 300,
                "batch_size": 8,
                "seq_len": 32,
                "log_every": 1,
                "eval_every": 20,
                "eval_batches": 1,
                "test_batches": 4,
                "checkpoint_every": 5,
            },
        },
    )
