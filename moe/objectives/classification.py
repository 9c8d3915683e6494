"""Classification of rows: from which source does a row of text come, or what shows an image?

The label of a row is the domain of its first token, so every corpus of several sources is a
classification task. The model is one that gives one logit per class and row.
"""

import jax
import jax.numpy as jnp

from moe.batch import Batch
from moe.config import ModelConfig
from moe.errors import UserError
from moe.models.contract import Model
from moe.objectives import contract, next_token


def forward(
    model: Model,
    options: contract.Options,
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> contract.ForwardOutput:
    """Cross-entropy and accuracy of the classes of rows; a row of padding does not count."""
    del options
    output = model.apply(params, router_state, batch, key=key, train=train)
    assert batch.domain_BT is not None, "classes are read from batch.domain_BT"
    label_B = batch.domain_BT[:, 0]
    loss_mask_B = jnp.any(batch.segment_BT > 0, axis=1)
    log_p_BV = jax.nn.log_softmax(output.logits)
    is_label_BV = label_B[:, None] == jnp.arange(log_p_BV.shape[1])[None]
    nll_B = -jnp.where(is_label_BV, log_p_BV, 0).sum(1) * loss_mask_B
    right_B = (output.logits.argmax(1) == label_B) & loss_mask_B
    extra = {"accuracy": right_B.sum().astype(jnp.float32)}
    sums = contract.sums_of(model, output, nll_B, loss_mask_B, extra)
    return contract.ForwardOutput(sums, nll_B, output.choices)


def check(config: ModelConfig, options: contract.Options) -> None:
    """Refuses models that classify nothing, and routers that are paid for every token."""
    del options
    if not hasattr(config, "num_classes"):
        raise UserError(
            "objective.name='classification' needs a model with classes: architecture='classifier',"
            " or 'vision'"
        )
    if config.experts is not None and config.experts.router == "reinforce":
        raise UserError("experts.router='reinforce' is paid for every token: not for classes")
    if config.reads_domains:
        raise UserError(
            f"experts.router={config.experts and config.experts.router!r} reads the domains that"
            " objective.name='classification' is to tell: choose another"
        )


OBJECTIVE = contract.Objective(forward, next_token.source, check=check, result="loss")
