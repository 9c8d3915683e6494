"""Every family of published checkpoints, by `model_type` in its config.json."""

from moe.interop import dense, mixtral, olmoe, qwen3_moe, t5
from moe.interop.family import Family

FAMILIES: dict[str, Family] = {
    "llama": dense.LLAMA,
    "mistral": dense.MISTRAL,
    "mixtral": mixtral.FAMILY,
    "olmoe": olmoe.FAMILY,
    "qwen2": dense.QWEN2,
    "qwen3": dense.QWEN3,
    "qwen3_moe": qwen3_moe.FAMILY,
    "switch_transformers": t5.SWITCH,
    "t5": t5.T5,
}
