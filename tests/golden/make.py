"""Reference logits from transformers' PyTorch classes: small random models and what they answer.

Run by hand, in an environment of its own that has torch (the project and its tests do not need it):

    pip install torch==2.13.0 transformers safetensors numpy
    python tests/golden/make.py

Writes one directory per model beside this file (config.json, model.safetensors), and logits.npz: for each model the
token sequences and the logits [tokens, vocabulary] after each token, and for some the logits at a few positions of a
sequence of 32,768 tokens, which LONG_SEED draws again (`long_tokens`).
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
VOCAB, LONG, LONG_SEED = 300, 32_768, 7
LONG_POSITIONS = (0, 8191, 8192, 20_000, 32_767)
SIZES = dict(vocab_size=VOCAB, num_hidden_layers=2, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, pad_token_id=1)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=64)
MODELS = {  # name -> (class prefix, config)
    "llama": ("Llama", dict(
        SIZES, hidden_size=48, intermediate_size=64, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=8192, tie_word_embeddings=True, rope_parameters=dict(rope_theta=1e5))),
    "llama3": ("Llama", dict(
        SIZES, hidden_size=48, intermediate_size=64, num_attention_heads=3, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=131_072, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "qwen2": ("Qwen2", dict(
        SIZES, hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, rope_parameters=YARN)),
    "qwen3": ("Qwen3", dict(
        SIZES, hidden_size=48, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=20,
        max_position_embeddings=40_960, tie_word_embeddings=False, rope_parameters=dict(rope_theta=1e6))),
}  # fmt: skip
LONG_MODELS = ("llama3", "qwen3")


def sequences() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(1))
    return {"short": rng.integers(VOCAB, size=9), "medium": rng.integers(VOCAB, size=70)}


def long_tokens() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(LONG_SEED)).integers(VOCAB, size=LONG)


def randomise(model, torch, seed: int) -> None:
    """Weights with which attention is far from uniform; norms that are not 1 and biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight") or "layernorm" in name:
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        else:
            value = noise * {"q": 2.0, "k": 2.0}.get(name.split(".")[-2][0], 1.0) / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def main() -> None:
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"tests/golden/make.py needs torch and transformers in an environment of its own: {error}")

    @torch.no_grad()
    def logits(model, tokens, positions):
        hidden = model.model(torch.tensor(tokens)[None]).last_hidden_state[0, list(positions)]
        return model.lm_head(hidden).numpy()

    arrays = sequences()
    for seed, (name, (prefix, config)) in enumerate(MODELS.items()):
        cfg = getattr(transformers, f"{prefix}Config")(**config, attn_implementation="sdpa")
        model = getattr(transformers, f"{prefix}ForCausalLM")(cfg).eval()
        randomise(model, torch, seed)
        model.tie_weights()
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
        for which, tokens in sequences().items():
            arrays[f"{name}.{which}"] = logits(model, tokens, range(len(tokens)))
        if name in LONG_MODELS:
            arrays[f"{name}.long"] = logits(model, long_tokens(), LONG_POSITIONS)
        print(name, {k: (v.shape, float(np.abs(v).max())) for k, v in arrays.items() if k.startswith(f"{name}.")})
    np.savez_compressed(HERE / "logits.npz", **arrays)


if __name__ == "__main__":
    main()
