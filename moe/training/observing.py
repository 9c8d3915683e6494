"""What the loop watches a run with: a clock, its evaluators and a log."""

import time
from typing import Any

import jax
import numpy as np

from moe import evaluation
from moe.data.prepared import Prepared
from moe.errors import NotFiniteError
from moe.evaluation import routing
from moe.training import divergence, metrics, processes, step
from moe.training.config import RunConfig


class Clock:
    """Seconds of training, without compilation, evaluation and checkpoints.

    A step that is done again, after a kill or a rewind, counts once.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Goes on counting."""
        self._since = time.perf_counter()

    def stop(self, state: step.State) -> float:
        """Waits for the device, stops counting, returns all seconds so far."""
        jax.block_until_ready(state)
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None
        return self.seconds


class Watch:
    """Logs the steps of a run, and calls its evaluators at their intervals and at the end."""

    def __init__(
        self,
        run: RunConfig,
        data: Prepared,
        name: str,
        writer: metrics.Writer,
        clock: Clock,
        first: int,
    ):
        self.clock = clock
        self.shown: dict[str, str] = {}  # beside the progress bar
        self._run = run
        self._name = name
        self._log = Log(writer, run)
        self._intervals = run.train.evaluator_intervals()
        self._evaluators = {
            evaluator: evaluation.EVALUATORS[evaluator](run, data, "validation")
            for evaluator in self._intervals
        }
        self._writer = writer
        self._late: tuple[int, dict] | None = None  # a step that was not looked at yet
        self._skipped = int(
            processes.first_says(lambda: divergence.last_in_a_row(writer.read(), first))
        )

    def flush(self) -> None:
        """Makes sure that the last step did not diverge, and writes its record."""
        self.check()
        self._writer.flush()

    def check(self) -> None:
        """Looks at the last step's loss and gradient, for which it waits.

        Raises:
          divergence.Diverged: see `divergence.look`.
        """
        if self._late is None:
            return
        t = self._run.train
        found = divergence.look(self._name, *self._late, t.on_divergence, t.largest_grad_norm)
        self._skipped = 0 if found is None else self._skipped + 1
        if found is not None:
            self._log.write(found)
            divergence.check_skipped(self._name, found["step"], self._skipped)
        self._late = None

    def before_step(self, n: int, state: step.State) -> None:
        """Shows the state before step n to the evaluators that will look after it."""
        due = self._due(n)
        if due:
            self.clock.stop(state)
            for name in due:
                self._evaluators[name].before_step(state)
            self.clock.start()

    def after_step(self, n: int, state: step.State, measured: dict) -> None:
        """Logs what was measured in step n, and what evaluators find after it.

        The step before it is ready by now, and it is looked at whether that diverged.
        """
        self.check()
        self._late = n, {key: measured[key] for key in ("loss", "grad_norm")}
        if n % self._run.train.log_every == 0:
            self._log.write({"step": n, "split": "train", **measured})
            self.shown |= self._log.shown
        due = self._due(n)
        if due:
            self.check()
            self._evaluate(n, state, due)

    def _due(self, n):
        last = n == self._run.train.steps
        return [name for name, every in self._intervals.items() if last or n % every == 0]

    def _evaluate(self, n, state, due):
        seconds = self.clock.stop(state)
        found: dict[str, Any] = {}
        for name in due:
            found |= self._evaluators[name].evaluate(state)
        self._log.write({"step": n, "split": "validation", "seconds": seconds, **found})
        if "nll" in found:
            self._check(n, float(found["nll"]))
            self.shown["validation"] = f"{float(found['nll']):.3f}"
        tokens = n * self._run.train.batch_size * self._run.train.seq_len
        self.shown["tokens/s"] = f"{tokens / seconds:,.0f}"
        self.clock.start()

    def _check(self, n, nll):
        if not np.isfinite(nll):
            raise NotFiniteError(
                f"{self._name}: validation loss is {nll} at step {n}. Lower"
                " optimizer.learning_rate, or raise optimizer.warmup_steps, in a new workdir"
            )


class Log:
    """Writes records, and looks at those of training one write later, when they are ready."""

    def __init__(self, writer: metrics.Writer, run: RunConfig):
        self.shown: dict[str, str] = {}  # beside the progress bar
        self._writer = writer
        experts = run.model.experts
        self._monitor = None
        if experts is not None:
            self._monitor = routing.CollapseMonitor(run.train.collapse_steps, experts.routing)
            for record in writer.read():  # so that a run that goes on sees what it would have seen
                self._look(record)

    def _look(self, record):
        if self._monitor and record["split"] == "train":
            self._monitor.update(record)

    def write(self, record: dict) -> None:
        """Takes one record."""
        late = self._writer.write(record)
        if late and late["split"] == "train":
            self.shown["train"] = f"{float(late['nll']):.3f}"
            self._look(late)
