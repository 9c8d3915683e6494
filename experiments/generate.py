"""Text from a model that `experiments.train` trained.

    python -m experiments.generate --workdir=runs/train --prompt="The router" --tokens=100

Reads the run's config.json, its data (for the tokenizer) and its last checkpoint.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command
from moe import decoding, generation, sampling, schema
from moe.data import prepared, tokenizer
from moe.training import runs
from moe.training.config import RunConfig


def domains(
    run: RunConfig, data: prepared.Prepared, domain: str | None, number: int
) -> np.ndarray | None:
    """The domain of every prompt, None if the router reads none."""
    if not run.model.reads_domains:
        schema.require(domain is None, "--domain does nothing: no router reads it")
        return None
    names = list(data.domain_names)
    schema.one_of("--domain", domain, names)
    assert domain is not None  # which is no name
    return np.full(number, names.index(domain), np.int32)


def main(
    workdir: str, texts: list[str], tokens: int, domain: str | None = None, **options: Any
) -> None:
    """Prints every prompt with its continuation, and how fast it came."""
    run, data, state = runs.load_run(workdir)
    words = tokenizer.load(data.tokenizer_path)
    encoded = [words.encode(text, add_special_tokens=False).ids for text in texts]
    prompts = [[data.doc_id, *ids] for ids in encoded]
    domain_B = domains(run, data, domain, len(prompts))
    weights = decoding.prepare(run.model, state.params, state.router_state)
    began = time.perf_counter()
    options |= {"domain_B": domain_B, "doc_id": data.doc_id}
    added = generation.generate(run.model, weights, prompts, tokens, **options)
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
    TOP_K = flags.DEFINE_integer("top_k", 0, "Only from so many most probable; 0: from all.")
    TOP_P = flags.DEFINE_float("top_p", 1.0, "Only from the fewest of this probability together.")
    MIN_P = flags.DEFINE_float("min_p", 0.0, "Only from those of this share of the largest.")
    SEED = flags.DEFINE_integer(
        "seed", 0, "Of what is drawn.", lower_bound=0, upper_bound=2**32 - 1
    )
    DOMAIN = flags.DEFINE_string("domain", None, "Of the texts, for routers that read it.")
    command.run(
        lambda: main(
            WORKDIR.value,
            PROMPT.value,
            TOKENS.value,
            DOMAIN.value,
            how=sampling.Sampling(HEAT.value, TOP_K.value, TOP_P.value, MIN_P.value),
            seed=SEED.value,
        )
    )
