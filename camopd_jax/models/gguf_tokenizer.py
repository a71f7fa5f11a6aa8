"""The tokenizer in a GGUF file's metadata, as the model's own tokenizer.json has it.

transformers has a converter of its own, which needs torch, leaves out Qwen's NFC and Llama 3's ignore_merges, and
knows no SmolLM; so the three byte-level BPE families are built here.
"""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# The split of Qwen 2 to 3 takes one digit at a time, that of Llama 3 up to three; they are the same otherwise.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = SPLIT.replace("DIGITS", r"\p{N}")
LLAMA3_SPLIT = SPLIT.replace("DIGITS", r"\p{N}{1,3}")
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")  # llama.cpp's three names of one tokenizer
SPLITS = {"smollm": None, "qwen2": QWEN2_SPLIT} | dict.fromkeys(LLAMA3, LLAMA3_SPLIT)

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # values of tokenizer.ggml.token_type

# What llama.cpp takes for the end of a turn by name (llama-vocab.cpp, special_eog_ids), as far as the families above
# have it. It also stops at the fill-in-the-middle tokens of code models; the models' own generation configs do not.
END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
END_KEYS = ("eos", "eot", "eom")


def read_tokenizer(metadata: dict[str, Any]) -> tuple[PreTrainedTokenizerFast, tuple[int, ...]]:
    """The tokenizer, and the ids that end an answer: eos, eot, eom, and the control tokens among END_NAMES.

    Raises:
      ValueError: if the tokenizer is of another family, or the metadata is incomplete.
    """
    family, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if family != "gpt2" or pre not in SPLITS:
        raise ValueError(
            f"its tokenizer is {family!r} with the pre-tokenizer {pre!r}; read are 'gpt2' with {', '.join(SPLITS)}: "
            "use the model's Hugging Face directory instead (path:DIR)"
        )
    for key in ("tokens", "token_type", "merges"):
        if not isinstance(metadata.get(f"tokenizer.ggml.{key}"), list):
            raise ValueError(f"tokenizer.ggml.{key} is missing")
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    if len(tokens) != len(kinds):
        raise ValueError(f"tokenizer.ggml.token_type has {len(kinds)} entries, tokenizer.ggml.tokens {len(tokens)}")

    def named(key) -> int | None:
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None and not 0 <= token_id < len(tokens):
            raise ValueError(f"tokenizer.ggml.{key}_token_id is {token_id}; there are {len(tokens)} tokens")
        return token_id

    ends = {named(key) for key in END_KEYS} - {None}
    ends |= {i for i, token in enumerate(tokens) if token in END_NAMES and kinds[i] == CONTROL}
    if not ends:
        raise ValueError("tokenizer.ggml.eos_token_id is missing, and no control token has a known name of an end")
    bos, eos, pad = named("bos"), named("eos"), named("padding")
    eos = min(ends) if eos is None else eos
    # Only the default of encoding with special tokens: a chat template writes its BOS itself, and is encoded without.
    adds_bos = bos is not None and metadata.get("tokenizer.ggml.add_bos_token", pre in LLAMA3)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(tokens, kinds, metadata["tokenizer.ggml.merges"], pre),
        bos_token=None if bos is None else tokens[bos],
        eos_token=tokens[eos],
        pad_token=tokens[eos if pad is None else pad],
        chat_template=metadata.get("tokenizer.chat_template"),
        **({"add_bos_token": True} if adds_bos else {}),
    )
    return tokenizer, tuple(sorted(ends))


def _backend(tokens: list[str], kinds: list[int], merges: list[str], pre: str) -> Tokenizer:
    # Unused entries pad the embedding to a round number of rows; the original vocabulary does not have them.
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre in LLAMA3))
    except Exception as error:  # tokenizers raises the bare class
        raise ValueError(f"tokenizer.ggml.merges does not fit the tokens: {error}") from None
    if pre == "smollm":
        split = pre_tokenizers.Digits(individual_digits=True)
    else:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "smollm")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    own = [AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    tokenizer.add_tokens(own)
    return tokenizer
