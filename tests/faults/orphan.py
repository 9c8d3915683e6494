"""A study of two workers that wait: python -m tests.faults.orphan FOLDER."""

import os
import pathlib
import sys
import time

from experiments import workers
from moe.training import signals


def wait(index, folder):
    """Says who it is, and works until it is asked to end."""
    (pathlib.Path(folder) / f"worker_{index}").write_text(str(os.getpid()))
    with signals.asked() as stop:
        while not stop(0):
            time.sleep(0.05)


if __name__ == "__main__":
    workers.run(wait, 2, 2, sys.argv[1])
