"""What the loop watches a run with: a clock, a judge of held-out text, and a log."""

import time

import jax

from moe.evaluation import routing, text
from moe.routing import assignment
from moe.training import metrics, step
from moe.training.config import RunConfig


class Clock:
    """Seconds of training, without compilation, evaluation and checkpoints."""

    def __init__(self, seconds: float):
        self.seconds, self._since = seconds, None

    def start(self) -> None:
        """Goes on counting."""
        self._since = time.perf_counter()

    def stop(self, state) -> float:
        """Waits for the device, stops counting, returns all seconds so far."""
        jax.block_until_ready(state)
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None
        return self.seconds


class Evaluator:
    """Scores states on held-out text."""

    def __init__(self, run: RunConfig, data):
        self._run, self._data = run, data
        self._eval_step = step.make_eval_step(run.model)
        self._size = {"batch_size": run.micro_batch, "seq_len": run.train.seq_len}

    def score(self, state, split: str, max_batches: int) -> text.Score:
        """On the fixed batches of a split."""
        return text.score(
            self._eval_step, state, self._data, self._run.model, split, **self._size,
            max_batches=max_batches,
        )  # fmt: skip

    def choices(self, state):
        """The experts that validation's first batch chooses, None if no token does."""
        experts = self._run.model.experts
        if experts is None or experts.routing.kind is not assignment.TopKAssignment:
            return None
        return text.choices(
            self._eval_step, state, self._data, self._run.model, **self._size,
            max_batches=self._run.train.eval_batches,
        )  # fmt: skip

    def validate(self, state, before) -> tuple[text.Score, dict]:
        """The score on validation, and what to log of it.

        Args:
          before: `choices` one step earlier.
        """
        scored = self.score(state, "validation", self._run.train.eval_batches)
        if before is None:
            return scored, scored.metrics
        same = routing.agreement(before, scored.choices, self._run.model.experts.num_experts)
        return scored, {**scored.metrics, "agreement_L": same}


class Log:
    """Writes records, and looks at those of training one write later, when they are ready."""

    def __init__(self, writer: metrics.Writer, run: RunConfig):
        self.shown = {}  # beside the progress bar
        self._writer, experts = writer, run.model.experts
        self._monitor = experts and routing.CollapseMonitor(
            run.train.collapse_steps, experts.routing
        )

    def write(self, record: dict) -> None:
        """Takes one record."""
        late = self._writer.write(record)
        if late and late["split"] == "train":
            self.shown["train"] = f"{float(late['nll']):.3f}"
            if self._monitor:
                self._monitor.update(late)
