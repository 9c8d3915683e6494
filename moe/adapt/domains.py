"""The experts of some domains alone, or of more of them, with not a bit of the others changed.

The router "domain" has one expert for each domain (DEMix; Gururangan et al. 2022, section 5: they
are added and removed after training), "rre" a group of as many (PanGu-Sigma; Ren et al. 2023,
section 2.2: the sub-model of a domain is extracted). Neither has weights of its own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from moe import schema
from moe.adapt import banks, prune
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.config import ModelConfig


def of(trained: Trained, domains: Sequence[int]) -> Trained:
    """The model of these domains, which are its domains 0, 1, ... now.

    A domain that is named twice has a copy of its experts: a new one begins as the one that is
    nearest. Capacity factors go with the number of experts, so that each has as many slots as ever:
    on its own text a model of fewer domains says what the whole one says.

    Args:
      trained: the model.
      domains: numbers of its own.

    Raises:
      UserError: for no domains, for numbers that it does not have, and for other routers.
    """
    model = trained.model
    size = group_size(model)
    number = banks.experts(model).num_experts // size
    schema.require(
        len(domains) > 0 and set(domains) <= set(range(number)),
        f"expected some of the domains 0 to {number - 1}; got {list(domains)}",
    )
    kept_E = np.concatenate([np.arange(d * size, (d + 1) * size) for d in domains])
    kept_LE = np.tile(kept_E, (model.moe_layers, 1))
    parts = zip(banks.of(trained), banks.by_stack(model, kept_LE), strict=True)
    made = [prune.bank_of(bank, own_LE, model) for bank, own_LE in parts]
    params = banks.with_banks(trained.params, model, made)
    return Trained(sub_model(model, len(domains)), params, trained.router_state)


def sub_model(model: ModelConfig, number: int = 1) -> ModelConfig:
    """The config of a model of so many of the domains.

    Raises:
      UserError: if experts are not those of domains.
    """
    experts = banks.experts(model)
    kept = number * group_size(model)
    share = kept / experts.num_experts
    return banks.with_experts(
        model,
        num_experts=kept,
        capacity_factor=experts.capacity_factor * share,
        eval_capacity_factor=experts.eval_capacity_factor * share,
        options=_options(experts.options, number),
    )


def group_size(model: ModelConfig) -> int:
    """How many experts a domain has.

    Raises:
      UserError: if experts are not those of domains.
    """
    experts = banks.experts(model)
    schema.require(
        experts.routing.domains is not None,
        f"experts.router={experts.router!r} does not go by domains: no domain has experts of its"
        " own. Use the routers 'domain' or 'rre'",
    )
    assert experts.routing.domains is not None
    return experts.num_experts // experts.routing.domains(experts)


def _options(options, number):
    """The router's, for so many domains."""
    return dataclasses.replace(options, groups=number) if hasattr(options, "groups") else options


def only(batch: Batch, domains: Sequence[int]) -> Batch:
    """The batch with all tokens of other domains as padding."""
    kept_BT = np.isin(np.asarray(batch.domain_BT), np.asarray(domains))
    return batch._replace(segment_BT=np.where(kept_BT, batch.segment_BT, 0))


def renumbered(batch: Batch, domains: Sequence[int]) -> Batch:
    """The batch of `only` for the model of `of`: a domain is its place in the list."""
    place_X = np.zeros(max(domains) + 1, np.int32)
    for domain in set(domains):
        place_X[domain] = domains.index(domain)
    return batch._replace(domain_BT=place_X[np.minimum(np.asarray(batch.domain_BT), max(domains))])
