"""Top-k softmax routing: Switch (K = 1) and Mixtral or GShard's plain top-k (K > 1).

p = softmax(s) over the E experts, in float32; a token goes to its K most probable experts
(Shazeer et al. 2017 without noise; Fedus et al. 2021, equations 1 and 2; Jiang et al. 2024).
With K = 1 the gate is p itself: renormalised it would always be 1, and the router would get
no gradient from the task. With K > 1 the K gates are renormalised to sum to 1.
"""

import jax

from moe.routing import contract, ranked, stats


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to its K most probable experts."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)
    routed = ranked.route(inputs, settings, p_GSE, p_GSE, logits_GSE)
    return routed._replace(p_GSE=p_GSE, logits_GSE=logits_GSE)


LEARNED = {"balance_weight": 0.01, "z_weight": 0.001, "jitter": 0.0, "router_scale": 0.1}
LOSSES = {"balance": stats.balance_loss, "z": stats.z_loss}

ROUTER = contract.Router(
    route,
    options=ranked.Options,
    common=LEARNED,
    losses=LOSSES,
    check=ranked.check,
    idle=ranked.idle,
)
