"""Makes the golden files of this folder: tiny random checkpoints, and what transformers computes.

    python -m venv ENV && ENV/bin/pip install torch==2.14.1 transformers==5.24.0
    ENV/bin/python tests/interop/make_goldens.py tests/interop/goldens

Each golden is a folder as `save_pretrained` writes it, with expected.safetensors beside it: ids,
and float32 logits. All weights are drawn anew, far larger than an initializer has them, so that
every part of a model shows in its logits.
"""

import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch
import transformers

PINNED = {"torch": "2.14.1", "transformers": "5.24.0"}
SIZES = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
T5 = {
    "vocab_size": 48, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 4,
    "num_decoder_layers": 2, "num_heads": 3,
}  # fmt: skip
ROUTED = {"num_experts": 6, "num_experts_per_tok": 2}
SEQ = (3, 20)  # rows, tokens


def configs() -> dict[str, transformers.PretrainedConfig]:
    """One of each family, and options that its published models use."""
    sizes = SIZES | THETA
    t = transformers
    mixtral = {"num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5}
    return {
        "llama": t.LlamaConfig(**sizes, rms_norm_eps=1e-5),
        "llama_tied": t.LlamaConfig(**sizes | {"tie_word_embeddings": True}, head_dim=6),
        "mistral": t.MistralConfig(**sizes, sliding_window=7, head_dim=4),
        "mixtral": t.MixtralConfig(**sizes, **mixtral),
        "olmoe": t.OlmoeConfig(**sizes, **ROUTED, norm_topk_prob=False, clip_qkv=1.0),
        "qwen2": t.Qwen2Config(**sizes),
        "qwen3": t.Qwen3Config(**sizes, head_dim=6),
        "qwen3_moe": t.Qwen3MoeConfig(
            **sizes, **ROUTED, moe_intermediate_size=12, head_dim=6, norm_topk_prob=True,
            decoder_sparse_step=1, mlp_only_layers=[],
        ),
        "t5": t.T5Config(**T5),
        "t5_v1_1": t.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        "switch_drops": t.SwitchTransformersConfig(
            **T5, num_experts=3, num_sparse_encoder_layers=2, num_sparse_decoder_layers=1,
            expert_capacity=4,
        ),
    }  # fmt: skip


def drawn(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """A model of random weights, in float32."""
    config._attn_implementation = "eager"
    kind = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    model = kind.from_config(config).float().eval()
    if config.model_type == "t5" and not config.scale_decoder_outputs:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            x.copy_(1 + 0.2 * noise if "norm" in name else 0.3 * noise)
    return model


def write(folder: pathlib.Path, model: transformers.PreTrainedModel, **how: bool) -> None:
    """The checkpoint and what it computes."""
    model.save_pretrained(folder, **how)
    (folder / "generation_config.json").unlink(missing_ok=True)
    logits, given = computed(model)
    safetensors.numpy.save_file({"logits": logits} | given, folder / "expected.safetensors")


def computed(
    model: transformers.PreTrainedModel,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Its logits, and of what."""
    ids = torch.randint(0, SIZES["vocab_size"], SEQ, generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids[:, 5:16].flip(1)
    with torch.no_grad():
        logits = model(**given, use_cache=False).logits.numpy()
    arrays = {name: np.ascontiguousarray(x.int().numpy()) for name, x in given.items()}
    return np.ascontiguousarray(logits), arrays


def main(out: pathlib.Path) -> None:
    """All of them."""
    for package, version in PINNED.items():
        found = sys.modules[package].__version__.partition("+")[0]
        assert found == version, f"{package} {found}: these goldens are made with {version}"
    for name, config in configs().items():
        model = drawn(config)
        write(out / name, model)
        if name in ("mixtral", "olmoe"):
            write(out / f"{name}_fused", model, save_original_format=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
