"""Top-k softmax routing: Switch (K = 1) and Mixtral or GShard's plain top-k (K > 1).

p = softmax(s) over the E experts, in float32; a token goes to its K most probable experts
(Shazeer et al. 2017 without noise; Fedus et al. 2021, equations 1 and 2; Jiang et al. 2024).
With K = 1 the gate is p itself: renormalised it would always be 1, and the router would get
no gradient from the task. With K > 1 the K gates are renormalised to sum to 1.
"""

import jax
import jax.numpy as jnp

from moe.routing import assignment


def choose(logits_GSE, mask_GS, k, key=None) -> assignment.Choice:
    """Sends each token to its K most probable experts.

    Args:
      logits_GSE: router logits, float32.
      mask_GS: True for real tokens.
      k: experts per token.
      key: unused; routers share one signature.
    """
    p_GSK, expert_GSK = assignment.largest(jax.nn.softmax(logits_GSE), k)
    gate_GSK = p_GSK if k == 1 else p_GSK / p_GSK.sum(-1, keepdims=True)
    return assignment.Choice(
        jnp.where(mask_GS[..., None], expert_GSK, logits_GSE.shape[-1]).astype(jnp.int32),
        jnp.where(mask_GS[..., None], gate_GSK, 0.0),
    )
