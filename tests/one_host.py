"""bin/train.py as one of several processes of a test, which also writes down which rows it reads and tokenises.

python tests/one_host.py FLAGS OF bin/train.py, with SEEN=FILE in the environment
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from camopd_jax import chat, hosts, sources


def remember(module, name: str, argument: int, seen: list) -> None:
    """Have a function of a module add to `seen` what it is called with."""
    function = getattr(module, name)

    def noted(*arguments, **options):
        seen.append(arguments[argument])
        return function(*arguments, **options)

    setattr(module, name, noted)


if __name__ == "__main__":
    hosts.HEARTBEAT_SECONDS = 900  # a machine that is busy with other work is no dead host
    read, tokenised = [], []
    remember(sources, "_record", 1, read)
    remember(chat, "_tokenize", 1, tokenised)
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parent.parent / "bin" / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    code = train.main(sys.argv)
    if "SEEN" in os.environ:
        Path(os.environ["SEEN"]).write_text(json.dumps({"read": read, "tokenised": tokenised}))
    sys.exit(code)
