"""Checkpoints by orbax: the training state, and the seconds that it took.

The last two are kept, and a damaged one is left out in favour of the one before it (`checksums`).
"""

import contextlib
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from orbax.checkpoint.experimental import v1 as orbax

from moe import legacy, paths
from moe.errors import NotFiniteError, UserError
from moe.training import checksums, divergence, folders, processes, saving
from moe.training.step import State

_PARAMETERS = re.compile("^params/")

T = TypeVar("T")
KEPT = 2  # checkpoints, so that there is one to go back to
ATTEMPTS = 3  # at a checkpoint that its run replaces while it is read
NONE = -1
ALL_DAMAGED = -2


class Checkpoints:
    """The last checkpoints of a run: the training state and the seconds it took."""

    def __init__(self, workdir: pathlib.Path, step: int | None = None):
        self._workdir = workdir
        self._root = (workdir / "checkpoints").resolve()
        self._checked = step  # what `latest` found, or is to be taken for it
        self._writer: orbax.training.Checkpointer | None = None
        self._claimed = False  # by the run whose checkpoints they are

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint that is what was saved, None if there is none at all.

        Those that are not are named on stderr.

        Raises:
          UserError: if none of them is, in every process.
        """
        if self._checked is None:
            self._checked = int(processes.first_says(self._last_sound))
        if self._checked == ALL_DAMAGED:
            raise UserError(
                f"no checkpoint in {self._root} is what was saved, or none is left: bring one back"
                " from a copy, or start over in another workdir"
            )
        return None if self._checked == NONE else self._checked

    def _last_sound(self):
        for _ in range(ATTEMPTS):
            steps = folders.steps_in(self._workdir)
            for step in steps:
                said = checksums.damage(self._workdir, step)
                if not said:
                    return step
                if step in folders.steps_in(self._workdir):  # else its run has replaced it
                    print(f"the checkpoint of step {step} is left out: {said}", file=sys.stderr)
            if steps == folders.steps_in(self._workdir):
                break
        return ALL_DAMAGED if steps or checksums.any_of(self._workdir) else NONE

    def claim(self) -> None:
        """Makes a run's folder what it was at its last sound checkpoint.

        Damaged checkpoints are moved to `damaged/`, since the run will save these steps again.

        Raises:
          UserError: if all are damaged, or what lies beside them is.
        """
        self._claimed = True
        sound = self.latest
        if sound is None:
            return
        checksums.check_beside(self._workdir, sound)
        processes.barrier("checkpoints were looked at")
        if jax.process_index() == 0:
            checksums.cut_metrics(self._workdir, sound)
            for step in folders.steps_in(self._workdir):
                if step > sound or (step < sound and checksums.damage(self._workdir, step)):
                    folders.set_aside(self._workdir, step)
        processes.barrier("damaged checkpoints were moved")

    def save(self, step: int, state: State, seconds: float) -> None:
        """Saves, unless this step is already saved.

        Raises:
          NotFiniteError: if the state holds NaN or infinity; the last checkpoint stays.
        """
        if self.latest != step:
            self._require_finite(step, state)
            about = {"seconds": seconds}
            if jax.process_index() == 0:
                checksums.forget(self._workdir, step)  # of a damaged one with this number
            try:
                with saving.options():
                    self._opened().save(step, state._asdict(), force=True, custom_metadata=about)
                if jax.process_index() == 0:
                    checksums.write(self._workdir, step)
            except (OSError, ValueError, RuntimeError) as error:  # the library's, or the disk's
                self._writer = None  # it would raise the same once more when it is closed
                if processes.of_another(error):
                    raise
                (first, *_) = str(error).splitlines() or [type(error).__name__]
                raise UserError(
                    f"the checkpoint of step {step} could not be written: {first}. Make room, or"
                    f" mend the disk; then the same command goes on: {self._stays()}"
                ) from error
            processes.barrier(f"checkpoint {step} was saved")
            self._checked = step

    def _opened(self):
        """What writes; it reads all that is there, so that damage must have been moved away."""
        if self._writer is None:
            latest = orbax.training.preservation_policies.LatestN(n=KEPT)
            self._writer = orbax.training.Checkpointer(str(self._root), preservation_policy=latest)
        return self._writer

    @property
    def _folder(self):
        """Of the latest checkpoint."""
        return self._root / str(self.latest)

    def parameters(self, *others: str) -> dict[str, jax.ShapeDtypeStruct]:
        """What the latest checkpoint holds of parameters, router state and `others`, by path.

        Raises:
          UserError: if there is no checkpoint.
        """
        if self.latest is None:
            raise UserError(f"{self._root} holds no checkpoint yet")
        return {
            _PARAMETERS.sub("", path): jax.ShapeDtypeStruct(x.shape, x.dtype)
            for path, x in self._saved().items()
            if path.partition("/")[0] in ("params", "router_state", *others)
        }

    def load_parameters(self, wanted: dict[str, jax.sharding.Sharding]) -> dict[str, jax.Array]:
        """Some of the parameters of the latest checkpoint; nothing else is read.

        Args:
          wanted: the paths, as `parameters` gives them, and how each array is to lie.
        """
        templates = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[own])
            for path, x in self._saved().items()
            if (own := _PARAMETERS.sub("", path)) in wanted
        }
        return {_PARAMETERS.sub("", path): x for path, x in self._load(templates).items()}

    def restore(self, template: State) -> tuple[State, float] | None:
        """(state, seconds) of the latest checkpoint, as the template's shapes lie, or None.

        Raises:
          UserError: if the checkpoint is of another structure, as after a change of the code.
        """
        if self.latest is None:
            return None
        with self._named():
            found = self._restore(template)
        if self._claimed and jax.process_index() == 0 and not checksums.any_of(self._workdir):
            assert self.latest is not None
            checksums.write(self._workdir, self.latest, so_far=False)  # it was read: it is believed
        return found

    @contextlib.contextmanager
    def _named(self):
        """Whatever goes wrong in reading says where."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if processes.of_another(error):
                raise
            (first, *_) = str(error).splitlines() or [""]
            raise UserError(
                f"{self._folder} cannot be read ({type(error).__name__}: {first}): bring it back"
                " from a copy, or remove it; the run then goes on from the one before, if any"
            ) from error

    def _restore(self, template):
        wanted = paths.named(template)
        saved = _shapes(self._saved())
        if saved != _shapes(wanted):
            raise UserError(
                f"{self._folder} was saved by other code: it has"
                f" {_listed(saved - _shapes(wanted))} and lacks"
                f" {_listed(_shapes(wanted) - saved)}. Start over in another workdir"
            )
        loaded = self._load(wanted)
        state = jax.tree_util.tree_map_with_path(lambda path, _: loaded[paths.name(path)], template)
        if int(state.step) != self.latest:
            raise UserError(
                f"{self._folder} holds the state of step {int(state.step)}: give the folder its"
                " name back"
            )
        about = orbax.metadata(self._folder).custom_metadata
        return state, about["seconds"]

    def _saved(self):
        """What is known of every array of the latest checkpoint, by its path of today."""
        saved = paths.named(orbax.metadata(self._folder).metadata)
        return {legacy.saved_path(path): x for path, x in saved.items()}

    def _load(self, wanted):
        """Arrays of the latest checkpoint, by path; what is not wanted is not read.

        Args:
          wanted: arrays, or shapes with shardings, by path.
        """
        if not wanted:
            return {}

        def template(path: tuple, _: Any) -> Any:
            return wanted.get(legacy.saved_path(paths.name(path)))

        saved = orbax.metadata(self._folder).metadata
        context = orbax.Context()
        context.pytree.loading.partial_load = True
        with context:
            parts = paths.pruned(jax.tree_util.tree_map_with_path(template, saved))
            loaded = paths.named(orbax.load(self._folder, parts))
        return {legacy.saved_path(path): x for path, x in loaded.items()}

    def _require_finite(self, step, state):
        bad = divergence.not_finite(state)
        if bad:
            more = f" and {len(bad) - 1} arrays more" if len(bad) > 1 else ""
            raise NotFiniteError(
                f"step {step}: state{bad[0]}{more} are not finite, so the state was not saved;"
                f" {self._stays()}."
                " Lower optimizer.learning_rate, or raise optimizer.warmup_steps, in a new workdir"
            )

    def _stays(self):
        """What there is to go back to."""
        if self.latest is None:
            return "there is no earlier checkpoint"
        return f"the checkpoint of step {self.latest} is sound and stays"

    def close(self) -> None:
        """Waits for writes to end."""
        if self._writer is not None:
            self._writer.close()


def reading(workdir: pathlib.Path, read: Callable[[Checkpoints], T], step: int | None = None) -> T:
    """What is read from the last checkpoint of a run, or another, while it may still train.

    It may replace the checkpoint meanwhile: then the new one is read.

    Raises:
      UserError: if that happens again and again.
    """
    for _ in range(ATTEMPTS):
        with contextlib.closing(Checkpoints(workdir, step)) as checkpoints:
            number = checkpoints.latest
            try:
                return read(checkpoints)
            except Exception:
                if processes.several():  # the others may not have failed: none tries again alone
                    raise
                with contextlib.closing(Checkpoints(workdir, step)) as again:
                    if again.latest == number:
                        raise
    raise UserError(f"{workdir} replaced its checkpoint {ATTEMPTS} times while it was read")


def _shapes(arrays):
    """Paths with shapes."""
    return {(path, tuple(x.shape)) for path, x in arrays.items()}


def _listed(arrays, most=6):
    """Some arrays for an error."""
    found = [f"{path} {shape}" for path, shape in sorted(arrays)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more or "nothing more"
