"""How orbax writes a checkpoint."""

import contextlib
from collections.abc import Iterator

import jax
from absl import logging
from orbax.checkpoint.experimental import v1 as orbax


@contextlib.contextmanager
def options() -> Iterator[None]:
    """One process writes an array whole; its devices do not share it out, which compiles slices.

    The errors of the library's threads are raised here once more, so it does not log them.
    """
    context = orbax.Context()
    context.array.saving.use_replica_parallel = jax.process_count() > 1
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        with context:
            yield
    finally:
        logging.set_verbosity(before)
