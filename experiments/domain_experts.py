"""One general model, or one of each domain? Branch-Train-Merge, Branch-Train-Mix, DEMix.

    python -m experiments.domain_experts --config=configs/domain_experts.py:demo

All ways take as many FLOPs of training in all, the seed phase counted: one dense model, one with
experts, DEMix (an expert for each domain, chosen by its label), and branches, each trained on its
own domain by processes that share nothing, which are mixed by the posterior over domains, averaged,
or made into experts of one model. Resumable.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, made, records, scaling, sources, study
from experiments.records import Runs
from moe import flops, schema
from moe.adapt.banks import Trained
from moe.analysis import domain_experts as tables
from moe.config import MoEConfig
from moe.data import prepare
from moe.ensemble import average, domain_models, posterior
from moe.training import runs as folders
from moe.training.config import RunConfig

SEED = "seed"
MIX = "mix"
SHORT = "short"
UNLIKE = 0.005  # share of the FLOPs by which ways may differ


def general(config: ConfigDict) -> Runs:
    """What is trained on all domains: the seed phase, and models that stay general."""
    steps = config.steps
    found = scaling.variants(config)
    whole = {name: run.replace(train={"steps": steps.whole}) for name, run in found.items()}
    return {SEED: whole[tables.GENERAL].replace(train={"steps": steps.seed}), **whole}


def branches(config: ConfigDict, seed: RunConfig, root: pathlib.Path) -> Runs:
    """A run for each domain, in two lengths: that of merging, and a shorter one of mixing."""
    tokenizer = str(prepare.prepare(seed.data).tokenizer_path)
    found: Runs = {}
    for domain, (merged, mixed) in lengths(config, seed).items():
        run = seed.replace(
            data={"source": (domain,), "tokenizer": tokenizer},
            train={"steps": merged},
            optimizer=_optimizer(config, "branches"),
            init_from={"workdir": str(root / SEED / "seed{seed}")},
        )
        found |= {f"{domain}_{SHORT}": run.replace(train={"steps": mixed}), domain: run}
    return found


def _optimizer(config, phase):
    """What differs in a run that starts from another."""
    return {"warmup_steps": config.warmup_steps, "learning_rate": config.rates[phase]}


def lengths(config: ConfigDict, seed: RunConfig) -> dict[str, tuple[int, int]]:
    """Steps of each domain's branch: of merging, and of mixing, which pays for experts afterwards.

    A domain has as large a share of the steps as of the text, so that all of it is read as often as
    by a general model.

    Raises:
      UserError: if nothing is left for branches.
    """
    left = config.steps.whole - config.steps.seed
    cost = flops.of_run(_mixed(config, seed)).total / flops.of_run(seed).total
    shorter = left - cost * config.steps.mix
    schema.require(
        0 < shorter < left,
        f"steps={config.steps.to_dict()} leave {left} steps for branches of merging, and"
        f" {shorter:.0f} for those of mixing: lower seed or mix, or raise whole",
    )
    names = seed.data.source
    shares = prepare.prepare(seed.data).shares
    return {
        name: (round(left * share), round(shorter * share))
        for name, share in zip(names, shares, strict=True)
    }


def _mixed(config, seed):
    """The run of branches' feed-forwards as experts."""
    own = {"d_ff": seed.model.d_ff, **config.mixed}
    experts = schema.from_config_dict(MoEConfig, ConfigDict(own), "mixed.")
    return dataclasses.replace(seed, model=dataclasses.replace(seed.model, experts=experts))


def make(config: ConfigDict, runs: Runs, root: pathlib.Path, seeds: range) -> None:
    """Writes the model of a seed's branches, their feed-forwards as experts, if it is not there."""
    names = [f"{domain}_{SHORT}" for domain in runs[SEED].data.source]
    for seed in seeds:
        parents = [records.folder(root, name, seed) for name in names]
        out = records.folder(root / "made", MIX, seed)
        size = {"experts": config.mixed.num_experts, "k": config.mixed.k}
        made.upcycled(parents, out, **size, seed=seed)


def mixing(config: ConfigDict, seed: RunConfig, root: pathlib.Path) -> Runs:
    """The short joint training of Branch-Train-Mix, on all domains."""
    run = _mixed(config, seed).replace(
        train={"steps": config.steps.mix},
        optimizer=_optimizer(config, "mix"),
        init_from={"workdir": str(root / "made" / MIX / "seed{seed}")},
    )
    return {MIX: run}


