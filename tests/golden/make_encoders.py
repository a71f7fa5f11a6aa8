"""Reference hidden states from transformers' PyTorch classes of text encoders, small random ones.

Run by hand, in the environment of make.py: python tests/golden/make_encoders.py

Writes one directory per model beside this file (config.json, model.safetensors with its pooler, which nothing reads)
and encoders.npz: two sequences of unlike length, and of each model the hidden states [tokens, width] of each, which the
model has read in one padded batch.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
VOCAB, PAD = 200, 1
SIZES = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=40, type_vocab_size=2, pad_token_id=PAD, hidden_act="gelu",
)  # fmt: skip
MODELS = {  # name -> (class, config)
    "bert": ("Bert", dict(SIZES, layer_norm_eps=1e-12)),
    "roberta": ("Roberta", dict(SIZES, type_vocab_size=1, layer_norm_eps=1e-5)),
    "megatron-bert": ("MegatronBert", dict(SIZES, layer_norm_eps=1e-12)),
}


def sequences() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(2))
    return {"short": rng.integers(PAD + 1, VOCAB, 7), "long": rng.integers(PAD + 1, VOCAB, 30)}


def randomise(model, torch, seed: int) -> None:
    """Weights with which attention is far from uniform; norms that are not 1 and biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise, part = torch.randn(parameter.shape, generator=generator), name.split(".")[-2]
        if parameter.ndim == 1:
            value = 0.5 * noise if name.endswith("bias") else 1 + 0.3 * noise
        else:
            value = noise * (2.0 if part in ("query", "key") else 1.0) / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def main() -> None:
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"tests/golden/make_encoders.py needs torch and transformers in an environment of its own: {error}")
    arrays = sequences()
    token_MT = np.full((2, 30), PAD)
    for row, tokens in zip(token_MT, sequences().values(), strict=True):
        row[: len(tokens)] = tokens
    for seed, (name, (prefix, config)) in enumerate(MODELS.items()):
        cfg = getattr(transformers, f"{prefix}Config")(**config)
        model = getattr(transformers, f"{prefix}Model")(cfg).eval()
        randomise(model, torch, seed)
        model.save_pretrained(HERE / name)
        with torch.no_grad():
            found = model(torch.tensor(token_MT), attention_mask=torch.tensor(token_MT != PAD)).last_hidden_state
        for row, (which, tokens) in zip(found.numpy(), sequences().items(), strict=True):
            arrays[f"{name}.{which}"] = row[: len(tokens)]
            print(name, which, float(np.abs(row[: len(tokens)]).max()))
    np.savez_compressed(HERE / "encoders.npz", **arrays)


if __name__ == "__main__":
    main()
