"""The lm_eval backend against plain references, and bin/evaluate.py end to end on local tasks."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers.processors import TemplateProcessing

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install lm_eval")

from lm_eval.api.instance import Instance

from camopd_jax import metrics, sharding, templates
from camopd_jax.engine import Policy
from camopd_jax.evals import harness, likelihood
from camopd_jax.models import load

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("evaluate_program", ROOT / "bin" / "evaluate.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


@pytest.fixture(scope="module")
def model():
    return load.load("random:llama")


@pytest.fixture(scope="module")
def make(model):
    engine = likelihood.engine_of(model, sharding.make_mesh(-1, 1, 1), "float32", 64)
    params = jax.tree.map(lambda x: x * 8, engine.place(model.read, "float32"))  # far from uniform

    def make(max_length=64, batch_size=8, think_end="</think>", seed=0):
        policy = Policy(engine, lambda: params)
        return harness.JaxLM(
            policy, name="tiny", info={}, batch_size=batch_size, max_length=max_length, thinking="template",
            date="2026-01-01", think_end=think_end, seed=seed,
        )  # fmt: skip

    return make


def requests(kind, arguments):
    return [Instance(kind, {}, args, 0) for args in arguments]


@pytest.fixture(scope="module")
def full_logits():
    """(lm, ids) -> [L, V], float64, of one sequence in one row: no batches, buckets or chunks."""
    width = 160  # compiled once; what is behind the sequence is not seen

    @functools.partial(jax.jit, static_argnums=0)
    def forward(graph, params, ids, segments):
        decoder = nnx.merge(graph, params)
        hidden, _ = decoder(ids[None], jnp.arange(width)[None], segments[None])
        return hidden[0] @ decoder.head_VD().T

    def full_logits(lm, ids):
        padded, segments = np.zeros((2, width), np.int32)
        padded[: len(ids)], segments[: len(ids)] = ids, 1
        logits = np.asarray(forward(lm.engine.graph, lm.params, padded, segments), np.float64)
        return logits[: len(ids), : lm.engine.numerics.vocab]

    return full_logits


@pytest.fixture(scope="module")
def reference(full_logits):
    """(lm, before, labels) -> sum of log p(label) after `before`, and whether each is the most likely."""

    def reference(lm, before, labels):
        logits = full_logits(lm, [*before, *labels])[len(before) - 1 : -1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return logp[np.arange(len(labels)), labels].sum(), bool((logits.argmax(axis=1) == labels).all())

    return reference


def test_log_likelihoods_are_those_of_full_logits_in_the_order_of_requests(make, reference):
    lm = make()
    start, encode = lm.tokenizer.bos_token_id, lm.tok_encode
    long = "The mitochondria are said to be the powerhouse of a cell, and that is what they are."
    arguments = [
        ("What is", " a fever?"),
        ("What is ", "a fever?"),  # the space in front belongs to what follows
        ("", "abc"),  # nothing in front: the BOS
        (long, " Yes."),  # cut on the left
        ("Answer:", " A"),
        ("Answer:", " B"),
        ("Answer:", " BC"),
        ("x", "y" * 60),
    ]
    pairs = [
        (encode("What is"), encode(" a fever?")),
        (encode("What is"), encode(" a fever?")),
        ([start], encode("abc")),
        (encode(long + " Yes.")[-65:-5], encode(" Yes.")),
        *((encode("Answer:"), encode(text)) for text in (" A", " B", " BC")),
        (encode("x"), encode("y" * 60)),
    ]
    expected = [reference(lm, *pair) for pair in pairs]
    for batch_size in (8, 1):
        found = make(batch_size=batch_size).loglikelihood(requests("loglikelihood", arguments), disable_tqdm=True)
        np.testing.assert_allclose([logp for logp, _ in found], [logp for logp, _ in expected], rtol=1e-5)
        assert [flag for _, flag in found] == [flag for _, flag in expected]


def test_the_greedy_flag(make, full_logits):
    lm = make()
    before = lm.tok_encode("What is")
    first = int(full_logits(lm, before)[-1].argmax())
    second = int(full_logits(lm, [*before, first])[-1].argmax())
    labels = [[first, second], [first, second ^ 1], [first ^ 1, second], [first]]
    found = lm._loglikelihood_tokens([(None, before, some) for some in labels], disable_tqdm=True)
    assert [flag for _, flag in found] == [True, False, False, True]


def test_a_continuation_that_is_nothing_or_too_long_is_an_error(make):
    for continuation in ("", "y" * 65):
        with pytest.raises(ValueError, match="allowed are 1 to 64"):
            make().loglikelihood(requests("loglikelihood", [("x", continuation)]), disable_tqdm=True)


def test_a_text_is_scored_once_in_windows(make, reference):
    lm = make(max_length=32)
    texts = ["", "short", "A text of exactly so many bytes.", "Longer than one window, " * 5]
    found = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in texts]), disable_tqdm=True)
    for text, total in zip(texts, found, strict=True):
        ids, expected, done = lm.tok_encode(text), 0.0, 0
        while done < len(ids):  # each window ends 32 tokens on, and sees as many as fit: the last one sees more
            end = min(done + 32, len(ids))
            before = [lm.tokenizer.bos_token_id, *ids][max(end - 32, 0) : done + 1]
            expected += reference(lm, before, ids[done:end])[0]
            done = end
        np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert found[0] == 0.0


def answers(lm, contexts, **kwargs):
    return lm.generate_until(requests("generate_until", [(c, dict(kwargs)) for c in contexts]), disable_tqdm=True)


def test_greedy_answers_are_the_most_likely_tokens(make, full_logits):
    lm = make()
    contexts = ["What is a fever?", "b", "", "A prompt that is too long for the model and its answer, so it is cut."]
    expected = []
    for context in contexts:
        ids = (lm.tok_encode(context) or [lm.tokenizer.bos_token_id])[-40:]
        answer = []
        while len(answer) < 24 and not (answer and answer[-1] in lm.engine.stop_ids):
            answer.append(int(full_logits(lm, [*ids, *answer])[-1].argmax()))
        expected.append(lm.tokenizer.decode(answer, skip_special_tokens=True))
    assert answers(lm, contexts, until=[], max_gen_toks=24) == expected
    assert answers(lm, contexts[::-1], until=None, max_new_tokens=24, do_sample=False, top_p=0.9) == expected[::-1]


def test_stop_texts_end_an_answer_and_are_no_part_of_it(make):
    lm = make(max_length=128)
    contexts = ["What is a fever?", "Name three colours.", "b"]
    whole = answers(lm, contexts, until=[], max_gen_toks=64)
    one = next(c for c in whole[0][2:] if c.isascii())
    at = next(i for i in range(2, 60) if whole[1][i : i + 2].isascii())
    two = whole[1][at : at + 2]
    expected = [min((text.partition(stop)[0] for stop in (one, two)), key=len) for text in whole]
    assert answers(lm, contexts, until=[one, two, ""], max_gen_toks=64) == expected
    assert expected[0] != whole[0] and expected[1] != whole[1]
    assert answers(lm, contexts, until=one, max_gen_toks=64) == [text.partition(one)[0] for text in whole]
    ends = set(lm._stopping_at((one, two)).stop_ids) - set(lm.engine.stop_ids)
    assert ends == {lm.tok_encode(one)[0]}, "decoding ends early at the tokens that hold a stop text, and at no others"


def test_requests_with_different_options_keep_their_order(make):
    lm = make(max_length=128, seed=3)
    contexts = [f"Question {i}" * (i % 3 + 1) for i in range(10)]
    options = [{"until": [], "max_gen_toks": (4, 8)[i % 2]} for i in range(10)]
    found = lm.generate_until(requests("generate_until", list(zip(contexts, options, strict=True))), disable_tqdm=True)
    alone = [answers(lm, [context], **how)[0] for context, how in zip(contexts, options, strict=True)]
    assert found == alone and len(set(alone)) > 5
    sampled = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    assert answers(lm, contexts, **sampled) == answers(make(max_length=128, seed=3), contexts, **sampled)
    assert answers(lm, contexts, **sampled) != answers(make(max_length=128, seed=4), contexts, **sampled)
    assert len(set(answers(lm, ["What?"] * 8, **sampled))) > 1, "repeats are drawn anew"


def test_thinking_is_stripped(make):
    lm = make()

    def text(answer, until=(), **how):
        return make(**how)._text(lm.tok_encode(answer), until)

    assert text("<think>first\n\nsecond</think>\n\nParis.\n\nMore", ("\n\n",)) == "Paris."
    assert text("<think>a</think> b </think> c") == "c"
    assert text(" Paris.") == " Paris."
    assert text("<think>without an end") == "<think>without an end"
    assert text("<think>a</think>b", think_end="") == "<think>a</think>b"
    assert text("Paris.<|im_end|>") == "Paris."
    assert text("[T]a[/T] b", think_end="[/T]") == "b"
    # One token of the vocabulary, which decoding leaves out as a special one. Such a model is not stopped early.
    thinker = make(think_end="<|im_start|>")
    assert thinker._text(lm.tok_encode("thought<|im_start|>\nParis."), ()) == "Paris."
    assert thinker._stopping_at(("\n",)).stop_ids == lm.engine.stop_ids


def test_a_new_length_compiles_nothing_new(make):
    lm = make(max_length=256)
    lm.params  # noqa: B018
    pairs = [("c" * n, "abc") for n in range(1, 250, 9)]

    before = metrics.compilations()
    lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    assert metrics.compilations() - before == 3, "widths 64, 128 and 256"
    lm.loglikelihood(requests("loglikelihood", [("d" * n, "abcdefgh") for n in range(3, 240, 7)]), disable_tqdm=True)
    assert metrics.compilations() - before == 3
    answers(lm, ["c" * n for n in range(1, 120, 5)], until=["c"], max_gen_toks=8)
    before = metrics.compilations()
    answers(lm, ["c" * n for n in range(2, 120, 7)], until=["c"], max_gen_toks=8)
    assert metrics.compilations() == before


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, (256, 0.0, ())),
        ({"until": "\n", "max_gen_toks": 5, "temperature": 0}, (5, 0.0, ("\n",))),
        ({"until": ["a", ""], "do_sample": True, "temperature": 0.7}, (256, 0.7, ("a",))),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, (256, 0.0, ())),
        ({"do_sample": True, "temperature": 1, "top_p": 1.0, "top_k": 0, "num_beams": 1}, (256, 1.0, ())),
    ],
)
def test_generation_options(kwargs, expected):
    assert harness.Generation.of(kwargs) == harness.Generation(*expected)


@pytest.mark.parametrize(
    "kwargs, says",
    [
        ({"do_sample": True, "temperature": 0.8, "top_p": 0.95}, "top_p = 0.95 is not supported; allowed is 1"),
        ({"do_sample": True, "temperature": 0.8, "top_k": 50}, "top_k = 50 is not supported; allowed is 0 or -1"),
        ({"num_beams": 10}, "num_beams = 10 is not supported"),
        ({"presence_penalty": 1.0}, "presence_penalty = 1.0 is not supported; allowed are until"),
        ({"do_sample": True}, "do_sample = True with temperature = 0"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0"),
    ],
)
def test_options_that_are_not_supported(kwargs, says):
    with pytest.raises(ValueError, match=says):
        harness.Generation.of(kwargs)


def test_no_room_for_the_answer(make):
    with pytest.raises(ValueError, match="max_gen_toks = 64: allowed is less than max_length = 64"):
        answers(make(), ["a"], until=[], max_gen_toks=64)
    with pytest.raises(ValueError, match="allowed is 2 to 8192"):
        make(max_length=8193)


def test_the_chat_template_and_its_bos(make, model):
    lm = make()
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a fever?"}
    text = lm.apply_chat_template([system, user])
    assert text == lm.tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
    said = {"role": "assistant", "content": "A high"}
    assert lm.apply_chat_template([user, said], add_generation_prompt=False).endswith("A high")
    assert lm.tokenizer_name == "tiny" and lm.chat_template(True) == lm.tokenizer.chat_template

    lm.tokenizer = load.tiny.tokenizer()  # one that puts a BOS in front
    bos = lm.tokenizer.bos_token_id
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", bos)])
    assert lm.tok_encode("ab")[0] == bos and len(lm.tok_encode("ab")) == 3
    assert lm.tok_encode(text).count(bos) == 3, "a turn each, and none in front of them"
    assert bos not in lm.tok_encode("ab", add_special_tokens=False)

    lm.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"
    )
    assert lm.apply_chat_template([system, user]) == "What is a fever?"
    lm.tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(templates.Refused):
        lm.apply_chat_template([user])


CHOICE = """
task: own_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["A", "B"]
doc_to_target: "{{answer}}"
"""
ANSWER = """
task: own_answer
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """
task: own_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "tasks"
    directory.mkdir()
    items = [{"question": f"What is {i} + 1?", "answer": i % 2} for i in range(6)]
    (directory / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    data = (
        f"dataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {{test: '{directory}/items.jsonl'}}}}\n"
    )
    for text in (CHOICE, ANSWER, ROLLING):
        (directory / f"{text.split()[1]}.yaml").write_text(text.lstrip() + data)
    (directory / "group.yaml").write_text(
        "group: own\ntask: [own_choice, own_text]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return directory


def restore_settings():
    jax.config.update("jax_default_matmul_precision", None)
    jax.config.update("jax_compilation_cache_dir", None)


def test_local_tasks_end_to_end(tasks, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"--include_path={tasks}", f"--out={out}", "--limit=4", "--batch_size=8", "--max_length=64"]
    try:
        names = "--tasks=own,own_answer"
        assert program.main(["evaluate.py", "--model=random:llama", names, *arguments, "--apply_chat_template"]) == 0
    finally:
        restore_settings()
    printed = capsys.readouterr()
    assert "own_choice" in printed.out and "exact_match" in printed.out and "|own " in printed.out
    assert "answering" in printed.err and "scoring" in printed.err
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["model_source"] == "random:llama" and "samples" not in results
    assert results["results"]["own_choice"]["acc,none"] in (0, 0.25, 0.5, 0.75, 1)
    rows = {
        t: [json.loads(line) for line in (out / f"samples_own_{t}.jsonl").open()] for t in ("choice", "answer", "text")
    }
    assert [len(some) for some in rows.values()] == [4, 4, 4]
    assert rows["answer"][2]["doc"]["question"] == "What is 2 + 1?"
    assert rows["answer"][2]["arguments"][0][0] == "<|im_start|>user\nWhat is 2 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert len(rows["choice"][0]["resps"]) == 2


def test_a_workdir_stands_for_its_export(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "export").mkdir()
    for file in ("config.json", "export/config.json", "export/tokenizer.json"):
        (tmp_path / file).write_text("{}")
    assert program._source(str(tmp_path)) == f"path:{tmp_path / 'export'}"
    assert program._source("random:llama") == "random:llama"


def test_options_of_a_task_are_checked_before_anything_is_computed(tasks, capsys):
    arguments = ["--model=random:llama", "--tasks=own_answer", f"--include_path={tasks}"]
    try:
        assert program.main(["evaluate.py", *arguments, "--gen_kwargs=do_sample=True,temperature=1,top_p=0.9"]) == 2
    finally:
        restore_settings()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "task own_answer: generation_kwargs: top_p = 0.9 is not supported; allowed is 1" in errors[0]
