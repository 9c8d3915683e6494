"""What every test token chose in a run's model, and labels of these tokens."""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import looks, sources
from moe import schema
from moe.adapt import banks
from moe.analysis import token_labels
from moe.analysis.token_labels import NONE
from moe.batch import Batch
from moe.data import batches, lexicon, prepared, tokenizer
from moe.errors import UserError
from moe.evaluation import traces
from moe.explorer.takers import Kinds
from moe.training import runs as folders
from moe.training.config import RunConfig

ENGLISH = ("encyclopedia_en", "cloud_docs", "web_api_docs", "framework_docs")  # topics
LANGUAGES = ("encyclopedia_en", "encyclopedia_fr", "encyclopedia_es")


class Traced(NamedTuple):
    """The test tokens of a model."""

    tokens: traces.Traces
    document_N: np.ndarray  # numbers of whole documents, of which rows hold parts
    experts: int  # E
    data: prepared.Prepared


class Label(NamedTuple):
    """A label of every token, -1 where there is none."""

    of: np.ndarray
    of_documents: bool  # do all tokens of a document share it?


def of_run(path: pathlib.Path, number: int, at: int | None = None) -> Traced:
    """The choices of a run's model on so many batches of its test split.

    Args:
      path: the run's workdir.
      number: of batches; 0 is the whole split.
      at: the step of an earlier checkpoint; None: the last.

    Raises:
      UserError: if there is no checkpoint, or a token may choose fewer experts than others.
    """
    looks.require_checkpoint(path)
    loaded = folders.load_run(path, at)
    text = list(loaded.run.source(loaded.data).held_out("test", number))
    found = traces.collect(sources.trained(loaded), text)
    experts = banks.experts(loaded.run.model).num_experts
    schema.require(
        bool((found.expert_LNK < experts).all()),
        f"in {path} tokens choose different numbers of experts: leave this router out",
    )
    return Traced(found, documents(loaded.run, loaded.data, text), experts, loaded.data)


def documents(run: RunConfig, data: prepared.Prepared, text: Sequence[Batch]) -> np.ndarray:
    """The number, in the test split, of each token's document.

    Args:
      run: of an objective that reads rows of running text.
      data: of the run.
      text: batches of `held_out`.
    """
    rows = batches.eval_rows(data, "test", run.train.seq_len, len(text) * run.micro_batch)
    first_R = batches.document_of(data, "test", rows, run.train.seq_len)
    segment_RT = np.concatenate([np.asarray(batch.segment_BT) for batch in text])[: len(rows)]
    return (first_R[:, None] + segment_RT - 1)[segment_RT > 0]


def labels(traced: Traced) -> dict[str, Label]:
    """All labels of the tokens, by name; topics are of the tokens that have a part of speech."""
    found, data = traced.tokens, traced.data
    spelled = token_labels.spellings(tokenizer.load(data.tokenizer_path), data.vocab_size)
    kind_N = token_labels.kinds(spelled)[found.token_N]
    kind = functools.partial(token_labels.is_one, kind_N)
    topics, languages = (_places(data, names) for names in (ENGLISH, LANGUAGES))
    part_N = token_labels.parts_of_speech(found, spelled, lexicon.read(), topics)
    topic_N = token_labels.renumbered(found.domain_N, topics)
    of_tokens = {
        "token id": found.token_N,
        "kind of token": kind_N,
        "punctuation": kind(token_labels.KINDS.index("punctuation")),
        "number": kind(token_labels.KINDS.index("number")),
        "position": token_labels.positions(found.position_N),
        "part of speech": part_N,
        "verb": token_labels.is_one(part_N, lexicon.PARTS.index("verb")),
    }
    of_documents = {
        "domain": found.domain_N,
        "topic": np.where(part_N == NONE, NONE, topic_N),
        "language": token_labels.renumbered(found.domain_N, languages),
    }
    return {name: Label(of, False) for name, of in of_tokens.items()} | {
        name: Label(of, True) for name, of in of_documents.items()
    }


def kinds(tokens: traces.Traces, data: prepared.Prepared) -> list[Kinds]:
    """The ways to sort tokens that their text allows: by kind, by part of speech, by domain."""
    spelled = token_labels.spellings(tokenizer.load(data.tokenizer_path), data.vocab_size)
    kind_N = token_labels.kinds(spelled)[tokens.token_N]
    found = [Kinds("kind of token", token_labels.KINDS, kind_N)]
    english = [i for i, name in enumerate(data.domain_names) if name in ENGLISH]
    if english and (known := _lexicon()):
        part_N = token_labels.parts_of_speech(tokens, spelled, known, english)
        names = ["" if part in token_labels.KINDS else part for part in lexicon.PARTS]
        found.append(Kinds("part of speech, of English text", names, part_N))
    if len(data.domain_names) > 1:
        found.append(Kinds("domain", data.domain_names, tokens.domain_N, of_documents=True))
    return found


def _lexicon():
    try:
        return lexicon.read()
    except UserError as error:
        print(f"parts of speech are left out: {error}")
        return {}


def _places(data, names):
    """Of domains, in the data."""
    for name in names:
        schema.one_of("data.source", name, data.domain_names)
    return [data.domain_names.index(name) for name in names]
