"""One of several processes that train the toy run together; started by test_processes.

python -m tests.training.worker <processes> <index> <port> <workdir> <data>x<expert>
"""

import pathlib
import sys

from absl import flags

from experiments import train
from moe.data import prepare
from moe.training import loop
from tests.training import toys


def main(processes, index, port, workdir, mesh):
    """Joins the others, trains, prints the test loss."""
    place = (
        f"--coordinator=localhost:{port}",
        f"--num_processes={processes}",
        f"--process_id={index}",
    )
    flags.FLAGS(["worker", "--distributed", *place])
    train.join()
    data, expert = map(int, mesh.split("x"))
    prepare.prepare = lambda _: toys.data()
    result = loop.train(
        toys.run_config(mesh={"data": data, "expert": expert}), pathlib.Path(workdir)
    )
    print("test_nll", result["test_nll"])


if __name__ == "__main__":
    main(*sys.argv[1:])
