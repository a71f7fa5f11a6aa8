"""A small JSONL corpus of notes with codes, and what can be wrong with such notes and with a trained model of codes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from camopd_jax.coding import saved
from camopd_jax.models.encoder import EncoderConfig
from camopd_jax.probias import chunks, graph, model
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.labels import Labels
from camopd_jax.probias.model import ModelConfig

CODES = ("A01.0", "E11.9", "I10", "J45.901", "K35.80", "N17.9")
WORDS = ("typhoid", "diabetes", "hypertension", "asthma", "appendicitis", "kidney")


def rows(dev: int = 0, test: int = 0, train: int = 0) -> list[dict]:
    """Notes, of which codes and texts of a split are shifted by so many places."""
    lines = []
    for split, count, shift in (("train", 24, train), ("dev", 8, dev), ("test", 8, test)):
        for i in range(count):
            chosen = sorted({0, i % 2, (i * i) % 5, i % 6})
            lines.append({
                "id": f"{split}-{i}", "patient": f"{split}-{i}", "split": split,
                "codes": [CODES[(c + shift) % 6] for c in chosen],
                "text": " ".join(["The patient has", *(WORDS[c] for c in chosen), *(["words"] * shift)]),
            })  # fmt: skip
    return lines


def write(file: Path, lines: list[dict]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def build(home: Path) -> None:
    """Make files with one thing wrong each."""
    good = rows()
    for name, lines in {
        "icd.jsonl": good,
        "icd_unsplit.jsonl": [{k: v for k, v in row.items() if k != "split"} for row in good],
        "icd_two_spellings.jsonl": [*good, good[0] | {"id": "last", "codes": ["E119"]}],
        "icd_dot.jsonl": [good[0] | {"codes": ["E1.19"]}, *good[1:]],
        "icd_other_codes.jsonl": [row | {"codes": ["Z99.2"]} if row["split"] == "dev" else row for row in good],
        "icd_no_dev.jsonl": [row for row in good if row["split"] != "dev"],
        "icd_one_patient.jsonl": [row | {"patient": "7"} for row in good],
        "icd_codes_text.jsonl": [good[0] | {"codes": "I10"}, *good[1:]],
        "icd_no_text.jsonl": [good[0], {"id": "2"}],
        "icd_descriptions.jsonl": [{"code": "I10", "description": "High blood pressure."}],
    }.items():
        write(home / name, lines)
    (home / "icd_latin1.jsonl").write_bytes('{"id": "1", "text": "M\xfcdigkeit", "codes": ["I10"]}\n'.encode("latin1"))
    (home / "mimic").mkdir()
    (home / "caml").mkdir()
    (home / "note.txt").write_text("The patient has fever.\n")
    (home / "page.html").write_text("The patient has fever.\n")
    (home / "blank.txt").write_text(" \n")
    (home / "latin1.txt").write_bytes("M\xfcdigkeit und Fieber\n".encode("latin1"))
    _exports(home)


def export(directory: Path) -> None:
    """A model of codes as a run exports it, of which all weights are 0."""
    tokenizer = chunks.train_tokenizer(WORDS, 200)  # each word is one token
    text = EncoderConfig(
        "bert", len(tokenizer), 8, 8, 1, 2, max_positions=34, first_position=0, types=1, norm_eps=1e-12
    )  # fmt: skip
    labels = Labels(CODES, np.array([20, 20, 20, 3, 3, 3], np.int32), WORDS)
    made = graph.of_training([np.arange(6)] * 3, labels.frequency_C, 10)
    cfg = ModelConfig(
        text=text, codes=6, described=8, width=8, heads=2, mlp_width=8, direction="directed", bias="bucket",
        bias_scale=1.0, gate=False, queries="described", dropout=0.1, code_block=6, rare_block=3, remat=False,
    )  # fmt: skip
    read = SimpleNamespace(
        cfg=cfg, chunking=Chunking(32, 16, 2), config=SimpleNamespace(precision="float32"), labels=labels,
        tokenizer=tokenizer,
    )  # fmt: skip
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), model.split(cfg)[1])
    coder = SimpleNamespace(codes=model.codes_of(cfg, made, np.zeros((6, 8), np.float32)))
    judged = SimpleNamespace(threshold_C=np.full(6, 0.5, np.float32), temperature=1.0)
    saved.export(directory, read, coder, params, judged, True)


def _exports(home: Path) -> None:
    export(home / "coded")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(home / "coded", home / name))

    def about(name: str, change) -> None:
        file = copy(name) / saved.ABOUT
        found = json.loads(file.read_text())
        change(found)
        file.write_text(json.dumps(found))

    weights = copy("coded_cut") / saved.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    (copy("coded_no_codes") / saved.CODES).unlink()
    (copy("coded_json") / saved.ABOUT).write_text('{"model":')
    (copy("coded_list") / saved.ABOUT).write_text("[]")
    (copy("coded_tokenizer") / "tokenizer.json").write_text("{")
    about("coded_wide", lambda found: found["model"].update(width=16))
    about("coded_labels", lambda found: found["labels"].pop())
    about("coded_thresholds", lambda found: found["threshold"].pop())
    about("coded_temperature", lambda found: found.update(temperature=0))
    about("coded_no_key", lambda found: found.pop("chunking"))
