"""Read a GGUF file: dequantised weights in our layout, and the tokenizer that it carries."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.types import Params

VERSION = 1  # raise it when a conversion gives other weights or another tokenizer


def read(file: Path) -> tuple[DecoderConfig, Params, PreTrainedTokenizerFast]:
    """Config, float32 weights and tokenizer of a Llama-architecture GGUF file.

    Raises:
      ValueError: if the file holds another architecture.
    """
    import gguf  # slow to import and needed once per machine

    reader = gguf.GGUFReader(file)

    def field(key):
        return reader.fields[key].contents()

    if field("general.architecture") != "llama":
        raise ValueError(f"{file.name}: architecture {field('general.architecture')!r}; allowed is 'llama'")
    tensors = {t.name: t for t in reader.tensors}
    cfg = DecoderConfig(
        vocab_size=len(field("tokenizer.ggml.tokens")),
        width=field("llama.embedding_length"),
        mlp_width=field("llama.feed_forward_length"),
        layers=field("llama.block_count"),
        heads=field("llama.attention.head_count"),
        kv_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.rope.dimension_count"),
        rope_theta=field("llama.rope.freq_base"),
        norm_eps=round(field("llama.attention.layer_norm_rms_epsilon"), 9),
        tied_head="output.weight" not in tensors,
        max_positions=field("llama.context_length"),
    )

    def weight(name):
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(np.float32)

    def half_split(w, heads):
        """llama.cpp interleaves the two halves of each head's rotary pairs; put them back."""
        return w.reshape(heads, cfg.head_dim // 2, 2, cfg.width).swapaxes(1, 2).reshape(w.shape)

    gguf_names = {"attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v",
                  "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}  # fmt: skip
    layers = {}
    for key, name in gguf_names.items():
        per_layer = [weight(f"blk.{i}.{name}.weight") for i in range(cfg.layers)]
        if key in ("q", "k"):
            per_layer = [half_split(w, cfg.heads if key == "q" else cfg.kv_heads) for w in per_layer]
        layers[key] = np.stack(per_layer)
    params = {"embed": weight("token_embd.weight"), "norm": weight("output_norm.weight"), "layers": layers}
    if not cfg.tied_head:
        params["head"] = weight("output.weight")
    return cfg, params, _tokenizer(field)


def _tokenizer(field) -> PreTrainedTokenizerFast:
    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, field("tokenizer.ggml.token_type"), strict=True) if kind == 3]
    tokenizer.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[field("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[field("tokenizer.ggml.eos_token_id")],
        pad_token=tokens[field("tokenizer.ggml.padding_token_id")],
        chat_template=field("tokenizer.chat_template"),
    )
