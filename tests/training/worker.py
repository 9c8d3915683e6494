"""One of several processes that train the toy run together; started by test_processes.

python -m tests.training.worker <processes> <index> <port> (<workdir> <data>x<expert> <seeds>)*

Of several seeds, with a comma between them, each process takes its own.
"""

import pathlib
import sys

from absl import flags

from experiments import train
from moe.data import batches, prepare
from moe.training import loop
from tests.training import toys


def watched(train_batch):
    """Says which rows of its first batch this process reads."""

    def watch(*args, numbers, **kwargs):
        if not seen:
            print("rows", *numbers)
            seen.append(True)
        return train_batch(*args, numbers=numbers, **kwargs)

    seen = []
    return watch


def main(processes, index, port, *runs):
    """Joins the others, trains in a workdir on a mesh, prints the test loss, and so on."""
    place = (
        f"--coordinator=localhost:{port}",
        f"--num_processes={processes}",
        f"--process_id={index}",
    )
    flags.FLAGS(["worker", "--distributed", *place])
    train.join()
    prepare.prepare = lambda _: toys.data()
    batches.train_batch = watched(batches.train_batch)
    for workdir, mesh, seeds in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        data, expert = map(int, mesh.split("x"))
        seed = int(seeds.split(",")[int(index)])
        sections = {"mesh": {"data": data, "expert": expert}, "train": {"seed": seed}}
        result = loop.train(toys.run_config(**sections), pathlib.Path(workdir))
        print("test_nll", result["test_nll"])


if __name__ == "__main__":
    main(*sys.argv[1:])
