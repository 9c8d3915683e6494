"""What every experiment does with its command line.

What a user can mend, a wrong value or a file that is not there, ends in one line on stderr and exit
code 1. --debug shows the traceback instead.
"""

import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import supervisor
from moe.errors import UserError
from moe.training import processes, signals

flags.disclaim_key_flags()  # --config belongs to who asks for it, and stands in its --help

ROOT = pathlib.Path(__file__).parents[1]
MENDED_BY_USERS = (UserError, OSError, flags.Error)
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")  # of a program by itself, as for lack of memory
flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def config(default: str, meaning: str) -> flags.FlagHolder:
    """Defines --config and its overrides, --config.a.b=c.

    A relative path that does not exist here is one in the repository.
    """
    with _in_one_line():  # the default is read, and overridden, right here
        sys.argv[:] = _with_found_config(sys.argv)
        return config_flags.DEFINE_config_file("config", _found(default), meaning)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls main()."""
    with _in_one_line():
        app.run(lambda argv: main(), flags_parser=_parse)


def _parse(argv):
    logging.set_verbosity(logging.WARNING)
    program, *unexpected = flags.FLAGS(argv)
    if unexpected:
        raise UserError(f"unexpected arguments {unexpected}: overrides look like --config.a.b=c")
    if "workdir" in flags.FLAGS:
        given = flags.FLAGS["workdir"]
        given.value = _folder(given.value, given.default)
    return [program]


def _folder(workdir, default):
    """The folder's name with ~ spelled out; an empty one is refused where that is no default."""
    if default and not workdir:
        raise UserError(f"--workdir= is empty: name a folder, or leave it out for {default}")
    path = os.path.expanduser(workdir)
    if path and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"--workdir={workdir} is a file: name a folder, which may be a new one")
    return path


def _with_found_config(argv):
    """The arguments with the config file's path as it is found."""
    found = list(argv)
    for i, argument in enumerate(argv[1:], start=1):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config") and equals:
            found[i] = f"{name}={_found(value)}"
        elif name in ("--config", "-config") and i + 1 < len(argv):
            found[i + 1] = _found(argv[i + 1])
    return found


def _found(value):
    """A config file, with what stands after its colon, here or in the repository."""
    path, colon, argument = value.partition(":")
    places = [pathlib.Path(os.path.expanduser(path)), ROOT / path]
    for place in places:
        if place.is_file():
            return f"{place}{colon}{argument}"
    raise UserError(f"--config={value}: there is no file {' or '.join(map(str, places))}")


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What a user can mend is a line on stderr and not a traceback."""
    try:
        yield
    except signals.Stopped as error:
        signals.say(f"{error}: the same command goes on from there")
        sys.exit(signals.RESUMABLE)
    except Exception as error:
        said = _said(error)
        shown = said is None or supervisor.is_on("debug", sys.argv)
        if processes.several():
            _leave(error, traceback.format_exc() if shown else said)
        if shown:
            raise
        sys.exit(said)


def _leave(error, said):
    """Ends at once: the usual way out would wait for processes that wait for this one.

    An error of JAX's runtime means that another one has ended, but for `OWN`.
    """
    code = 1
    if isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(OWN):
        code, said = signals.RESUMABLE, f"{str(error).splitlines()[0]}\n{supervisor.OTHERS}"
    print(said, file=sys.stderr, flush=True)
    sys.stdout.flush()
    supervisor.farewell()
    os._exit(code)


def _said(error):
    """The error in a line; None if it is the code's."""
    raised, error = error, _in_config(error)
    own = _frames_in_config(error)
    overridden = any(argument.startswith("--config.") for argument in sys.argv)
    if isinstance(error, AttributeError) and overridden and not own:  # ml_collections' own
        said = str(error).strip("\"'").replace("\\'", "'").replace("\\n", " ")
        return f"an override names a field that the config does not have: {said}"
    of_config = bool(own) or raised is not error
    if isinstance(error, MENDED_BY_USERS) or (of_config and isinstance(error, ValueError)):
        return str(error) or type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if own:
        return f"{own[-1].filename}, line {own[-1].lineno}: {type(error).__name__}: {error}"
    return None


def _in_config(error):
    """What was raised in a config file, of which ml_collections and absl made another error."""
    while "Error whilst parsing config file" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


def _frames_in_config(error):
    """The error's way through the config file, which is one of the arguments or the default."""
    arguments = sys.argv[1:]
    given = {one.partition("=")[2].partition(":")[0] for one in arguments} | {*arguments}
    frames = traceback.extract_tb(error.__traceback__)
    return [f for f in frames if f.name == "get_config" or f.filename in given]
