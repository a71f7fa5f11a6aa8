"""What trains and what is shared: adapters beside one base, all weights, teachers of other shapes, bfloat16."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import data, packing, sharding, step, sums
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder, load, lora
from camopd_jax.models.decoder import Lora
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.models.weights import WHOLE, merged, of_params
from camopd_jax.packing import PackShape
from camopd_jax.sft import objective
from camopd_jax.student import Student

ADAPTER = Lora(rank=3, alpha=7.0, targets=("q", "v", "o", "down"))
SHAPE = PackShape(rows=2, width=30, slots=16)
TOKENS = 258  # of the tiny tokenizer; TINY pads its embedding to 320 rows
TAU = 0.8
SGD = step.make_optimizer(
    name="sgd", learning_rate=0.5, warmup_steps=0, decay_steps=0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0,
    clip_norm=1e9,
)  # fmt: skip


def mesh_of(*sizes):
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return jax.sharding.Mesh(devices, sharding.MESH_AXES)


def random_model(cfg=TINY, seed=0, reads=None):
    """A model with weights large enough for a peaked distribution; each tensor that is read goes into `reads`."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.2).astype(np.float32), decoder.split(cfg)[1])
    plain = of_params(params)

    def read(name, layer, index):
        if reads is not None:
            reads.append((name, layer))
        return plain(name, layer, index)

    return replace(load.load("random:llama"), cfg=cfg, read=read, fingerprint=f"random-{seed}"), params


def build(base, how=None, dtype="float32", mesh=None):
    numerics = Numerics(TAU, 7, dtype, TOKENS)
    cfg = replace(base.cfg, lora=how)
    return Student(Engine(cfg, mesh or mesh_of(1, 1, 1), base.tokenizer, base.stop_ids, SHAPE, numerics), base)


def rollout():
    rng = np.random.default_rng(0)
    prompts, answers = (
        [rng.integers(TOKENS, size=rng.integers(1, n)).astype(np.int32) for _ in range(6)] for n in (8, 10)
    )
    return data.given_responses(prompts, answers, 0)


@jax.jit(static_argnums=0)
def all_logits(cfg, params, tokens_L, length):
    """Logits [L, V] of one sequence of `length` tokens, padded on the right."""
    model, at = nnx.merge(decoder.split(cfg)[0], params), jnp.arange(len(tokens_L))
    hidden, _ = model(tokens_L[None], at[None], (at < length).astype(jnp.int32)[None])
    return hidden[0] @ model.head_VD().T


def brute_force(cfg, params, tokens_L, vocab=TOKENS):
    """log pi of tokens 1, 2, ... from the full logits of their own forward pass, padded ids left out."""
    length = len(tokens_L)
    logits = all_logits(cfg, params, np.pad(tokens_L, (0, 20 - length)), length)[:length]
    logits_LV = np.asarray(logits, np.float64)[:, :vocab] / TAU
    logp_LV = logits_LV - np.log(np.exp(logits_LV).sum(axis=1, keepdims=True))
    return logp_LV[np.arange(length - 1), tokens_L[1:]]


def assert_scores(scores_BT, cfg, params, given):
    width = given.prompt_mask_BP.shape[1]
    for b, prompt in enumerate(given.prompt_mask_BP.sum(axis=1)):
        length = given.response_mask_BT[b].sum()
        tokens = given.tokens_BL[b, width - prompt : width + length]
        np.testing.assert_allclose(scores_BT[b, :length], brute_force(cfg, params, tokens)[prompt - 1 :], atol=1e-4)


