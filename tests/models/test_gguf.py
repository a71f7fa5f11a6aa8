"""A GGUF file gives the configuration and the weights of its model, or one line of why not."""

from dataclasses import dataclass, field

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Q
from gguf import TokenType

from camopd_jax.models import gguf_file, rope
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.rope import RopeScaling

WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS, ROWS = 32, 4, 2, 6, 256, 2, 7


@dataclass
class Source:
    """What a GGUF file is written from; tests change it before they write."""

    arch: str
    keys: dict  # of the metadata, on top of what every file has
    tensors: dict  # GGUF name to the float32 values in our layout
    quantisation: Q = Q.F32  # of the matrices
    blocks: dict = field(default_factory=dict)  # GGUF name to bytes and their quantisation, where it is another one
    endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE

    def write(self, file):
        writer = gguf.GGUFWriter(file, self.arch, endianess=self.endianess)
        for key, value in self.keys.items():
            if value is not None:
                add = {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}
                add.get(type(value), writer.add_array)(key, value)
        writer.add_token_list(["a", "b", "ab", "<|im_end|>"])
        writer.add_token_types([TokenType.NORMAL] * 3 + [TokenType.CONTROL])
        writer.add_token_merges(["a b"])
        for name, tensor in self.tensors.items():
            if self.arch == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
                tensor = permuted(tensor, HEADS if "attn_q" in name else KV_HEADS)
            kind = self.quantisation if tensor.ndim == 2 else Q.F32
            if name in self.blocks:
                stored, kind = self.blocks[name]
            else:
                stored = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
            writer.add_tensor(name, stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file


def permuted(w, heads):
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


@pytest.fixture
def source(request):
    """A small random model, of the architecture `llama` unless the test asks for another."""
    arch = getattr(request, "param", "llama")
    keys = {
        f"{arch}.embedding_length": WIDTH, f"{arch}.feed_forward_length": MLP, f"{arch}.block_count": LAYERS,
        f"{arch}.attention.head_count": HEADS, f"{arch}.attention.head_count_kv": KV_HEADS,
        f"{arch}.attention.key_length": HEAD_DIM, f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 1e6, f"{arch}.context_length": 4096,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
    }  # fmt: skip
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"token_embd.weight": (ROWS, WIDTH), "output_norm.weight": (WIDTH,), "output.weight": (ROWS, WIDTH)}
    layer = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,), "attn_q.weight": (q, WIDTH),
             "attn_k.weight": (kv, WIDTH), "attn_v.weight": (kv, WIDTH), "ffn_gate.weight": (MLP, WIDTH),
             "ffn_up.weight": (MLP, WIDTH), "ffn_down.weight": (WIDTH, MLP)}  # fmt: skip
    layer["attn_output.weight"] = (WIDTH, q)
    if arch == "qwen2":
        layer |= {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    if arch == "qwen3":
        layer |= {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    return Source(arch, keys, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def refusal(file):
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as error:
        gguf_file.open_gguf(file)
    message = str(error.value)
    assert str(file) in message and "\n" not in message
    return message


# The largest error allowed, of values of about 3 at most.
QUANTISATIONS = {Q.F32: 0, Q.F16: 1e-3, Q.BF16: 8e-3, Q.Q8_0: 0.02, Q.Q5_0: 0.2, Q.Q5_1: 0.2, Q.Q4_0: 0.4, Q.Q4_1: 0.4}


@pytest.mark.parametrize("source", gguf_file.ARCHITECTURES, indirect=True)
def test_each_architecture_gives_its_config_and_its_weights(source, tmp_path):
    model = gguf_file.open_gguf(source.write(tmp_path / "m.gguf"))
    assert model.cfg == DecoderConfig(
        vocab_size=ROWS, width=WIDTH, mlp_width=MLP, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM,
        rope_theta=1e6, norm_eps=1e-5, tied_head=False, max_positions=4096, qk_norm=source.arch == "qwen3",
        qkv_bias=source.arch == "qwen2", rope_scaling=None,
    )  # fmt: skip
    assert model.stop_ids == (3,) and model.tokenizer("ab<|im_end|>")["input_ids"] == [2, 3]
    read = 0
    for key, name in gguf_file.NAMES.items():
        for i in range(LAYERS) if "{}" in name else [None]:
            if name.format(i) in source.tensors:
                got, read = model.read(key, i), read + 1
                assert got.dtype == np.float32 and type(got) is np.ndarray
                np.testing.assert_array_equal(got, source.tensors[name.format(i)])
    assert read == len(source.tensors)
    names = {name.format(i) for name in gguf_file.NAMES.values() for i in range(LAYERS)}
    assert set(source.tensors) <= names


@pytest.mark.parametrize("kind", QUANTISATIONS, ids=lambda kind: kind.name)
def test_quantised_weights_come_back_within_a_step(source, tmp_path, kind):
    source.quantisation = kind
    source.tensors = {k: v for k, v in source.tensors.items() if k != "output.weight"}
    for i in range(LAYERS):  # as many heads as make whole blocks
        for name, shape in [("q", (96, WIDTH)), ("k", (48, WIDTH)), ("v", (48, WIDTH)), ("output", (WIDTH, 96))]:
            value = np.random.default_rng(i).normal(size=shape).astype(np.float32)
            source.tensors[f"blk.{i}.attn_{name}.weight"] = value
    source.keys["llama.attention.key_length"] = 24
    model = gguf_file.open_gguf(source.write(tmp_path / "m.gguf"))
    assert model.cfg.tied_head and model.cfg.head_dim == 24
    for key in ("embed", "q", "k", "o", "down"):
        name = gguf_file.NAMES[key].format(1)
        got = model.read(key, None if key == "embed" else 1)
        error = np.abs(got - source.tensors[name]).max()
        assert error <= QUANTISATIONS[kind] and (error > 0 or kind == Q.F32), name


@pytest.mark.parametrize("kind", [Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.IQ4_XS], ids=lambda kind: kind.name)
def test_quantisations_that_gguf_cannot_write_are_read(source, tmp_path, kind):
    """Blocks of zero bytes have zero scales and minima, so all their values are zero; what lies behind stays whole."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    source.blocks = {"blk.1.ffn_down.weight": (np.zeros((WIDTH, MLP // block * size), np.uint8), kind)}
    model = gguf_file.open_gguf(source.write(tmp_path / "m.gguf"))
    np.testing.assert_array_equal(model.read("down", 1), np.zeros((WIDTH, MLP), np.float32))
    np.testing.assert_array_equal(model.read("o", 1), source.tensors["blk.1.attn_output.weight"])


def test_q6_k_by_hand(source, tmp_path):
    """A block is 128 bytes of low halves, 64 of upper quarters, 16 scales s and one d: d s (q - 32) = 0.5 * 3 * -32."""
    block = np.concatenate([np.zeros(192, np.uint8), np.full(16, 3, np.uint8), np.array([0.5], "<f2").view(np.uint8)])
    source.blocks = {"blk.0.ffn_down.weight": (np.tile(block, (WIDTH, 1)), Q.Q6_K)}
    model = gguf_file.open_gguf(source.write(tmp_path / "m.gguf"))
    np.testing.assert_array_equal(model.read("down", 0), np.full((WIDTH, MLP), -48, np.float32))


def test_the_stored_rows_turned_in_pairs_give_the_scores_of_ours_turned_in_halves(source, tmp_path):
    """llama.cpp rotates dimensions 2i and 2i+1 of a llama head; the decoder i and i + D/2: the same q.k comes out."""
    model = gguf_file.open_gguf(source.write(tmp_path / "m.gguf"))
    x_LD = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    angle = np.arange(5)[:, None] * 1e6 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    stored, ours = [], []
    for key, heads in (("q", HEADS), ("k", KV_HEADS)):
        w = permuted(source.tensors[f"blk.0.attn_{key}.weight"], heads)
        pairs = (x_LD @ w.T).reshape(5, heads, HEAD_DIM // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)[:, None]
        stored.append(np.stack([turned.real, turned.imag], -1).reshape(5, heads, HEAD_DIM))
        halves = (x_LD @ model.read(key, 0).T).reshape(1, 5, heads, HEAD_DIM)
        ours.append(np.asarray(rope.rotate(halves, rope.rotation(np.arange(5)[None], HEAD_DIM, 1e6, None)))[0])
    groups = HEADS // KV_HEADS
    scores = [np.einsum("lhd,mhd->hlm", q, np.repeat(k, groups, axis=1)) for q, k in (stored, ours)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "linear", "scaling.factor": 2.5}, RopeScaling(kind="linear", factor=2.5)),
        ({"scale_linear": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        (
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 1024},
            RopeScaling(
                "yarn", 4.0, 1024, beta_fast=32.0, beta_slow=1.0, attention_factor=1 + 0.1 * np.log(4), truncate=True
            ),
        ),
    ],
)
def test_rope_scaling_is_read(source, tmp_path, keys, expected):
    source.keys |= {f"llama.rope.{key}": value for key, value in keys.items()}
    assert gguf_file.open_gguf(source.write(tmp_path / "m.gguf")).cfg.rope_scaling == expected


def llama3_file(source, factor):
    """What llama.cpp's converter stores for Llama 3: its loop over the frequencies, head 64 and theta 5e5."""
    factors = []
    for i in range(32):
        wavelength = 2 * np.pi * 5e5 ** (2 * i / 64)
        smooth = (8192 / wavelength - 1) / (4 - 1)
        middle = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1 if wavelength < 8192 / 4 else factor if wavelength > 8192 else middle)
    source.keys |= {"llama.attention.head_count": 4, "llama.rope.freq_base": 5e5, "llama.attention.key_length": 64}
    source.tensors["rope_freqs.weight"] = np.array(factors, np.float32)
    rng = np.random.default_rng(0)
    for i in range(LAYERS):
        for name, shape in [("q", (256, WIDTH)), ("k", (128, WIDTH)), ("v", (128, WIDTH)), ("output", (WIDTH, 256))]:
            source.tensors[f"blk.{i}.attn_{name}.weight"] = rng.normal(size=shape).astype(np.float32)
    return source


@pytest.mark.parametrize("factor", [8.0, 32.0, 1.0])
def test_the_frequency_factors_of_llama_3_give_its_scaling(source, tmp_path, factor):
    cfg = gguf_file.open_gguf(llama3_file(source, factor).write(tmp_path / "m.gguf")).cfg
    expected = RopeScaling("llama3", factor, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    assert cfg.rope_scaling == (expected if factor > 1 else None)


def test_other_frequency_factors_are_refused(source, tmp_path):
    llama3_file(source, 8.0).tensors["rope_freqs.weight"][16] *= 1.001
    assert "rope_freqs.weight" in refusal(source.write(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"llama.expert_count": 8}, ["expert_count", "8"]),
        ({"llama.attention.causal": False}, ["attention.causal"]),
        ({"llama.rope.scaling.type": "longrope"}, ["longrope", "linear, yarn"]),
        ({"llama.rope.dimension_count": 4}, ["6", "4", "rotary"]),
        ({"llama.block_count": None}, ["block_count is missing"]),
        ({"llama.attention.layer_norm_rms_epsilon": None}, ["layer_norm_rms_epsilon is missing"]),
        ({"llama.attention.head_count": [4, 4]}, ["attention.head_count", "[4, 4]"]),
        ({"llama.attention.head_count_kv": 4}, ["attn_k.weight", "(12, 32)", "(24, 32)"]),
        ({"split.count": 2}, ["one part of several"]),
        ({"tokenizer.ggml.pre": "tekken"}, ["'tekken'", "path:DIR"]),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(source, tmp_path, keys, words):
    source.keys |= keys
    message = refusal(source.write(tmp_path / "m.gguf"))
    assert all(word in message for word in words), message


def test_another_architecture_is_refused(source, tmp_path):
    source.arch = "qwen3moe"
    assert "'qwen3moe'; allowed are llama, qwen2, qwen3" in refusal(source.write(tmp_path / "m.gguf"))


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"])
def test_a_missing_or_misshapen_or_strange_tensor_is_named(source, tmp_path, name):
    tensor = source.tensors.pop(name)
    assert f"{name} is missing" in refusal(source.write(tmp_path / "m.gguf"))
    source.tensors[name] = np.concatenate([tensor, tensor], -1)
    assert f"{name} is {source.tensors[name].shape}, expected {tensor.shape}" in refusal(
        source.write(tmp_path / "n.gguf")
    )
    source.tensors |= {name: tensor, "blk.0.attn_q.bias": np.zeros(24, np.float32)}
    assert "blk.0.attn_q.bias" in refusal(source.write(tmp_path / "o.gguf"))


def test_a_vocabulary_larger_than_the_embedding_is_refused(source, tmp_path):
    source.tensors["token_embd.weight"] = source.tensors["token_embd.weight"][:2]
    source.tensors["output.weight"] = source.tensors["output.weight"][:2]
    assert "embedding of 2 rows" in refusal(source.write(tmp_path / "m.gguf"))


def test_a_file_that_is_no_whole_gguf_file_is_refused(source, tmp_path):
    file = source.write(tmp_path / "m.gguf")
    whole = file.read_bytes()
    gguf_file.open_gguf(file)
    for size in (0, 3, 4, 20, 200, 3000, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:size])
        assert ("no GGUF file" if size < 4 else "truncated") in refusal(file), size
    file.write_bytes(b"PK" + whole)
    assert "no GGUF file" in refusal(file)
    file.write_bytes(whole[:4] + b"\1" + whole[5:])
    assert "version 1" in refusal(file)
    source.endianess = gguf.GGUFEndian.BIG
    assert "big-endian" in refusal(source.write(tmp_path / "big.gguf"))
    assert "cannot be read" in refusal(tmp_path / "nowhere.gguf")
    assert "cannot be read" in refusal(tmp_path)
