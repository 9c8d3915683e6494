"""A small MoE decoder on the packaged corpus: 16 experts, top-1, 2M tokens.

    python -m experiments.train --config=configs/train.py --workdir=runs/train
    python -m experiments.train --config=configs/train.py:gshard --workdir=runs/gshard

After the colon stands any router of `moe.routing.ROUTERS`; its own options are then fields under
config.model.experts.options. Routers that look at later tokens get a model that learns masked
tokens. `dense` is the model without experts.
"""

from ml_collections import ConfigDict

from moe import routing, schema
from moe.training.config import RunConfig

NEEDS = {
    **dict.fromkeys(("noisy_top_k", "gshard", "hierarchical"), {"k": 2}),
    "top_p": {"k": 4},
    "rre": {"options": {"groups": 4}},
    "base": {"capacity_factor": 1.0},
    "soft": {"group_size": 64, "eval_capacity_factor": 1.25, "dispatcher": "einsum"},
}  # what a router asks for beside its name


def get_config(router: str = "top_k") -> ConfigDict:
    """The run with one of the routers, or the dense one."""
    if router == "dense":
        return schema.complete(RunConfig, run_of(None, causal=True))
    schema.one_of("the router after the colon", router, routing.ROUTERS)
    experts = {"num_experts": 16, "d_ff": 256, "group_size": 256, "router": router}
    if "jitter" in routing.ROUTERS[router].common:
        experts["jitter"] = 0.01
    experts |= NEEDS.get(router, {})
    causal = routing.ROUTERS[router].causal == "always"
    return schema.complete(RunConfig, run_of(experts, causal))


def run_of(experts: dict | None, causal: bool) -> dict:
    """The run with these experts; one that is not causal learns masked tokens."""
    return {
        "objective": {"name": "next_token" if causal else "masked_token"},
        "data": {"source": ("encyclopedia_en", "code", "cloud_docs"), "vocab_size": 1024},
        "model": {
            "vocab_size": 1024,
            "num_layers": 4,
            "moe_every": 2,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 256,
            "dtype": "float32",
            "causal": causal,
            "mask_embedding": not causal,
            "experts": experts,
        },
        "optimizer": {"learning_rate": 0.008},
        "train": {"steps": 1000, "batch_size": 32, "seq_len": 64, "checkpoint_every": 100},
    }
