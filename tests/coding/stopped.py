"""bin/train.py that sends itself a signal: python tests/coding/stopped.py SIGNAL POINT CALL FLAGS

before call number CALL of what POINT names.
"""

import functools
import importlib.util
import os
import signal
import sys
from pathlib import Path

from camopd_jax import metrics
from camopd_jax.coding import coder, outcome

POINTS = {
    "step": (metrics.Progress, "show"),  # the step is in the log, and neither evaluated nor saved
    "evaluation": (coder.Coder, "split"),
    "tables": (outcome, "write"),  # the export is written, evaluation.json is not
}


def main(signum: int, point: str, call: int, argv: list[str]) -> int:
    owner, name = POINTS[point]
    real, calls = getattr(owner, name), [0]

    @functools.wraps(real)
    def counted(*arguments, **options):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signum)
        return real(*arguments, **options)

    setattr(owner, name, counted)
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parents[2] / "bin" / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    return train.main(["bin/train.py", *argv])


if __name__ == "__main__":
    sys.exit(main(signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
