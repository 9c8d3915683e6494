"""A study of two workers: python -m tests.faults.orphan FOLDER.

One waits to be asked to end, as training does; the other asks nobody, as what times steps does.
"""

import os
import pathlib
import sys
import time

from experiments import workers
from moe.training import signals


def wait(index, folder):
    """Says who it is, and works."""
    (pathlib.Path(folder) / f"worker_{index}").write_text(str(os.getpid()))
    workers.GRACE = 1.0
    with signals.asked() as stop:
        while index or not stop(0):
            time.sleep(0.05)


if __name__ == "__main__":
    workers.run(wait, 2, 2, sys.argv[1])
