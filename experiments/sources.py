"""Models that are changed: a run's or a published one, with text to look at.

What is made of either is written as a folder of the same kind.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import opened
from moe import initialisation, interop, schema, sealed
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.data import batches, corpora, prepare
from moe.evaluation.few_shot import Reader
from moe.models import lora
from moe.objectives import ObjectiveConfig, span_corruption
from moe.training import checkpoint, moments, runs, step, workdirs
from moe.training.config import MeshConfig, RunConfig

ROWS = 8  # of published text at once
LONGEST = 512  # tokens of a row
# Families of dense models, and of models with experts that are the same beside them.
PAIRS = (("llama", "mixtral"), ("mistral", "mixtral"), ("qwen3", "qwen3_moe"))
TWINS = dict(PAIRS) | {sparse: dense for dense, sparse in PAIRS}
# Fields of config.json that say how text is read, and not what is computed.
OF_TEXT = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    "max_position_embeddings",
)


class Source(NamedTuple):
    """A model, text to look at, and how what is made of it is written."""

    trained: Trained
    batches: list[Batch]
    domains: tuple[str, ...]  # of the text
    objective: ObjectiveConfig | None  # what the text is for, None: the model's usual one
    save: Callable[[Trained, pathlib.Path, moments.Adam | None], None]
    adam: moments.Adam | None = None  # of the optimizer that trained it


def trained(loaded: runs.LoadedRun) -> Trained:
    """The model of a run, without what lies beside it."""
    return Trained(loaded.run.model, loaded.params, loaded.state.router_state)


def of_run(workdir: pathlib.Path, number: int, domains: Sequence[str] = ()) -> Source:
    """A run as of its last checkpoint, and so many batches of its validation split.

    Args:
      workdir: the run's folder.
      number: of batches.
      domains: what is made of it reads these alone, in its tokens; () is all of them.

    Raises:
      UserError: for a domain that is not of the run's text.
    """
    loaded = runs.load_run(workdir)
    run, data, state = loaded
    text = list(run.source(data).held_out("validation", number))
    for domain in domains:
        schema.one_of("--of_domains", domain, data.domain_names)
    save = functools.partial(_save_run, _reading(run, data, domains), int(state.step))
    kept = None if run.frozen else moments.of(state.optimizer)
    names = tuple(data.domain_names)
    return Source(trained(loaded), text, names, _objective(run), save, kept)


def _reading(run, data, domains):
    """The run on text of these domains; on all, if none is named."""
    if not domains:
        return run
    source = tuple(dict.fromkeys(domains))
    words = str(data.tokenizer_path)
    changed = dataclasses.replace(run.data, source=source, tokenizer=words, prepared_dir="")
    return dataclasses.replace(run, data=changed)


def _objective(run):
    """What the run learned; of a student what it is judged by."""
    return ObjectiveConfig() if run.objective.name == "distillation" else run.objective


def _save_run(
    run: RunConfig, number: int, made: Trained, out: pathlib.Path, carried: moments.Adam | None
) -> None:
    """A workdir whose only checkpoint is the new model; without moments its optimizer is new."""
    new = dataclasses.replace(
        run,
        model=made.model,
        mesh=MeshConfig(),
        init_from=initialisation.InitConfig(),
        lora=lora.LoraConfig(),
        objective=_objective(run),
        optimizer=dataclasses.replace(run.optimizer, frozen=()),
    )
    workdirs.claim(new, out, prepare.prepare(new.data))
    optimizer = new.tx.init(made.params)
    if carried is not None:
        optimizer = moments.replaced(optimizer, moments.named(optimizer, carried))
    state = step.State(jnp.int32(number), made.params, optimizer, made.router_state)
    with contextlib.closing(checkpoint.Checkpoints(out)) as checkpoints:
        checkpoints.save(number, state, 0.0)


def of_checkpoint(folder: pathlib.Path, number: int, domain: str) -> Source:
    """A published model, and packaged text of a domain in its own tokens."""
    reader = opened.reader(folder)
    rows = rows_of_text if len(reader.model.stacks) == 1 else corrupted_rows
    text = list(rows(reader, corpora.documents(domain), number))
    model = Trained(reader.model, reader.params, {})
    return Source(model, text, (domain,), None, functools.partial(_save_checkpoint, folder))


def rows_of_text(reader: Reader, documents: Iterator[str], number: int) -> Iterator[Batch]:
    """Batches of `ROWS` rows, documents one after another."""
    length = min(reader.longest, LONGEST)
    texts = ([*reader.words.start, *reader.words.encode(text)] for text in documents)
    ids = _first(texts, number * ROWS * length + 1)
    tokens_XT = ids[:-1].reshape(-1, length)
    targets_XT = ids[1:].reshape(-1, length)
    numbered = batches.number(tokens_XT, reader.words.start[-1])
    for first in range(0, len(tokens_XT), ROWS):
        rows = [x[first : first + ROWS] for x in (tokens_XT, targets_XT, *numbered)]
        yield Batch(rows[0], rows[1], rows[2], rows[3], domain_BT=np.zeros_like(rows[0]))


def corrupted_rows(reader: Reader, documents: Iterator[str], number: int) -> Iterator[Batch]:
    """The same for an encoder-decoder, with spans of noise as in `objectives.span_corruption`.

    Raises:
      UserError: if the tokenizer has no sentinels.
    """
    words, length = reader.words, min(reader.longest, LONGEST)
    top, end = words.encode("<extra_id_0>"), words.end
    schema.require(
        len(top) == 1 and end is not None,
        "the tokenizer has no <extra_id_0>, or config.json no eos_token_id: an encoder-decoder is"
        " looked at with spans that sentinels replace",
    )
    assert end is not None
    texts = ([*words.encode(text), end] for text in documents)
    tokens_XT = _first(texts, number * ROWS * length).reshape(-1, length)
    options = span_corruption.Options()
    for first in range(0, len(tokens_XT), ROWS):
        some = enumerate(tokens_XT[first : first + ROWS], first)
        made = [span_corruption.row(ids, (i,), options, top[0], end) for i, ids in some]
        inputs_BU, targets_BT = (np.stack(part) for part in zip(*made, strict=True))
        real_B1 = np.ones((ROWS, 1), bool)
        yield span_corruption.as_batch(inputs_BU, targets_BT, real_B1, words.start[-1])


def _first(texts, needed):
    """So many ids of texts, one after another."""
    ids: list[int] = []
    for text in texts:
        ids += text
        if len(ids) >= needed:
            break
    schema.require(len(ids) >= needed, f"the text has {len(ids)} tokens of {needed}: fewer batches")
    return np.array(ids[:needed], np.int32)


def _save_checkpoint(folder, made, out, carried):
    """config.json and safetensors of whichever family has such models, and the tokenizer."""
    del carried  # a published model has none
    before = sealed.read_json(folder / "config.json")
    family = family_of(folder, sparse=made.model.experts is not None)
    interop.save(out, made.model, made.params, family)
    kept = {name: before[name] for name in OF_TEXT if name in before}
    written = sealed.read_json(out / "config.json")
    (out / "config.json").write_text(json.dumps(kept | written, indent=2, sort_keys=True) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, out / name)


def family_of(folder: pathlib.Path, sparse: bool) -> str:
    """Of what is made of a published model: its own, or the one that is the same but for experts.

    Raises:
      UserError: if there is none.
    """
    family = sealed.read_json(folder / "config.json")["model_type"]
    if interop.FAMILIES[family].experts == sparse:
        return family
    schema.one_of("the family of a model to be adapted so", family, TWINS)
    return TWINS[family]


def dense(folder: pathlib.Path, first: pathlib.Path) -> Trained:
    """Another parent of experts.

    Raises:
      UserError: if its tokenizer is another than that of the first.
    """
    schema.require(
        _tokenizer(folder) == _tokenizer(first),
        f"--parents has {folder}, whose tokenizer is another than that of {first}: their ids mean"
        " other texts",
    )
    if opened.published(folder):
        return Trained(*interop.load(folder), {})
    return trained(runs.load_run(folder))


def _tokenizer(folder):
    """What tells the tokenizer of a run, or of a published checkpoint, from others."""
    if opened.published(folder):
        return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return sealed.read_json(folder / "data.json")["sha256"].get("tokenizer.json")