def total_flops(config: ConfigDict, runs: Runs) -> dict[str, float]:
    """Executed FLOPs of training in all, by way.

    Raises:
      UserError: if ways differ.
    """
    spent: dict[str, float] = {
        name: flops.of_run(run).total * run.train.steps for name, run in runs.items()
    }
    domains = runs[SEED].data.source
    apart = {
        tables.MERGED: spent[SEED] + sum(spent[domain] for domain in domains),
        tables.MIXED: spent[SEED] + sum(spent[f"{d}_{SHORT}"] for d in domains) + spent[MIX],
    }
    found = {name: spent[name] for name in config.variants} | apart
    least = min(found.values())
    schema.require(
        max(found.values()) <= (1 + UNLIKE) * least,
        f"ways of training cost unlike: {found}",
    )
    return found


def measured(config: ConfigDict, runs: Runs, root: pathlib.Path) -> list[dict]:
    """The loss of every way on every domain's test text, by seed."""
    return looks.measured(root / "domain_experts.jsonl", _looks(config, runs, root))


def _looks(config, runs, root) -> Iterator[looks.Look]:
    domains = runs[SEED].data.source
    for seed in study.seeds_of(config):
        opened = functools.cache(functools.partial(_opened, root, seed))
        for number, domain in enumerate(domains):

            def look(number=number, domain=domain, opened=opened) -> dict:
                text = {split: _text(runs[domain], split) for split in ("validation", "test")}
                return {"nll": losses(config, [*domains], number, opened, text)}

            yield {"seed": seed, "domain": domain, "ways": ",".join(config.variants)}, look


def _opened(root, seed, name) -> Trained:
    path = records.folder(root, name, seed)
    looks.require_checkpoint(path)
    return sources.trained(folders.load_run(path))


def _text(run, split):
    """The rows of a domain's split."""
    most = run.train.eval_batches if split == "validation" else run.train.test_batches
    return list(run.source(prepare.prepare(run.data)).held_out(split, most))


def losses(config, domains, number, opened, text) -> dict[str, float]:
    """The loss of every way on the text of one domain, nats.

    Args:
      config: of the study.
      domains: all, in their order.
      number: of the domain whose text it is.
      opened: name of a run -> its model.
      text: validation, by which priors are known, and test: batches.
    """
    found = {}
    for name in (SEED, MIX, *config.variants):
        found[name] = _alone(opened(name), text["test"], number)
    models = [opened(domain) for domain in domains]
    test = domain_models.scored(models, text["test"])
    known_N = domain_models.cached(domain_models.scored(models, text["validation"]))
    found |= _mixtures(test, known_N, tables.MERGED)
    found["branch"] = domain_models.nats(test.logp_NXT[number], test.segment_XT)
    for how, weights in (("mean", posterior.uniform(len(models))), ("weighted", known_N)):
        whole = average.averaged(models, weights.tolist())
        found[f"average {how}"] = _alone(whole, text["test"], number)
    if tables.DEMIX in config.variants:
        told = [opened(tables.DEMIX)] * len(domains)
        known_N = domain_models.cached(domain_models.scored(told, text["validation"], label=True))
        test = domain_models.scored(told, text["test"], label=True)
        found |= _mixtures(test, known_N, tables.DEMIX)
    return found


def _alone(model, text, number):
    """Of one model, which is told the domain if it reads it."""
    test = domain_models.scored([model], domain_models.labelled(text, number))
    return domain_models.nats(test.logp_NXT[0], test.segment_XT)


def _mixtures(test, known_N, name):
    """Of several together, by three priors."""
    uniform = posterior.uniform(test.number)
    return {
        f"{name} uniform": domain_models.with_prior(test, uniform),
        f"{name} updating": domain_models.updating(test),
        f"{name} cached": domain_models.with_prior(test, known_N),
    }


def main(config: ConfigDict, workdir: str) -> None:
    """Trains all rounds, measures and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    seeds = study.seeds_of(config)
    once = {"timed": False, "documents": False}
    runs = general(config)
    study.run(runs, root, seeds, config.jobs, **once)
    apart = branches(config, runs[SEED], root)
    for domain in runs[SEED].data.source:  # a study has one data set
        own = {name: run for name, run in apart.items() if run.data.source == (domain,)}
        study.run(own, root, seeds, config.jobs, **once)
    runs |= apart
    make(config, runs, root, seeds)
    runs |= mixing(config, runs[SEED], root)
    total_flops(config, runs)
    study.run({MIX: runs[MIX]}, root, seeds, config.jobs, **once)
    found = measured(config, runs, root)
    looks.report(root, "domain_experts", tables.table(found), tables.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/domain_experts.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
