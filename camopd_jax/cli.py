"""What the programs in bin/ share: flags, one line for a mistake, exit codes.

0 done; 1 a fault in the middle, such as a full disk; 2 a mistake in arguments, files or environment; 128 + the
signal's number where one stopped the run.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict

from camopd_jax import shown

# What a library says, and the same with what is allowed.
TRANSLATED = (
    (r"Failed to parse '.*' as a ConfigDict: .*", "allowed is one of its keys: --config.SECTION.KEY=VALUE"),
    (r"invalid literal for int\(\) with base 10: .*", "allowed is a whole number"),
    (r"could not convert string to float: .*", "allowed is a number"),
    (r"module '\w+' has no attribute 'get_config'", "allowed is a Python file that defines get_config()"),
    (r"\[Errno \d+\] Is a directory: '(.*)'", r"'\1' is a directory; allowed is a file"),
)


def main(argv: list[str], values: flags.FlagValues, usage: str, run: Callable[[list[str]], None]) -> int:
    """Parse `argv` into `values`, call run(arguments that are no flags), and return the exit code.

    --debug is defined here: with it, errors keep their traceback.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    handler = logging.StreamHandler()
    handler.setFormatter(shown.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook, sys.unraisablehook = shown.excepthook, shown.unraisablehook
    # Orbax notes each step that it saves without a score, and each error that it then raises, with its traceback.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # notes what failed beside the error that is raised
    logging.getLogger("camopd_jax").setLevel(logging.INFO)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(usage + "\n" + values.get_help())
        return 0
    debug = "--debug" in argv
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        return _fail(error, 2, debug)
    except Exception as error:  # a config file is a program of the user's: it can raise anything
        return _fail(error, 2, debug, "--config: ")
    try:
        run(rest)
        return 0
    except (ValueError, OSError) as error:
        return _fail(error, 2, debug)
    except FloatingPointError as error:
        return _fail(error, 1, debug)
    except KeyboardInterrupt as error:
        _leave(error, 128 + signal.SIGINT)
        return 128 + signal.SIGINT
    except Exception as error:
        from camopd_jax import hosts, loop, resume  # slow to import, and wanted by now

        if isinstance(error, loop.Interrupted):
            print(f"{error}. The same command goes on from there.", flush=True)
            return 128 + error.signum
        if isinstance(error, resume.Fault):
            return _fail(error, 1, debug)
        if "Unable to initialize backend" in str(error):  # a plain RuntimeError of JAX
            return _fail(error, 2, debug)
        if debug or type(error).__name__ != "JaxRuntimeError":
            _leave(error, 1, traceback=True)
            raise
        return _fail(hosts.explained(error), 1, debug)


def config_of(values: flags.FlagValues) -> ConfigDict:
    """The config that was given.

    Raises:
      ValueError: if none was, or it is no config of a run.
    """
    config = values.config
    if config is None:
        raise ValueError("--config is missing: for example --config=configs/medical.py")
    if not (hasattr(config, "name") and hasattr(config, "preset")):
        raise ValueError("--config: get_config() must return an ml_collections.ConfigDict with name and preset")
    return config


def _fail(error: Exception, code: int, debug: bool, where: str = "") -> int:
    if debug:
        _leave(error, code, traceback=True)
        raise error
    print(f"error: {where}{one_line(error)}", file=sys.stderr)
    _leave(error, code)
    return code


def _leave(error: BaseException, code: int, traceback: bool = False) -> None:
    """End at once, where other processes of the run would not come to an end with this one."""
    if "jax" in sys.modules:
        from camopd_jax import hosts  # slow, but where nothing has used JAX there is nothing to end

        told = isinstance(error.__cause__, hosts.Told)  # the others know of what it comes from
        hosts.leave(error.__cause__ if told else error, code, traceback)


def one_line(error: Exception) -> str:
    """The message alone, for a terminal: the config library wraps errors, some in the text of a traceback."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback" in text:
        text = text.rstrip().rpartition("\n")[2].partition("Error: ")[2] or text
    if isinstance(error, KeyError) and re.fullmatch(r"'\w+'", text):
        text = f"there is no key {text}"
    text = text.rpartition("earlier failure to load:")[2].rpartition("Attempted [Relative path]:")[2]
    text = " ".join(text.replace("\\n", " ").replace("\\'", "'").split())
    for pattern, plain in TRANSLATED:
        text = re.sub(pattern, plain, text)
    return shown.line(text)
