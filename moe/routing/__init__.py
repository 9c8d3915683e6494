"""Who goes where. `ROUTERS` is the whole list: a new router is one file and one line here.

See `contract` for what a router is, `random` for the smallest, `sigmoid` for one with losses,
options and a state. A router that sends the i-th token of a group to expert i mod E, in full:

    import jax.numpy as jnp

    from moe.routing import contract

    def route(inputs, settings):
        def choose():
            place_S = jnp.arange(inputs.mask_GS.shape[1], dtype=jnp.int32)
            return contract.no_choice(inputs) + (place_S % settings.num_experts)[None, :, None]

        expert_GSK = inputs.chosen(choose)
        return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, 1.0))

    def check(config):
        if config.k != 1:
            raise UserError(f"this router gives a token one expert: set k=1, not k={config.k}")

    ROUTER = contract.Router(route, projections=contract.no_projection, check=check)

Imported below and given its line it is an option of `experts.router`, and it is covered by
tests/routing/test_conformance.py; options worth a test get an entry in tests/routing/cases.py.
"""

from typing import Any

import jax

from moe.routing import (
    base,
    contract,
    domain,
    emo,
    expert_choice,
    gshard,
    hashed,
    hierarchical,
    merged,
    noisy_top_k,
    random,
    reinforce,
    rre,
    sigmoid,
    sinkhorn,
    soft,
    top_k,
    top_p,
)

ROUTERS = {
    "top_k": top_k.ROUTER,
    "noisy_top_k": noisy_top_k.ROUTER,
    "gshard": gshard.ROUTER,
    "top_p": top_p.ROUTER,
    "sigmoid": sigmoid.ROUTER,
    "hierarchical": hierarchical.ROUTER,
    "merged": merged.ROUTER,
    "sinkhorn": sinkhorn.ROUTER,
    "base": base.ROUTER,
    "reinforce": reinforce.ROUTER,
    "hash": hashed.ROUTER,
    "rre": rre.ROUTER,
    "domain": domain.ROUTER,
    "random": random.ROUTER,
    "emo": emo.ROUTER,
    "expert_choice": expert_choice.ROUTER,
    "soft": soft.ROUTER,
}


def route(
    name: str,
    logits: jax.Array | dict[str, jax.Array],
    mask_GS: jax.Array,
    k: int,
    *,
    slots: int = 0,
    train: bool = False,
    options: contract.Options | None = None,
    **inputs: Any,
) -> contract.RouterOutput:
    """A router on arrays at hand, as in a notebook; a model's layer does the same.

    Args:
      logits: of the experts, [G, S, E], or a dictionary if the router has several matrices.
      slots: C, which only some routers need.
      options: default those of the router.
      inputs: what else it reads, see `contract.RouterInputs`.
    """
    router = ROUTERS[name]
    logits = logits if isinstance(logits, dict) else {"router": logits}
    experts = logits["router"].shape[-1]
    settings = contract.RouterSettings(experts, k, slots, train, options or router.options())
    return router.route(contract.RouterInputs(logits, mask_GS, **inputs), settings)
