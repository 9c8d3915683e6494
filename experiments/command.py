"""What every experiment does with its command line."""

import contextlib
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

flags.disclaim_key_flags()  # --config belongs to who asks for it, and stands in its --help


def config(default: str, meaning: str):
    """Defines --config and its overrides, --config.a.b=c."""
    with _in_one_line():  # the default is read, and overridden, right here
        return config_flags.DEFINE_config_file("config", default, meaning)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls main()."""
    app.run(lambda argv: main(), flags_parser=_parse)


def _parse(argv):
    logging.set_verbosity(logging.WARNING)
    with _in_one_line():
        program, *unexpected = app.parse_flags_with_usage(argv)
    if unexpected:
        sys.exit(f"unexpected arguments {unexpected}: overrides look like --config.a.b=c")
    return [program]


@contextlib.contextmanager
def _in_one_line():
    """An unknown field is a line on stderr and not a traceback."""
    try:
        yield
    except AttributeError as error:  # ml_collections' own, unless the config file has a mistake
        if not any(argument.startswith("--config.") for argument in sys.argv):
            raise
        said = str(error).strip("\"'").replace("\\'", "'").replace("\\n", " ")
        sys.exit(f"an override names a field that the config does not have: {said}")
