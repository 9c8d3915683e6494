"""Domain routing (DEMix; Gururangan et al. 2021, section 3): the expert is the document's domain.

The label decides, K = 1, the gate is 1: no weights, no losses. Expert i is that of the i-th name of
`Prepared.domain_names`, which is the order of `data.source`; it can be cut out of the model, or
another one added.
"""

from moe.errors import UserError
from moe.routing import contract


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to its document's domain."""
    expert_GSK = inputs.chosen(lambda: inputs.need("domain_GS")[..., None])
    gate_GSK = contract.no_choice(inputs) + 1.0
    return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, gate_GSK))


def check(config: contract.Experts) -> None:
    """Refuses what is not one expert a token."""
    if config.k != 1:
        raise UserError(
            f"experts.router='domain' gives a token one expert: set k=1, not k={config.k}"
        )


ROUTER = contract.Router(
    route,
    projections=contract.no_projection,
    domains=lambda config: config.num_experts,
    check=check,
)