def disturbed(adapter, seed=3):
    """The adapter of a student that has trained: neither factor is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + (0.1 * rng.normal(size=x.shape)).astype(np.float32), adapter)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), a, b)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_with_adapters_the_base_is_on_the_mesh_once(tmp_path, sizes):
    reads = []
    base, _ = random_model(reads=reads)
    student = build(base, ADAPTER, mesh=mesh_of(*sizes)) if sizes == (1, 1, 1) else None
    if student is None:
        wide = replace(SHAPE, rows=4)
        engine = Engine(replace(TINY, lora=ADAPTER), mesh_of(*sizes), base.tokenizer, base.stop_ids, wide,
                        Numerics(TAU, 7, "float32", TOKENS))  # fmt: skip
        student = Student(engine, base)
    trained = student.fresh(0)
    student.save(tmp_path / "made", trained)
    made, given = student.made(tmp_path / "made"), student.given(base, base, 0)
    shared = student.frozen()
    for policy in (given.policy, made.policy, made.mixed(0.5)):
        assert policy.engine is student.engine
        held = lora.split(policy.place())[0]
        assert all(a is b for a, b in zip(jax.tree.leaves(held), jax.tree.leaves(shared), strict=True))
    whole = lora.split(student.whole(trained))[0]
    assert all(a is b for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(shared), strict=True))
    given.start(), made.start()
    tensors = [(name, layer) for name, layer, _ in decoder.tensors_of(TINY)]
    assert sorted(set(reads), key=str) == sorted(tensors, key=str)
    if sizes == (1, 1, 1):
        assert len(reads) == len(tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", [None, ADAPTER])
def test_a_teacher_equal_to_the_student_has_exactly_no_gap(tmp_path, how, dtype):
    base, _ = random_model()
    student, given = build(base, how, dtype), rollout()
    engine, teacher = student.engine, student.given(base, base, 0)
    own = engine.score(student.whole(teacher.start()), given)
    assert own.dtype == np.float32 and np.abs(own).max() > 1
    np.testing.assert_array_equal(teacher.policy.engine.score(teacher.policy.place(), given), own)
    trained = disturbed(student.fresh(0))
    student.save(tmp_path / "made", trained)
    made, after = student.made(tmp_path / "made"), engine.score(student.whole(trained), given)
    assert np.abs(after - own).max() > 0.1
    np.testing.assert_array_equal(made.policy.engine.score(made.policy.place(), given), after)
    same(made.start(), trained)


def train(student, params, updates):
    """The state after one step of SGD, and its gradient."""
    engine = student.engine
    score = engine.scorer(TAU, "full")
    steps = step.build_steps(score, student.shapes, engine.mesh, decoder.AXES, objective, SGD, student.frozen())
    state, grads = steps.init(params, jax.random.key(0)), steps.zeros()
    for update in updates:
        grads, _ = steps.micro(state.params, grads, update, steps.frozen)
    held = jax.device_get(grads)
    return steps.apply(state, grads), held


def updates_of(given):
    mask = given.response_mask_BT
    return packing.updates(given, range(len(mask)), SHAPE, mask, mask / mask.sum())


def test_a_step_changes_the_adapter_alone_and_by_the_chain_rule():
    base, params = random_model()
    student, updates = build(base, ADAPTER), updates_of(rollout())
    before = jax.device_get(student.frozen())
    start = jax.device_get(student.fresh(0))
    state, grads = train(student, student.fresh(0), updates)
    assert jax.tree.structure(state.params) == jax.tree.structure(grads) == jax.tree.structure(student.shapes)
    assert set(grads["layers"]) == {f"{t}_lora_{x}" for t in ADAPTER.targets for x in "ab"}
    same(student.frozen(), before)
    jax.tree.map(lambda s, w: np.testing.assert_array_equal(s, w), before, params)

    # W + s B A at B = 0: dL/dB = s dL/dW A^T, from the gradient of a student whose weights all train; dL/dA = 0.
    full = build(base)
    _, of_weights = train(full, full.fresh(0), updates)
    scale = ADAPTER.alpha / ADAPTER.rank
    for target in ADAPTER.targets:
        a, b = (f"{target}_lora_{x}" for x in "ab")
        expected = scale * np.einsum("loi,lri->lor", of_weights["layers"][target], start["layers"][a])
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(grads["layers"][b], expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_array_equal(grads["layers"][a], 0)
        np.testing.assert_allclose(state.params["layers"][b], -0.5 * grads["layers"][b], rtol=1e-6)
    _, later = train(student, state.params, updates)
    assert all(np.abs(later["layers"][f"{t}_lora_a"]).max() > 0 for t in ADAPTER.targets)


def test_an_exported_adapter_is_merged_into_the_weights(tmp_path):
    base, params = random_model()
    student, given = build(base, ADAPTER), rollout()
    trained = disturbed(student.fresh(0))
    student.export(tmp_path / "export", trained, "float32", write=True)
    model = load.load(f"path:{tmp_path / 'export'}")
    assert model.cfg == TINY and model.stop_ids == base.stop_ids
    layers = {k: np.asarray(v, np.float64) for k, v in trained["layers"].items()}
    for name, layer, _ in decoder.tensors_of(TINY):
        expected = params[name] if layer is None else params["layers"][name][layer]
        if name in ADAPTER.targets:
            expected = expected + 7.0 / 3 * layers[f"{name}_lora_b"][layer] @ layers[f"{name}_lora_a"][layer]
        np.testing.assert_allclose(model.read(name, layer, WHOLE), expected, atol=1e-6)
    plain = student.engine.of(TINY)
    scores = plain.score(plain.place(model.read, "float32"), given)
    np.testing.assert_allclose(scores, student.engine.score(student.whole(trained), given), atol=1e-4)


def test_half_of_a_made_adapter_is_half_way_from_the_base(tmp_path):
    base, params = random_model()
    student = build(base, ADAPTER)
    trained = disturbed(student.fresh(0))
    student.save(tmp_path / "made", trained)
    placed = student.made(tmp_path / "made").mixed(0.25).place()
    read = merged(of_params(placed), placed, ADAPTER)
    whole = merged(base.read, trained, ADAPTER)
    for target in ADAPTER.targets:
        expected = 0.25 * params["layers"][target][1] + 0.75 * whole(target, 1, WHOLE)
        np.testing.assert_allclose(read(target, 1, WHOLE), expected, atol=1e-6)


def test_when_all_weights_train_each_teacher_has_its_own(tmp_path):
    (base, params), (other, others) = random_model(seed=0), random_model(seed=1)
    student = build(base)
    assert student.frozen() == {}
    weights = student.fresh(0)
    assert student.whole(weights) is weights
    same(weights, params)
    teacher = student.given(other, base, 0)
    same(teacher.start(), others)
    same(teacher.policy.place(), others)
    mixed = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, params, others)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), teacher.mixed(0.25).place(), mixed)
    student.save(tmp_path / "made", teacher.start())
    made = student.made(tmp_path / "made")
    same(made.start(), others)
    halves = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, params, others)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), made.mixed(0.5).place(), halves)


@pytest.mark.parametrize("how", [None, ADAPTER])
@pytest.mark.parametrize(
    "change", [{"vocab_size": 384}, {"vocab_size": TOKENS}, {"layers": 1, "mlp_width": 32, "tied_head": False}]
)
def test_a_teacher_of_another_shape_scores_the_students_tokens(how, change):
    base, _ = random_model()
    teacher, params = random_model(replace(TINY, **change), seed=1)
    student, given = build(base, how), rollout()
    policy = student.given(teacher, base, 0).policy
    assert policy.engine is not student.engine and policy.engine.cfg == teacher.cfg
    assert_scores(policy.engine.score(policy.place(), given), teacher.cfg, params, given)
    own = student.engine.score(student.whole(student.fresh(0)), given)
    assert_scores(own, TINY, random_model()[1], given)


def test_rows_that_pad_the_embedding_are_never_sampled_and_have_no_probability():
    base, params = random_model()
    params["embed"][TOKENS:] = 10 * params["embed"][:62]  # they would win, if they could
    student = build(replace(base, read=of_params(params)))
    engine, weights = student.engine, student.fresh(0)
    prompts = [np.arange(1, 5, dtype=np.int32)] * 8
    for temperature in (TAU, 0.0):
        drawn = engine.sample(weights, prompts, jax.random.key(0), width=4, batch=8, max_new_tokens=12,
                              temperature=temperature)  # fmt: skip
        assert drawn.tokens_BL.max() < TOKENS
        if temperature:
            assert len(np.unique(drawn.tokens_BL)) > 20
            np.testing.assert_allclose(drawn.sampler_logp_BT, engine.score(weights, drawn), atol=1e-4)
    every = data.given_responses([prompts[0]] * 320, [np.array([i], np.int32) for i in range(320)], 0)
    logp = engine.score(weights, every)[:, 0]
    assert np.exp(logp[:TOKENS].astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert np.all(np.isneginf(logp[TOKENS:]))


@pytest.mark.parametrize("how", [None, ADAPTER])
def test_bfloat16_forward_passes_keep_masters_gradients_and_scores_in_float32(how):
    base, params = random_model()
    student, wide, given = build(base, how, "bfloat16"), build(base, how), rollout()
    assert {x.dtype for x in jax.tree.leaves(student.given(base, base, 0).policy.place())} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(student.frozen())} == ({jnp.dtype("bfloat16")} if how else set())
    start = student.fresh(0)
    scores = student.engine.score(student.whole(start), given)
    expected = wide.engine.score(wide.whole(start), given)
    assert scores.dtype == np.float32
    assert 1e-4 < np.abs(scores - expected).max() < 0.2
    assert np.abs(scores - expected)[given.response_mask_BT].mean() < 0.02
    if not how:
        same(start, params)  # the master weights keep the bits that bfloat16 has no room for
    state, grads = train(student, start, updates_of(given))
    assert {x.dtype for x in jax.tree.leaves((state.params, grads))} == {np.dtype("float32")}
    _, exact = train(wide, wide.fresh(0), updates_of(given))
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        assert np.linalg.norm(got - want) <= 0.05 * np.linalg.norm(want)


def test_sampled_equal_rescored_log_probs_in_bfloat16():
    """Both round to 8 bits at the same places; what differs is the order of sums that are rounded afterwards."""
    student = build(random_model()[0], ADAPTER, "bfloat16")
    weights = student.whole(disturbed(student.fresh(0)))
    prompts = [np.random.default_rng(n).integers(TOKENS, size=n).astype(np.int32) for n in (3, 10, 1, 6, 8)]
    drawn = student.engine.sample(weights, prompts, jax.random.key(0), width=10, batch=5, max_new_tokens=12,
                                  temperature=TAU)  # fmt: skip
    gap = np.abs(drawn.sampler_logp_BT - student.engine.score(weights, drawn))[drawn.response_mask_BT]
    assert 0 < gap.max() < 0.03 and gap.mean() < 0.005


def test_a_response_ends_at_any_stop_id():
    base, _ = random_model()
    engine = Engine(TINY, mesh_of(1, 1, 1), SimpleNamespace(pad_token_id=0), (7, 9), SHAPE,
                    Numerics(TAU, 7, "float32", TOKENS))  # fmt: skip
    answers = [[1, 7], [9], [1, 2], [7, 9], [9, 1]]
    given = data.given_responses([np.array([7, 9], np.int32)] * 5, [np.array(a, np.int32) for a in answers], 0)
    np.testing.assert_array_equal(engine.ended(given), [True, True, False, True, False])
    weights = engine.place(base.read, "float32")
    sampled = engine.sample(weights, [np.array([3], np.int32)] * 80, jax.random.key(0), width=1, batch=80,
                            max_new_tokens=14, temperature=4.0)  # fmt: skip
    response = sampled.tokens_BL[:, 1:]
    stops = np.isin(response, (7, 9)) & sampled.response_mask_BT
    assert stops.any() and (response[stops] == 7).any() and (response[stops] == 9).any()
    np.testing.assert_array_equal(engine.ended(sampled), stops.any(axis=1))
    np.testing.assert_array_equal(stops.sum(axis=1) <= 1, True)


def damaged(file, how):
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes({"cut": whole[:middle], "zeroed": whole[:middle] + bytes(64) + whole[middle + 64 :]}[how])


@pytest.mark.parametrize("how", [None, ADAPTER])
def test_a_made_teacher_that_is_damaged_is_removed_and_one_that_is_whole_is_not(tmp_path, how):
    student, home = build(random_model()[0], how), tmp_path / "made"
    trained = disturbed(student.fresh(0))
    assert student.remove_damaged(home) == []
    student.save(home, trained)
    fingerprint = student.made(home).fingerprint
    assert student.remove_damaged(home) == [] and student.made(home).fingerprint == fingerprint
    weights = next(home.glob("*model.safetensors"))
    for way, says in (("zeroed", f"the contents of {weights.name} have changed"), ("cut", f"{weights.name} has ")):
        damaged(weights, way)
        (wrong,) = student.remove_damaged(home)
        assert wrong.startswith(says) and list(tmp_path.iterdir()) == []
        student.save(home, trained)
        assert student.made(home).fingerprint == fingerprint
    (home / sums.FILE).unlink()  # as of a version that wrote none
    assert student.damage(home) is None
    student.save(tmp_path / "other", disturbed(student.fresh(0), seed=4))
    assert student.made(tmp_path / "other").fingerprint != fingerprint
    damaged(weights, "cut")
    (wrong,) = student.remove_damaged(home)
    assert "\n" not in wrong and not home.exists()
