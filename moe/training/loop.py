"""The training loop: batch, step, and now and then a log line, an evaluation, a checkpoint."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from moe import compat, evaluation, schema, sealed, sharding
from moe.batch import Batch
from moe.data import batches, prepare
from moe.data.prepared import Prepared
from moe.dispatch import grouped
from moe.training import (
    checkpoint,
    divergence,
    files,
    folders,
    metrics,
    observing,
    processes,
    room,
    signals,
    starting,
    step,
    workdirs,
)
from moe.training.config import RunConfig


def never(step: int) -> bool:
    """Training goes on to its end."""
    del step
    return False


def train(
    run: RunConfig, workdir: pathlib.Path, name: str = "train", bar: int = 0,
    stop: Callable[[int], bool] = never,
) -> dict:  # fmt: skip
    """Trains to the last step, and writes result.json.

    It starts from the last checkpoint in the workdir; if there is none, from the run that
    `init_from` names; if it names none, from scratch.

    Args:
      run: the configuration.
      workdir: gets config.json, data.json, metrics.jsonl, checkpoints/ and result.json.
      name: what the progress bar shows.
      bar: the line of the progress bar, when several processes share a terminal.
      stop: asked after every step but the last: if true, training saves a checkpoint and stops. Of
        several processes all must say the same.

    Returns:
      The result: test loss in nats, bits per byte, router statistics, seconds of training. A
      finished run is not run again: its result is read.

    Raises:
      UserError: if the workdir was made by another config or on other data, the mesh does not
        divide the run, the data is too small for it, or another process trains in the workdir.
      NotFiniteError: if the validation loss, or the state that is to be saved, is not finite.
      signals.Stopped: if `stop` said so.
    """
    files.commit()  # of the code that is running, whatever is committed meanwhile
    done = workdir / "result.json"
    if processes.all_gather(done.exists())[0]:
        workdirs.claim(run, workdir)
        return sealed.read_json(done, "steps", "seconds")
    mesh, data = setup(run)  # a refused run leaves no trace
    if said := advice(run):
        print(said, file=sys.stderr)
    if not processes.all_gather(folders.exists(workdir))[0]:
        starting.check(run, data)
    with files.alone(workdir / "train.lock", "training in"):
        workdirs.claim(run, workdir, data)
        with sharding.on(mesh, run.mesh.zero):
            result = _train(run, workdir, data, name, bar, stop)
        if jax.process_index() == 0:
            sealed.write_json(done, result)
        processes.barrier(f"{done} was written")
    return result


def advice(run: RunConfig) -> str:
    """What would make a run faster here; "" if nothing is known."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and getattr(run.model, "dtype", "") == "bfloat16" and not compat.FAST_BFLOAT16:
        return (
            f"model.dtype='bfloat16' takes 1.2 to 1.3 times as long as 'float32' on a CPU with JAX"
            f" {jax.__version__}: use model.dtype=float32, or JAX 0.12, where it takes 0.7 to 0.8"
        )
    return ""


def setup(run: RunConfig, data: Prepared | None = None) -> tuple[Mesh, Prepared]:
    """The mesh and the data of a run.

    Args:
      data: what `prepare.prepare(run.data)` gave, if it is at hand.

    Raises:
      UserError: if it cannot be run to its end on them.
    """
    mesh = mesh_of(run)
    room.check_state(run, mesh)
    data = data or prepare.prepare(run.data)
    for split, least in (("train", run.train.batch_size), ("validation", 1), ("test", 1)):
        batches.check(data, split, run.train.seq_len, least)
    tokens = len(data.tokens["train"])
    schema.require(
        run.train.unique_tokens <= tokens,
        f"train.unique_tokens={run.train.unique_tokens} of a training split of {tokens}: lower it,"
        " set it to 0 for all, or use more text",
    )
    _check_first_batch(run, data)
    check_domains(run.model, data)
    return mesh, data


