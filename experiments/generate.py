"""Text from a model that `experiments.train` trained.

    python -m experiments.generate --workdir=runs/train --prompt="The router" --tokens=100

Reads the run's config.json, its data (for the tokenizer) and its last checkpoint.
"""

import contextlib
import json
import pathlib
import time

import jax
import numpy as np
from absl import flags

from experiments import command
from moe import config as configs
from moe import generate, legacy
from moe.data import prepare, tokenizer
from moe.training import checkpoint, loop, step
from moe.training.config import RunConfig


def trained(workdir: pathlib.Path):
    """(run, data, state) of a run, as of its last checkpoint.

    Raises:
      ValueError: if there is none, or the data is not what it was trained on.
    """
    path = workdir / "config.json"
    configs.require(path.exists(), f"{workdir} has no config.json: --workdir is a run's folder")
    run = configs.from_config_dict(RunConfig, legacy.run_config(json.loads(path.read_text())))
    data = prepare.prepare(run.data)
    loop.claim_workdir(run, workdir, data)
    state = step.init(run.model, run.tx, run.train.seed, data.tokens["train"])
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        found = checkpoints.restore(state)
    configs.require(found is not None, f"{workdir} has no checkpoint yet")
    return run, data, found[0]


def domains(run: RunConfig, data, domain: str | None, number: int):
    """The domain of every prompt, None if the router reads none."""
    if not run.model.reads_domains:
        configs.require(domain is None, "--domain does nothing: no router reads it")
        return None
    names = list(data.domain_names)
    configs.one_of("--domain", domain, names)
    return np.full(number, names.index(domain), np.int32)


def main(workdir: str, texts: list[str], tokens: int, domain: str | None = None, **how) -> None:
    """Prints every prompt with its continuation, and how fast it came."""
    run, data, state = trained(pathlib.Path(workdir))
    words = tokenizer.load(data.tokenizer_path)
    encoded = [words.encode(text, add_special_tokens=False).ids for text in texts]
    prompts = [[data.doc_id, *ids] for ids in encoded]
    domain_B = domains(run, data, domain, len(prompts))
    weights = generate.prepare(state.params, state.routing)
    began = time.perf_counter()
    how |= {"domain_B": domain_B, "doc_id": data.doc_id}
    added = generate.generate(run.model, weights, prompts, tokens, **how)
    seconds = time.perf_counter() - began
    for text, more in zip(texts, added, strict=True):
        print(f"{text}{words.decode(more.tolist())}\n")
    print(
        f"{added.size} tokens in {seconds:.1f} s, compilation included, on"
        f" {jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "The folder of the run.")
    PROMPT = flags.DEFINE_multi_string("prompt", ["\n"], "What to continue; may be repeated.")
    TOKENS = flags.DEFINE_integer("tokens", 100, "How many tokens to add.", lower_bound=1)
    HEAT = flags.DEFINE_float("temperature", 0.8, "0: the most probable.", lower_bound=0.0)
    SEED = flags.DEFINE_integer(
        "seed", 0, "Of what is drawn.", lower_bound=0, upper_bound=2**32 - 1
    )
    DOMAIN = flags.DEFINE_string("domain", None, "Of the texts, for routers that read it.")
    command.run(
        lambda: main(
            WORKDIR.value, PROMPT.value, TOKENS.value, DOMAIN.value,
            temperature=HEAT.value, seed=SEED.value,
        )
    )  # fmt: skip
