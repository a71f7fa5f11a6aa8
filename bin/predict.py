"""Code clinical notes: python bin/predict.py --model=DIR NOTE.txt [NOTE.txt ...]

DIR is the export of a run of configs/icd.py, or the run itself. Prints the codes of each note with probability, title
and the passages that the model's attention points to, and writes NOTE.html beside it (or to --out), for a second look.
A .jsonl file (objects with id and text) is coded line by line into OUT.jsonl, without passages.
The codes are suggestions of a statistical model: they are no coding of a patient without a coder's own look.
"""

import json
import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "The export of a run of configs/icd.py, or its workdir.", flag_values=values)
    flags.DEFINE_string("out", None, "Directory for the pages (default: beside each note).", flag_values=values)
    flags.DEFINE_integer("others", 5, "Codes below their threshold that are shown too, at most.", flag_values=values)
    flags.DEFINE_integer("passages", 3, "Of each code, at most.", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "Notes of a .jsonl file that are coded together.", flag_values=values)

    def run(rest: list[str]) -> None:
        if values.model is None:
            raise ValueError("--model is missing: the export of a run, such as --model=runs/icd-small/export")
        if not rest:
            raise ValueError("no note is named: python bin/predict.py --model=DIR NOTE.txt")
        for name, least in (("others", 0), ("passages", 0), ("batch_size", 1)):
            if values[name].value < least:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, {least} or more")
        _predict(values, [Path(name).expanduser() for name in rest])

    return cli.main(argv, values, __doc__, run)


def _predict(values: flags.FlagValues, files: list[Path]) -> None:
    from camopd_jax import shown  # slow, with what follows: not before the arguments are known to be right
    from camopd_jax.coding import predicting, saved
    from camopd_jax.probias import cases, view

    given = Path(values.model).expanduser()
    directory = given / "export" if (given / "export" / saved.ABOUT).is_file() else given
    texts = {file: list(cases.texts_of(file)) if file.suffix == ".jsonl" else cases.text_of(file) for file in files}
    pages = _pages(files, None if values.out is None else Path(values.out).expanduser())
    predictor = predicting.Predictor(saved.load(directory))
    for file, text in texts.items():
        page = pages[file]
        page.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jsonl":
            _many(predictor, file, text, page, values.batch_size)
            continue
        found = predictor.code(text, values.others, values.passages)
        cut = f", of which the first {found.read:,} were read" if found.read < len(text) else ""
        print(f"{shown.line(str(file))}: {len(text):,} characters{cut}")
        print(view.table(text, found.predictions))
        page.write_text(
            view.html(text, found.predictions, name=file.name, model=str(directory), read=found.read), encoding="utf-8"
        )
        print(f"To look at: {page}\n", flush=True)


def _pages(files: list[Path], out: Path | None) -> dict[Path, Path]:
    """Where what is found of each file is written.

    Raises:
      ValueError: if that is the place of a note, of what is found of another file, or where nothing can be written.
    """
    from camopd_jax import workdirs

    found: dict[Path, Path] = {}
    for file in dict.fromkeys(files):
        page = (out or file.parent) / (f"{file.stem}.codes.jsonl" if file.suffix == ".jsonl" else f"{file.stem}.html")
        workdirs.check_writable(f"--out={page.parent}", page.parent)
        if page in files or page in found.values():
            raise ValueError(f"{file}: {page} is a note, or the page of another one; give another name, or --out=DIR")
        found[file] = page
    return found


def _many(predictor, file: Path, rows: list[tuple[str, str]], out: Path, batch_size: int) -> None:
    from tqdm import tqdm

    found = predictor.many([text for _, text in rows], batch_size)
    part = out.with_name(f"{out.name}.part")
    with part.open("w", encoding="utf-8") as lines:
        for (name, _), codes in tqdm(zip(rows, found, strict=True), total=len(rows), desc=file.name, unit="note"):
            row = {"id": name, "codes": [{"code": p.code, "probability": round(p.probability, 4)} for p in codes]}
            lines.write(json.dumps(row) + "\n")
    part.replace(out)
    print(f"{len(rows):,} notes: {out}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
