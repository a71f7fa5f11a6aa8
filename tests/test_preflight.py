"""The page of checks of a start: what it says, what it remembers, and each check by itself with something wrong."""

import importlib.util
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from camopd_jax import checked, inputs, page, preflight, renderings, rules, workdirs
from camopd_jax.chat import Chat, Statistics
from camopd_jax.models import export, load, tiny

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "medical.py"
GROUPS = ("config", "data", "tokens", "disk", "memory", "weights", "self-test", "time")


def config(preset="tiny", **changes):
    made = runpy.run_path(str(CONFIG))["get_config"](preset)
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return made


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache of its own, and JAX's settings back in place afterwards."""
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    names = ("jax_default_matmul_precision", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_page_has_a_figure_for_each_check_and_remembers_what_was_proved(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("train_program", ROOT / "bin" / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    workdir, pages = tmp_path / "run", []
    for more in ((), (), ("--config.checkpoint.keep_last=1",), ("--config.rollout.temperature=0.9",)):
        arguments = [f"--config={CONFIG}:tiny", "--check", f"--workdir={workdir}", *more]
        assert train.main(["train.py", *arguments]) == 0
        pages.append(capsys.readouterr().out)
    assert not workdir.exists()
    page = pages[0]
    starts = [re.search(rf"^  {group} .*\d", page, re.MULTILINE).start() for group in GROUPS]
    assert starts == sorted(starts)
    for says in (
        " keys, all there", "560 rows, 448 to train on", "in all 792 rows of 3 sources", "none empty",
        "496 prompts that train and 40 that are held out", "none is both",
        "general: 258 tokens, the student's; ", "checkpoints 0.0014 GB", "GB at the fullest",
        "in 20 tensors, all there, of the right shape and finite; fingerprint", "the two differ by 0 nats",
        "scoring gives the ", "All checks are passed",
    ):  # fmt: skip
        assert says in page, says
    assert re.search(r"^  checked in \d+\.\d s$", page, re.MULTILINE)
    cached = [page.count("(from the cache)") for page in pages]
    assert cached == [0, 2, 2, 1], "weights and self-tests; these depend on the temperature, and not on checkpoints"


def branch(*prompts):
    return SimpleNamespace(
        prompts=[np.array(p, np.int32) for p in prompts], prompt_ids=[f"row-{i}" for i in range(len(prompts))],
        heldout=[],
    )  # fmt: skip


def data(general, domain=((9, 9),), heldout=((5,),), task=((6,),), examples=None):
    """What `apart` sees of a run."""
    parts = {"general": branch(*general), "domain": branch(*domain)}
    parts["domain"].heldout = branch(*heldout).prompts
    none, some = SimpleNamespace(encoded=[]), SimpleNamespace(encoded=branch(*task).prompts)
    suite = SimpleNamespace(general=none, instructions=none, domains={"domain": some})
    learnt = None if examples is None else branch(*examples)
    return SimpleNamespace(config=config(rollout__batch_size=2), branches=parts, suite=suite, examples=learnt)


def test_no_prompt_that_trains_is_held_out_by_hand():
    assert list(preflight.apart(data([(1, 2), (3,)], examples=[(1,), (1, 2)]))) == [
        "5 prompts that train and 2 that are held out, compared as token ids: none is both"
    ]
    for what, both in (
        (data([(1,), (5,)]), r"config.data.general: 1 of its 2 prompts .* for example row-1; "),
        (data([(1,), (2,)], domain=[(6,), (6,)]), "config.data.domain: 2 of its 2 prompts"),
        (data([(1,), (2,)], examples=[(0,), (5,)]), r"config.specialise: 1 of its 2 prompts .* for example 2; "),
    ):
        with pytest.raises(ValueError, match=both):
            list(preflight.apart(what))


def test_a_source_that_is_smaller_than_a_batch_is_told():
    _, warning = preflight.apart(data([(1,)]))
    assert warning == "warning: data.general: 1 prompts for 2 of a step; some stand in it twice"


PLAIN = Chat(system="", thinking="template", date="2026-01-01")


def other(old, new):
    """The tiny tokenizer with another template."""
    tokenizer = tiny.tokenizer()
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    return tokenizer


def test_a_difference_of_templates_is_shown_token_by_token():
    ours = tiny.tokenizer()
    assert renderings.difference(ours, tiny.tokenizer(), PLAIN) is None
    # A byte is a token: <|im_start|> 1, "user\n" 5, the question, <|im_end|> and "\n" 2, <|im_start|> 1, "assistant" 9
    question = renderings.SAMPLES["a question"][0]["content"]
    at = 1 + 5 + len(question) + 2 + 1 + 9
    newline = ours.convert_tokens_to_ids("Ċ")
    thinks = other("assistant\n{% endif %}", "assistant<|im_end|>\n{% endif %}")
    assert renderings.difference(ours, thinks, PLAIN) == (
        rf"a question: token {at} is '<|im_end|>' (257), '\n' ({newline}) there and '\n' ({newline}) here, after 'ant'"
    )
    shorter = other("assistant\n{% endif %}", "assistant{% endif %}")
    assert renderings.difference(ours, shorter, PLAIN) == (
        rf"a question: token {at} is none, as it ends there and '\n' ({newline}) here, after 'ant'"
    )
    first = other("{% for m", "A{% for m")
    assert "token 0 is 'A'" in renderings.difference(ours, first, PLAIN)
    assert renderings.difference(ours, first, PLAIN).endswith("here, at the very beginning")


def test_every_sample_and_the_options_of_the_config_are_rendered():
    ours = tiny.tokenizer()
    system = other("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    assert renderings.difference(ours, system, PLAIN).startswith("a question below a system message: token 1 is 'u'")
    turns = other(
        "{{ m['content'] }}<|im_end|>", "{{ m['content'] }}{% if m['role'] == 'assistant' %}!{% endif %}<|im_end|>"
    )
    assert renderings.difference(ours, turns, PLAIN).startswith("a question after an answer: ")
    refuses = other(
        "{% for m", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m"
    )
    assert "the chat template refuses it (no system)" in renderings.difference(ours, refuses, PLAIN)
    assert renderings.difference(refuses, ours, PLAIN) is None, "what the student's template refuses does not come up"
    assert len(renderings.prompts(refuses, PLAIN)) == 2
    with pytest.raises(ValueError, match=r"a plain question: the chat template refuses it \(no system\)"):
        renderings.prompts(refuses, Chat(system="Be brief.", thinking="template", date="2026-01-01"))
    thinking = other(
        "assistant\n", "assistant\n{% if enable_thinking is defined and not enable_thinking %}-{% endif %}"
    )
    assert renderings.difference(ours, thinking, PLAIN) is None
    assert "is '-'" in renderings.difference(ours, thinking, Chat(system="", thinking="off", date="2026-01-01"))


def tokenizers(**changes):
    """The page's lines on a teacher beside the student."""
    base = load.load("random:llama")
    teacher = replace(load.load("random:llama:1"), **changes)
    engine = SimpleNamespace(tokenizer=base.tokenizer, stop_ids=base.stop_ids, numerics=SimpleNamespace(vocab=258))
    models = {"general": base, "second": teacher}
    read = SimpleNamespace(config=config(), engine=engine, models=models, base=base, specialised=None)
    return list(preflight._tokenizers(read, Path("nowhere")))


def test_a_teacher_with_habits_of_its_own_is_warned_of():
    assert not [line for line in tokenizers() if "warning" in line]
    (warning,) = [line for line in tokenizers(tokenizer=other("{% for m", "A{% for m")) if "warning" in line]
    assert warning.startswith("warning: config.teachers.second = 'random:llama:1': its chat template renders a ")
    assert "token 0 is 'A'" in warning and "\n" not in warning
    (warning,) = [line for line in tokenizers(stop_ids=(257, 10)) if "warning" in line]
    assert (
        "its responses end with '<|im_end|>' (257), " in warning and "the student's with '<|im_end|>' (257);" in warning
    )


def test_a_teacher_that_never_ends_as_the_student_does_is_refused():
    base, other_ = load.load("random:llama"), load.load("random:llama:1")
    engine = SimpleNamespace(tokenizer=base.tokenizer, stop_ids=(257, 10), numerics=SimpleNamespace(vocab=258))
    inputs._same_tokens({"general": base, "second": other_}, engine)
    inputs._same_tokens({"second": replace(other_, stop_ids=(10,))}, engine)
    with pytest.raises(
        ValueError, match=r"config.teachers.second .* end with '<\|im_start\|>' \(256\), the student's with"
    ):
        inputs._same_tokens({"general": base, "second": replace(other_, stop_ids=(256,))}, engine)


def statistics(source, **changes):
    none = dict.fromkeys(
        ("rows", "duplicates", "available", "kept_out", "dropped", "cut", "limit", "tokens", "longest"), 0
    )
    return Statistics(source=source, split="train", used=1, **none | changes)


def test_a_source_with_two_parts_is_counted_once():
    parts = [
        ("data.general", statistics("path:a", rows=1000, duplicates=7, dropped=2)),
        ("eval.general", statistics("path:a", rows=1000, duplicates=7, dropped=1, cut=4)),
        ("data.domain", statistics("path:b", rows=50, cut=1)),
    ]
    *lines, last = preflight._data(SimpleNamespace(statistics=parts))
    assert [line.split(": ")[0] for line in lines] == [
        "data.general path:a",
        "eval.general path:a",
        "data.domain path:b",
    ]
    assert last == "in all 1,050 rows of 2 sources, 7 duplicates, 3 prompts left out and 5 cut as too long, none empty"


def with_bad(model, where, count):
    def read(name, layer, index):
        values = np.array(model.read(name, layer, index))
        if (name, layer) == where:
            values.flat[:count] = np.inf
        return values

    return replace(model, read=read)


def test_every_tensor_is_read_once_and_the_first_that_is_not_finite_is_named(tmp_path):
    model, seen = load.load("random:llama"), []
    noted = replace(model, read=lambda *a: seen.append(a[:2]) or model.read(*a))
    assert checked.finite(noted) == (20, False)  # 2 layers of 9 tensors, embedding, norm
    assert len(set(seen)) == len(seen) == 20
    assert checked.finite(noted) == (20, True) and len(seen) == 20
    bad = replace(with_bad(model, ("down", 1), 3), fingerprint="another")
    for _ in range(2):  # what is not in order is not remembered
        with pytest.raises(
            ValueError, match=r"random:llama: 3 of the 2048 values of model.layers.1.mlp.down_proj.weight"
        ):
            checked.finite(bad)


def test_weights_of_the_hub_that_changed_under_their_commit_are_looked_at_again(tmp_path):
    model, directory = load.load("random:llama"), tmp_path / "model"
    source = f"hf:org/name@{'0' * 40}"
    export.save_directory(directory, model.cfg, model.read, model.tokenizer, stop_ids=model.stop_ids, dtype="float32")
    whole = load.load_directory(directory, source)
    assert [checked.finite(whole)[1] for _ in range(2)] == [False, True]
    file = directory / "model.safetensors"
    save_file({name: values * np.float32("nan") for name, values in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="are not finite numbers"):
        checked.finite(load.load_directory(directory, source))


def test_the_libraries_that_shape_a_figure_are_those_that_compile_and_compute():
    found = checked.libraries()
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint"} <= found.keys()
    assert not {"pytest", "transformers"} & found.keys()
    assert checked.processor() or jax.default_backend() != "cpu"


def test_half_precision_is_looked_at_too():
    model = load.load("random:llama")
    half = with_bad(replace(model, read=lambda *a: model.read(*a).astype(jax.numpy.bfloat16)), ("norm", None), 1)
    with pytest.raises(ValueError, match=r"1 of the 32 values of model.norm.weight"):
        checked.finite(half)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_not_finite_is_counted_by_hand(dtype):
    largest = float(jax.numpy.finfo(dtype).max)
    values = np.array([0.0, -0.0, 1e-40, -largest, largest, np.inf, -np.inf, np.nan, -np.nan]).astype(
        jax.numpy.dtype(dtype)
    )
    assert checked.not_finite(values) == 4
    assert checked.not_finite(values[:5]) == 0 and checked.not_finite(values[:0]) == 0
    assert [checked.not_finite(values[i : i + 1]) for i in range(5, 9)] == [1, 1, 1, 1]


def test_what_the_cache_lost_is_computed_again(tmp_path):
    calls = []
    for damage in (None, "", '{"a"', "[1]"):
        found = checked.remembered({"key": 1}, lambda: calls.append(1) or {"a": 0.1})
        assert found == ({"a": 0.1}, False)
        assert checked.remembered({"key": 1}, dict) == ({"a": 0.1}, True)
        (file,) = (tmp_path / "cache" / "checked").iterdir()
        assert json.loads(file.read_text()) == {"a": 0.1}
        if damage is not None:
            file.write_text(damage)
        else:
            file.unlink()
    assert len(calls) == 4
    assert checked.remembered({"key": 2}, dict) == ({}, False)


def test_the_key_of_the_self_tests_holds_what_shapes_them(monkeypatch):
    engine = SimpleNamespace(
        mesh=SimpleNamespace(shape={"replica": 8}), numerics=SimpleNamespace(vocab=258), stop_ids=(257,),
        tokenizer=tiny.tokenizer(),
    )  # fmt: skip

    def key(fingerprint="f", stamps=(), **changes):
        models = {"general": SimpleNamespace(fingerprint=fingerprint, stamps=stamps)}
        return checked.cached.digest(
            checked.shaped_by(SimpleNamespace(config=config(**changes), engine=engine, models=models))
        )

    assert key() == key(seed=3, steps=100, checkpoint__every=4)
    different = [
        key(), key("g"), key(stamps=(("a", 1, 2),)),
        key(precision="bfloat16"), key(camopd__loss="full"), key(lora__rank=4),
        key(micro__remat="none"), key(rollout__temperature=0.9), key(chat__system="Be brief."),
        key(micro__logit_chunk=7),
    ]  # fmt: skip
    monkeypatch.setattr(checked, "package", lambda: "another source")
    different.append(key())
    monkeypatch.setattr(checked.jax, "device_count", lambda: 3)
    different.append(key())
    for name in checked.FLAGS:
        monkeypatch.setenv(name, "another")
        different.append(key())
    for what in ("libraries", "processor"):
        monkeypatch.setattr(checked, what, lambda: {"another": "1"})
        different.append(key())
    kind = jax.devices()[0]
    another = SimpleNamespace(
        platform=kind.platform, device_kind=kind.device_kind, client=SimpleNamespace(platform_version="another")
    )
    monkeypatch.setattr(checked.jax, "devices", lambda: [another])
    different.append(key())
    assert len(set(different)) == len(different)


def test_the_keys_are_counted_and_doubts_are_told():
    for preset in ("tiny", "three", "small", "paper"):
        c = config(preset)
        assert rules.check_config(c) == len(list(workdirs.flat(c.to_dict())))
        assert rules.doubts(c) == []
    told = rules.doubts(config(steps=3))
    assert told == ["config.optim.warmup_steps = 4: the learning rate is not reached in 3 updates"]
    (told,) = rules.doubts(config(eval__every=0))
    assert told.startswith("config.checkpoint.keep_best = 1: nothing is evaluated in between")
    assert rules.doubts(config(eval__every=0, checkpoint__keep_best=0)) == []
    (told,) = rules.doubts(config(camopd__cycle=("domain",)))
    assert told == "config.camopd.cycle = ('domain',): the general teacher recovers nothing, as no step asks it"
    assert rules.doubts(config(camopd__cycle=("domain",), camopd__method="general_only")) == []
    assert len(rules.doubts(config(specialise__optim__warmup_steps=5))) == 1
    assert rules.doubts(config(specialise__optim__warmup_steps=5, teachers__domain="random:llama:1")) == []


def test_self_tests_that_failed_are_not_remembered(monkeypatch, tmp_path):
    ends = {"responses": 2, "ends": 2, "padded": 2, "slots": 9, "tokens": 9}
    agrees = {"tokens": 9, "mean": 0.0, "most": 0.0, "warmer": 0.0}
    good = {"gap": 0.0, "still": 0.0, "follows": 0.0, "moved": {"general": 1.0}, "asked": 0.0, "scored": agrees}
    good |= {"stopped": {"responses": 2, "ended": 2, "right": 2}, "ends": ends, "teachers": {}}
    read = SimpleNamespace(config=config(), examples=None)
    monkeypatch.setattr(checked, "shaped_by", lambda read: {})
    for gap, cached in ((1.0, None), (1.0, None), (0.0, 0), (1.0, 1)):  # the last one is not computed
        monkeypatch.setattr(preflight.selftest, "figures", lambda read, gap=gap: good | {"gap": gap})
        if cached is None:
            with pytest.raises(ValueError, match="self-test failed"):
                list(preflight._self_tests(read))
        else:
            assert "\n".join(preflight._self_tests(read)).count("from the cache") == cached


def test_processes_with_other_weights_or_prompts_are_named(monkeypatch):
    models = {"general": SimpleNamespace(source="path:model", fingerprint="f")}
    read = SimpleNamespace(models=models, digests=lambda: {"general": "d", "domain": "e"})
    program = SimpleNamespace(read=lambda config: read)
    other = [{"general": ["path:model", "f"]}, {"general": "d", "domain": "another"}]
    for third, differs in ((None, None), (other, "domain"), ([{"general": ["path:model", "g"]}, other[1]], "general")):
        monkeypatch.setattr(page.hosts, "gather", lambda mine, third=third: [(x or mine, b"") for x in (0, 0, third)])
        if differs is None:
            assert page._checked(program, config(), Path("nowhere"), ()).models == {"general": ["path:model", "f"]}
            continue
        with pytest.raises(
            ValueError, match=f"config.teachers.{differs} or config.data.{differs}: process 2 has other"
        ):
            page._checked(program, config(), Path("nowhere"), ())
