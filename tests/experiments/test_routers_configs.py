"""The studies of routers: every variant is matched to dense, every claim is about a variant."""

import pytest

from configs import balance, capacity, routers
from experiments import capacity as capacity_program
from experiments import records, scaling
from experiments import routers as program
from moe import routing, schema
from moe.training.config import RunConfig


def test_the_routers_of_the_papers_are_in_a_study():
    config = routers.get_config("cpu")
    variants = [v for part in (config.decoder, config.masked) for v in part.variants.values()]
    asked = {v.experts.router for v in variants if "experts" in v}
    assert asked <= set(routing.ROUTERS) and len(asked) >= 15  # one more may stand in the table


def test_claims_are_about_variants():
    config = routers.get_config("cpu")
    for name, said in program.CLAIMS.items():
        assert {c.better for c in said} | {c.than for c in said} <= set(config[name].variants)
        assert program.BASELINE in config[name].variants
    variants = set(capacity.get_config("cpu").variants)
    said = capacity_program.CLAIMS
    assert {c.better for c in said} | {c.than for c in said} <= variants


@pytest.mark.parametrize("size", ["demo", "cpu", "gpu"])
def test_every_base_is_a_run(size):
    config = routers.get_config(size)
    for name in ("decoder", "masked"):
        run = schema.from_config_dict(RunConfig, config[name].base)
        assert run.model.causal == (name != "masked")


@pytest.mark.parametrize(
    ("part", "name"),
    [("decoder", "domain"), ("decoder", "top_1_shared"), ("masked", "soft_by_sequence")],
)  # fmt: skip
def test_variants_are_matched(part, name):
    config = routers.get_config("demo")[part]
    config.variants = {key: config.variants[key] for key in ("dense", name)}
    costs = {key: records.cost(run) for key, run in scaling.variants(config).items()}
    for count in ("executed_flops", "eval_flops"):
        assert abs(costs[name][count] / costs["dense"][count] - 1) < 0.01


def test_the_other_studies_have_their_variants():
    assert len(capacity.get_config().variants) == 9 and len(balance.get_config().variants) == 10
    for config in (capacity, balance, routers):
        with pytest.raises(ValueError, match="what follows the colon='huge' is not one of 'demo'"):
            config.get_config("huge")
