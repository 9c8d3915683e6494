"""Every router at equal executed FLOPs, on the same text, from the same seeds.

    python -m experiments.routers --config=configs/routers.py:demo   # 1 seed, 0.8M tokens
    python -m experiments.routers --config=configs/routers.py:cpu    # 2 seeds, 3.1M tokens
    python -m experiments.routers --config=configs/routers.py:gpu    # one accelerator

Two settings. `decoder` predicts the next token; its routers are causal, or (S-BASE and BASE) are so
in evaluation. `masked` hides 15% of the tokens and reads both ways: there routers that look at
later tokens (expert choice, Soft MoE) do nothing that they could not do in earnest: what is hidden
is no router's input.

Groups are the whole batch of 2,048 tokens, but for variants called `by_sequence`, whose groups are
sequences of 64: small groups are uneven by chance, and tokens that choose would drop more.

All variants have 20 experts, which five domains divide, but for `domain`, which has one for each,
and MultiHash, whose 40 are slices of 20.
Their width is what makes their executed FLOPs those of the dense model: capacity, router and
dispatch are paid for. Learning rate (0.012), initial scale of a learned router (2) and capacity
factor (1.25) were chosen on top-k: no other router was tuned. Routers with noise of their own and
trees start at scale 0, Soft MoE at 1; top-p, `domain`, Soft MoE and expert choice have other
factors, said at their lines. The head is tied to the embedding and the schedule does not decay to
zero, as in the first study of scaling (RESULTS.md, 2026-11-22).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import scaling
from moe import objectives, schema

EXPERTS = 20
DOMAINS = len(scaling.CORPUS)
PEEKS = {"model": {"allow_noncausal": True}}  # in training; what is judged is causal


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu or gpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu, "gpu": gpu})


def learned(router: str = "top_k", k: int = 1, scale: float = 2.0, **overrides: Any) -> dict:
    """A variant whose router has weights."""
    return fixed(router, k, router_scale=scale, **overrides)


def fixed(router: str, k: int = 1, **overrides: Any) -> dict:
    """A variant whose router has none."""
    variant = {"num_experts": EXPERTS, "router": router, "k": k, **overrides}
    return {"experts": variant, "learning_rate": 0.012}


def decoder_variants() -> dict:
    """Causal routers, and two that are so in evaluation."""
    return {
        "dense": {},
        "top_1": learned(),
        "top_2": learned(k=2),
        "top_1_next_best": learned(options={"reroute_rounds": 2}),
        "top_1_shared": learned(shared_experts=1),
        "noisy_top_2": learned("noisy_top_k", 2, 0.0),
        "gshard": learned("gshard", 2),
        "gshard_sampled": learned("gshard", 2, options={"second": "sampled"}),
        # Slots for the two experts a token that the controller holds, not for the four it may have.
        "top_p": learned("top_p", 4, options={"mass": 0.4, "target_k": 2.0}, **factors(0.625)),
        "sigmoid_1": learned("sigmoid"),
        "sigmoid_2": learned("sigmoid", 2),
        "sigmoid_2_loss": learned("sigmoid", 2, options={"bias_rate": 0.0}, balance_weight=0.001),
        "limited_2": learned(k=2, options={"expert_groups": 5, "groups_used": 1}),
        "hierarchical_2": learned("hierarchical", 2, 0.0, options={"groups": 5}),
        "sinkhorn_1": learned("sinkhorn") | PEEKS,
        "base": learned("base") | PEEKS,
        "reinforce": learned("reinforce"),
        "hash_random": fixed("hash", options={"table": "random"}),
        "hash_balanced": fixed("hash", options={"table": "balanced"}),
        "hash_clustered": fixed("hash", options={"table": "clustered"}),
        # Two banks of 20 slices of half the width: the parameters of one hash, as in the paper.
        "multihash_2": fixed("hash", 2, options={"table": "balanced"}, num_experts=2 * EXPERTS),
        "rre": fixed("rre", options={"groups": DOMAINS}),
        "domain": fixed("domain", num_experts=DOMAINS, **factors(2.5)),
        "random_1": fixed("random"),
        "emo_2_running": learned("emo", 2, options={"pool": "running"}),
    }


def masked_variants() -> dict:
    """Those that look at the whole group, beside the usual ones."""
    by_sequence = {"group_size": 64}
    return {
        "dense": {},
        "top_1": learned(),
        "top_2": learned(k=2),
        "gshard": learned("gshard", 2),
        "top_2_priority": learned(k=2, options={"batch_priority": True}),
        "expert_choice_2": learned("expert_choice", 2, **factors(1.0)),
        "expert_choice_2_by_sequence": learned("expert_choice", 2, **factors(1.0), **by_sequence),
        "expert_choice_2_capped": learned("expert_choice", 2, options={"most": 2}, **factors(1.0)),
        "emo_2": learned("emo", 2),
        "soft_by_sequence": learned(
            "soft", 1, 1.0, dispatcher="einsum", d_ff=64, **factors(1.25), **by_sequence
        ),
    }


def factors(factor: float) -> dict:
    """One capacity factor for training and evaluation."""
    return {"capacity_factor": factor, "eval_capacity_factor": factor}


def cpu() -> ConfigDict:
    """Two paired seeds, 3.1M tokens a run."""
    config = ConfigDict()
    config.name = "routers_cpu"
    config.decoder = setting("routers_cpu_decoder", decoder_variants())
    config.masked = setting("routers_cpu_masked", masked_variants())
    learn_masked_tokens(config.masked.base)
    return config


def setting(name: str, variants: dict) -> ConfigDict:
    """A study as `experiments.scaling` reads it."""
    config = scaling.demo()
    config.name = name
    config.variants = ConfigDict(variants)
    config.seeds = 2
    config.shorter = ()
    del config.experts.router_scale  # each variant says its own, or has none
    as_in_the_first_study(config.base)
    config.base.optimizer.learning_rate = 0.016
    config.base.train.eval_every = 100
    return config


def as_in_the_first_study(base: ConfigDict) -> None:
    """A tied head, the schedule of then, and whole documents."""
    base.model.tie_embeddings = True
    base.optimizer.schedule = "inverse_sqrt"
    base.data.held_out_tokens = 0


def demo() -> ConfigDict:
    """One seed, 0.8M tokens a run: enough to see every router work."""
    config = cpu()
    config.name = "routers_demo"
    for study in (config.decoder, config.masked):
        shortened(study)
        study.name = study.name.replace("cpu", "demo")
    return config


def shortened(study: ConfigDict) -> ConfigDict:
    """One seed, 0.8M tokens."""
    study.seeds = 1
    study.base.train.update(steps=400, eval_every=50, checkpoint_every=200)
    return study


def learn_masked_tokens(base: ConfigDict) -> None:
    """Makes a run read both ways and learn masked tokens."""
    base.model.causal = False
    base.model.mask_embedding = True
    base.objective = schema.complete(objectives.ObjectiveConfig, {"name": "masked_token"})


def gpu() -> ConfigDict:
    """The model of `configs/scaling.py:gpu`, three paired seeds, 5.3 epochs of its text."""
    large = scaling.gpu()
    config = cpu()
    config.name = "routers_gpu"
    for study in (config.decoder, config.masked):
        masked = study.base.objective.name == "masked_token"
        study.name = study.name.replace("cpu", "gpu")
        study.seeds = 3
        study.jobs = large.jobs
        study.watts = large.watts
        study.base = large.base.copy_and_resolve_references()
        as_in_the_first_study(study.base)
        study.base.data.source = scaling.CORPUS  # five domains
        if masked:
            learn_masked_tokens(study.base)
        for name, variant in study.variants.items():
            if name.endswith("by_sequence"):
                variant.experts.group_size = study.base.train.seq_len
            if "learning_rate" in variant:
                variant.learning_rate = large.base.optimizer.learning_rate
    return config
