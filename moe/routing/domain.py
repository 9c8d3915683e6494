"""Domain routing (DEMix; Gururangan et al. 2021, section 3): the expert is the document's domain.

The label decides, K = 1, the gate is 1: no weights, no losses. Expert i is that of the i-th name of
`Prepared.domain_names`, which is the order of `data.source`; it can be cut out of the model, or
another one added.
"""

from moe.routing import contract


def route(seen: contract.Seen, setting: contract.Setting) -> contract.Routed:
    """Sends each token to its document's domain."""
    expert_GSK = seen.chosen(lambda: seen.domain_GS[..., None])
    gate_GSK = contract.no_choice(seen) + 1.0
    return contract.Routed(contract.choice(seen, setting, expert_GSK, gate_GSK))


def check(moe) -> None:
    """Refuses what is not one expert a token."""
    if moe.k != 1:
        raise ValueError(f"moe.router='domain' gives a token one expert: set k=1, not k={moe.k}")


ROUTER = contract.Router(
    route, matrices=contract.no_matrix, domains=lambda moe: moe.num_experts, check=check
)
