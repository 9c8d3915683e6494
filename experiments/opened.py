"""A model that reads and writes text: of a run's folder, or of a published checkpoint."""

import itertools
import os
import pathlib
import re
from collections.abc import Sequence

from moe import interop, schema, sealed
from moe.data import tokenizer
from moe.evaluation import likelihood
from moe.evaluation.few_shot import Reader
from moe.evaluation.likelihood import Words
from moe.training import runs

PUBLISHED = 2048  # tokens that a published model is given at once, if nothing is said
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def reader(folder: str | os.PathLike, longest: int = 0) -> Reader:
    """The model in a folder, whichever kind of the two it is.

    Args:
      folder: a run's workdir, or config.json, tokenizer.json and safetensors of a checkpoint.
      longest: tokens that it reads at once; 0 is the length it was trained on, of a published one
        `PUBLISHED`.

    Raises:
      UserError: if it is neither.
    """
    root = pathlib.Path(os.path.expanduser(folder))
    if published(root):
        return _of_checkpoint(root, longest or PUBLISHED)
    loaded = runs.load_run(root)
    run, data, state = loaded
    found = tokenizer.load(data.tokenizer_path)
    words = likelihood.words_of(found, [data.doc_id])
    if len(run.model.stacks) > 1:
        known, top = found.get_vocab_size(), run.model.vocab_size - 1
        words = with_sentinels(words, known, top)._replace(end=data.doc_id)
    length = longest or run.train.seq_len
    domains = tuple(data.domain_names)
    return Reader(run.model, loaded.params, state.router_state, words, length, domains)


def published(folder: pathlib.Path) -> bool:
    """Is it a checkpoint as Hugging Face publishes them? Their config.json names a model_type.

    Raises:
      UserError: if it has no config.json.
    """
    path = folder / "config.json"
    schema.require(path.exists(), f"{folder} has no config.json: it is no run's, no checkpoint's")
    return "model_type" in sealed.read_json(path)


def with_sentinels(words: Words, known: int, top: int) -> Words:
    """The same, where `<extra_id_n>` is the id n below the top, as in `objectives.span_corruption`.

    Args:
      words: of the tokenizer.
      known: how many ids it has; those above are sentinels.
      top: the highest id, of `<extra_id_0>`.

    Raises:
      UserError: by `encode`, for a sentinel that the model does not know.
    """

    def encode(text: str) -> list[int]:
        parts = SENTINEL.split(text)  # text, number, text, number, ..., text
        ids = words.encode(parts[0])
        for number, after in zip(parts[1::2], parts[2::2], strict=True):
            schema.require(
                int(number) <= top - known,
                f"<extra_id_{number}>: this model knows those from 0 to {top - known}",
            )
            ids = [*ids, top - int(number), *words.encode(after)]
        return ids

    def decode(ids: Sequence[int]) -> str:
        runs = itertools.groupby(ids, key=lambda i: i >= known)
        return "".join(
            "".join(f"<extra_id_{top - i}>" for i in same) if above else words.decode(list(same))
            for above, same in runs
        )

    return words._replace(encode=encode, decode=decode)


def _of_checkpoint(root, longest):
    import tokenizers

    path = root / "tokenizer.json"
    schema.require(path.exists(), f"{root} has no tokenizer.json: text cannot be read")
    found = tokenizers.Tokenizer.from_file(str(path))
    config, params = interop.load(root)
    fields = sealed.read_json(root / "config.json")
    end = fields.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    both = len(config.stacks) > 1
    if both:
        first = fields.get("decoder_start_token_id")
        schema.require(
            isinstance(first, int) and isinstance(end, int),
            f"{root / 'config.json'} lacks decoder_start_token_id or eos_token_id: what does the"
            " decoder begin with, and what ends a text?",
        )
        start = [int(first or 0)]
    else:
        start = found.encode("").ids or ([] if end is None else [end])
    schema.require(
        bool(start),
        f"{root / 'config.json'} has no eos_token_id, and the tokenizer puts nothing before a text:"
        " what does a text begin with?",
    )
    return Reader(
        config, params, {}, likelihood.words_of(found, start, end, sentinels=both), longest
    )
