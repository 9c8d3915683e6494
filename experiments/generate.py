"""Text from a trained or published model: after each prompt, or line by line as you type.

    python -m experiments.generate --workdir=runs/train --prompt="The router" --tokens=100
    python -m experiments.generate --workdir=runs/train        # continues each line that you type

`--workdir` is a run's folder, or a published checkpoint's. An encoder reads the prompt, and the
decoder writes; `<extra_id_0>` and so on stand for what span corruption has left out.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command, opened
from moe import beams, decoding, generation, sampling, schema
from moe.errors import UserError
from moe.evaluation.few_shot import Reader
from moe.sampling import Sampling

Weights = tuple[dict, dict]


def domains(reader: Reader, domain: str | None, number: int) -> np.ndarray | None:
    """The domain of every prompt, None if the router reads none."""
    if not reader.model.reads_domains:
        schema.require(domain is None, "--domain does nothing: no router reads it")
        return None
    names = list(reader.domains)
    schema.one_of("--domain", domain, names)
    assert domain is not None  # which is no name
    return np.full(number, names.index(domain), np.int32)


def asked(reader: Reader, texts: list[str], domain: str | None) -> dict[str, Any]:
    """What `generation.begin` is given: prompts, and what an encoder reads."""
    words = reader.words
    ids = [words.encode(text) for text in texts]
    given: dict[str, Any] = {"domain_B": domains(reader, domain, len(texts))}
    if len(reader.model.stacks) == 1:
        prompts = [[*words.start, *text] for text in ids]
        return given | {"prompts": prompts, "doc_id": words.start[-1]}
    assert words.end is not None  # of an encoder-decoder
    inputs = [[*text, words.end] for text in ids]
    return given | {"prompts": [words.start] * len(texts), "inputs": inputs, "doc_id": -1}


def ended(reader: Reader, ids: Iterable[int]) -> list[int]:
    """The ids before the one that ends a text, if the model has one."""
    found = [i for i in ids if i >= 0]
    end = reader.words.end
    return found[: found.index(end)] if end in found else found


def pieces(reader: Reader, tokens: Iterable[np.ndarray]) -> Iterator[str]:
    """The text of one stream of tokens, as far as its characters are whole."""
    ids: list[int] = []
    shown = ""
    for token_B in tokens:
        ids.append(int(token_B[0]))
        if ids[-1] == reader.words.end:
            return
        text = reader.words.decode(ids)
        if text.endswith("\ufffd"):  # a part of a character
            continue
        yield text[len(shown) :]
        shown = text


def converse(
    reader: Reader, weights: Weights, lines: Iterable[str], tokens: int, domain: str | None,
    **how: Any,
) -> None:  # fmt: skip
    """Continues each line, printing as it goes."""
    for line in lines:
        text = line.rstrip("\n")
        given = asked(reader, [text or "\n"], domain)
        for piece in pieces(
            reader, generation.stream(reader.model, weights, steps=tokens, **given, **how)
        ):
            print(piece, end="", flush=True)
        print("\n")


def prompted() -> Iterator[str]:
    """Lines as they are typed, up to the end of the input."""
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def choices(reader: Reader, tokens: Iterable[int], expert_LTK: np.ndarray) -> str:
    """A line for each new token: its text, and the experts it chose in every MoE layer."""
    lines = []
    none = reader.model.experts.num_experts if reader.model.experts else 0
    for t, token in enumerate(tokens):
        layers = (" ".join(str(e) for e in K if e < none) or "-" for K in expert_LTK[:, t])
        lines.append(f"{reader.words.decode([token])!r:>16}  " + " | ".join(layers))
    return "\n".join(lines)


def answer(
    reader: Reader, weights: Weights, texts: list[str], tokens: int, domain: str | None,
    experts: bool, **how: Any,
) -> None:  # fmt: skip
    """Prints every prompt with its continuation, and how fast it came."""
    given = asked(reader, texts, domain)
    began = time.perf_counter()
    found = generation.written(reader.model, weights, steps=tokens, **given, **how)
    seconds = time.perf_counter() - began
    schema.require(
        not experts or found.experts is not None, "--experts: no token of this model chooses any"
    )
    for b, (text, ids) in enumerate(zip(texts, found.tokens, strict=True)):
        print(f"{text}{reader.words.decode(ended(reader, ids))}\n")
        if experts and found.experts is not None:
            print(choices(reader, ids, found.experts[:, b]) + "\n")
    print(
        f"{found.tokens.size} tokens in {seconds:.1f} s, compilation included, on"
        f" {jax.devices()[0].device_kind}"
    )


def search(
    reader: Reader, weights: Weights, texts: list[str], tokens: int, domain: str | None,
    width: int, seed: int,
) -> None:  # fmt: skip
    """Prints the best continuations of every prompt with their scores."""
    given = asked(reader, texts, domain) | {"seed": seed}
    end = reader.words.end
    if end is None:
        raise UserError("--beams needs a token that ends a text, and this model has none")
    found = beams.search(reader.model, weights, steps=tokens, width=width, end=end, **given)
    for text, beams_WT, score_W in zip(texts, found.tokens, found.scores, strict=True):
        print(text)
        for ids, score in zip(beams_WT, score_W, strict=True):
            print(f"{score:8.3f}  {reader.words.decode(ended(reader, ids))}")
        print()


def main(
    workdir: str, texts: list[str], tokens: int, domain: str | None = None, *,
    how: Sampling = sampling.GREEDY, seed: int = 0, experts: bool = False, width: int = 0,
) -> None:  # fmt: skip
    """Continues the prompts, or what is typed if there are none."""
    reader = opened.reader(workdir)
    weights = decoding.prepare(reader.model, reader.params, reader.router_state)
    schema.require(bool(texts) or not (experts or width), "--experts and --beams go with --prompt")
    if not texts:
        converse(reader, weights, prompted(), tokens, domain, how=how, seed=seed)
    elif width:
        schema.require(how == sampling.GREEDY, "--beams draws nothing: use it with --temperature=0")
        search(reader, weights, texts, tokens, domain, width, seed)
    else:
        answer(reader, weights, texts, tokens, domain, experts, how=how, seed=seed)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "A run's folder, or a checkpoint's.")
    PROMPT = flags.DEFINE_multi_string("prompt", [], "What to continue; may be repeated.")
    TOKENS = flags.DEFINE_integer("tokens", 100, "How many tokens to add.", lower_bound=1)
    HEAT = flags.DEFINE_float("temperature", 0.8, "0: the most probable.", lower_bound=0.0)
    TOP_K = flags.DEFINE_integer("top_k", 0, "Only from so many most probable; 0: from all.")
    TOP_P = flags.DEFINE_float("top_p", 1.0, "Only from the fewest of this probability together.")
    MIN_P = flags.DEFINE_float("min_p", 0.0, "Only from those of this share of the largest.")
    SEED = flags.DEFINE_integer(
        "seed", 0, "Of what is drawn.", lower_bound=0, upper_bound=2**32 - 1
    )
    DOMAIN = flags.DEFINE_string("domain", None, "Of the texts, for routers that read it.")
    EXPERTS = flags.DEFINE_bool("experts", False, "Print the experts that each new token chose.")
    BEAMS = flags.DEFINE_integer("beams", 0, "Search with so many beams; 0: none.", lower_bound=0)
    command.run(
        lambda: main(
            WORKDIR.value,
            PROMPT.value,
            TOKENS.value,
            DOMAIN.value,
            how=Sampling(HEAT.value, TOP_K.value, TOP_P.value, MIN_P.value),
            seed=SEED.value,
            experts=EXPERTS.value,
            width=BEAMS.value,
        )
    )