def _check_first_batch(run, data):
    """Refuses to leave out text that another run has read, and to come to it nevertheless."""
    t = run.train
    if not t.first_batch:
        return
    rows = batches.row_count(data, "train", t.seq_len)
    rows = min(rows, t.unique_tokens // t.seq_len or rows)
    last = (t.first_batch + t.steps) * t.batch_size
    schema.require(
        last <= rows,
        f"train.first_batch={t.first_batch} leaves out what another run read, but the text ends"
        f" before step {t.steps}, and begins again: {rows} rows of {last}. Lower train.steps, or"
        " set first_batch=0",
    )


def check_domains(model: Any, data: Prepared) -> None:
    """Refuses data with more domains than the router knows.

    Raises:
      UserError: with both numbers.
    """
    if not model.reads_domains:
        return
    experts = model.experts
    known = experts.routing.domains(experts)
    names = data.domain_names
    schema.require(
        len(names) <= known,
        f"experts.router={experts.router!r} has experts for {known} domains, and the data has"
        f" {len(names)}:"
        f" {', '.join(names)}",
    )


def mesh_of(run: RunConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The run's mesh over all devices, or over some.

    Raises:
      UserError: if it does not fit the devices, does not divide the run, or has no such kernel.
    """
    mesh = sharding.make_mesh(run.mesh.data, run.mesh.expert, run.mesh.model, devices)
    sharding.check(mesh, run.shared())
    grouped.check(run.mesh.implementation)
    return mesh


def _train(run, workdir, data, name, line, stop):
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        checkpoints.claim()
        while True:
            try:
                state, seconds = _go_on(run, workdir, data, name, line, stop, checkpoints)
                break
            except divergence.Diverged as error:
                if run.train.on_divergence != "rewind":
                    raise
                start = checkpoints.latest or 0
                divergence.rewind(workdir, start, error)
                print(f"{name}: step {error.step} diverged: back to {start}", file=sys.stderr)
        checkpoints.save(run.train.steps, state, seconds)
        result = evaluation.EVALUATORS[run.objective.objective.result](run, data, "test")
        found = summary(run, result.evaluate(state), seconds)
        return found | divergence.counts(workdir)


def _go_on(run, workdir, data, name, line, stop, checkpoints):
    """From the last checkpoint, or the start, to the last step."""
    resumed = checkpoints.restore(starting.shapes(run, data))
    state, seconds = resumed or (_start(run, workdir, data), 0.0)
    if not resumed and run.init_from.workdir:
        checkpoints.save(0, state, 0.0)  # the other run may be further when this one starts again
    train_step = compiled(run, state, data)
    path = workdir / "metrics.jsonl"
    known = divergence.agreed(workdir)
    with contextlib.closing(metrics.Writer(path, int(state.step))) as writer:
        clock = observing.Clock(seconds)
        watch = observing.Watch(run, data, name, writer, clock, int(state.step))
        bar = progress(run, int(state.step), name, line)
        return _loop(run, data, known, state, train_step, watch, checkpoints, bar, stop)


def _start(run, workdir, data):
    """At step 0."""
    return starting.start(run, workdir, starting.scratch(run, data), data)


def progress(run: RunConfig, first: int, name: str, line: int) -> tqdm.tqdm:
    """The progress bar over the steps that are left."""
    steps = run.train.steps
    return tqdm.trange(
        first, steps, initial=first, total=steps, desc=name, mininterval=5, position=line
    )


def _loop(run, data, rewinds, state, train_step, watch, checkpoints, bar, stop):
    """The steps that are left: batch, step, and now and then a look or a checkpoint."""
    watch.clock.start()
    for i in bar:
        n = i + 1
        watch.before_step(n, state)
        state, measured = train_step(state, batch(run, data, divergence.position(rewinds, i)))
        watch.after_step(n, state, measured)
        bar.set_postfix(watch.shown, refresh=False)
        stopped = n < run.train.steps and stop(n)
        if n % run.train.checkpoint_every == 0 or stopped:
            watch.flush()
            checkpoints.save(n, state, watch.clock.stop(state))
            watch.clock.start()
        if stopped:
            raise signals.Stopped(n)
    watch.check()
    return state, watch.clock.stop(state)


def compiled(run: RunConfig, state: step.State, data: Prepared) -> jax.stages.Compiled:
    """The training step, compiled ahead so that no compilation is timed.

    Raises:
      UserError: if no memory here holds it.
    """
    program = step.of_run(run).lower(state, batch(run, data, 0)).compile()
    room.check_step(program)
    return program


def batch(run: RunConfig, data: Prepared, i: int) -> Batch:
    """The batch of step i on the devices, a pure function of (seed, i + first_batch)."""
    source = run.source(data)

    def rows(numbers: np.ndarray) -> Batch:
        return source.train(i + run.train.first_batch, numbers)

    return sharding.shard_rows(rows, run.train.batch_size)


def summary(run: RunConfig, found: dict, seconds: float) -> dict:
    """result.json: what the objective's evaluator found on the test split, and what it took."""
    parts = {k: metrics.plain(v) if k == "test" else v for k, v in found.items()}
    if "test" not in parts:  # the evaluator's metrics are all there is
        parts = {"test_nll": float(found["nll"]), "test": metrics.plain(found)}
    return {"steps": run.train.steps, "seconds": seconds, "machine": files.machine(), **parts}
