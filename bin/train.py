"""Train as a config says: python bin/train.py --config=configs/medical.py

The same command again goes on where it stopped. Values can be set on the command line, as in
--config.rollout.batch_size=16. Presets follow the file: --config=configs/medical.py:tiny.
"""

import logging
import os
import signal
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional preset: FILE.py[:PRESET].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept (default: runs/NAME-PRESET).")
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def main(argv: list[str]) -> int:
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(__doc__ + "\n" + flags.FLAGS.main_module_help())
        return 0
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        if _CONFIG.value is None:
            raise ValueError("--config is missing: for example --config=configs/medical.py")
        config = _CONFIG.value
        workdir = Path(_WORKDIR.value or f"runs/{config.name}-{config.preset}")
    except (flags.Error, ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        return _fail(error, 2, "--debug" in argv)
    try:
        return _run(config, workdir)
    except (ValueError, OSError) as error:
        return _fail(error, 2, _DEBUG.value)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(config, workdir: Path) -> int:
    import jax  # slow: not before the arguments are known to be right

    from camopd_jax import loop, recover

    try:
        recover.run(config, workdir)
    except loop.Interrupted as stop:
        print(f"{stop}. The same command goes on from there.", flush=True)
        return 128 + stop.signum
    except FloatingPointError as error:
        advice = f"what was saved in {workdir} is whole; try a smaller learning rate"
        return _fail(FloatingPointError(f"{error}; {advice}"), 1, _DEBUG.value)
    except jax.errors.JaxRuntimeError as error:
        return _fail(error, 1, _DEBUG.value)
    return 0


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    print(f"error: {_one_line(error)}", file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    """The message alone: the config library wraps an error of a config file in the text of a traceback."""
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    return " ".join(text.rpartition("ValueError: ")[2].split()) if "Traceback" in text else " ".join(text.split())


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax notes each step that it saves without a score
    logging.getLogger("camopd_jax").setLevel(logging.INFO)
    sys.exit(main(sys.argv))
