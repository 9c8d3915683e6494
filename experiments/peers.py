"""Other people's whole models beside ours: training steps of Hugging Face's, in PyTorch.

A step is forward, backward, clipping and AdamW in one pass, on as many random tokens, with their
fastest attention. They are no requirement: `pip install torch transformers`.
"""

from collections.abc import Callable

from moe.training.config import RunConfig

WAYS = ("eager", "grouped_mm")  # of Mixtral's experts, of which the faster counts


def steps(run: RunConfig) -> dict[str, Callable[[], None]]:
    """name -> call of one step of the models of the run's sizes: Llama's, or Mixtral's two ways."""
    experts = run.model.experts
    if experts is None:
        return {"llama": _call(run, _llama(run.model))}
    return {
        f"mixtral_{way}_e{experts.num_experts}": _call(run, _mixtral(run.model, way))
        for way in WAYS
    }


def _sizes(model):
    """What both configs call the sizes."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.d_head,
        "tie_word_embeddings": model.tie_embeddings,
        "use_cache": False,
        "attn_implementation": "sdpa",
    }


def _llama(model):
    import transformers

    config = transformers.LlamaConfig(intermediate_size=model.d_ff, **_sizes(model))
    return transformers.LlamaForCausalLM(config)


def _mixtral(model, way):
    import transformers

    config = transformers.MixtralConfig(
        intermediate_size=model.experts.d_ff,
        num_local_experts=model.experts.num_experts,
        num_experts_per_tok=model.experts.k,
        output_router_logits=True,  # with its balance loss, as ours
        **_sizes(model),
    )
    config._experts_implementation = way
    return transformers.MixtralForCausalLM(config)


def _call(run, model):
    """One training step; returns nothing that JAX would wait for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).train()
    kind = getattr(torch, run.model.dtype)
    o = run.optimizer
    adam = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(o.b1, o.b2), weight_decay=0.0, fused=True
    )
    shape = (run.train.batch_size, run.train.seq_len)
    tokens_BT = torch.randint(1, run.model.vocab_size, shape, device=device)

    def call() -> None:
        with torch.autocast(device, kind, enabled=kind is not torch.float32):
            loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
        adam.step()
        adam.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return call
