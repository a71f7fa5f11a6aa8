"""Generated mistakes: every bad config and bad file of prompts is one line and exit code 2.

What is allowed of each key stands here a second time, so that a rule that is lost is missed.
"""

import importlib.util
import json
import math
import os
import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_errors import precision

from camopd_jax import metrics, plan, rules, sources, workdirs
from camopd_jax.models import load

ROOT = Path(__file__).parent.parent.parent
FIXED = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
NOT_NUMBERS = st.sampled_from([None, "3", "many", "", (), (1,), [2], {"a": 1}, b"1", 1j, math.nan, math.inf, -math.inf])
HUGE = st.sampled_from([10**400, -(10**400)])


def whole(least: int):
    good = st.integers(least, least + 40)
    bad = st.one_of(NOT_NUMBERS, st.integers(-(10**6), least - 1), st.sampled_from([True, False, 1.5, 2.0]))
    return good, bad


def number(low: float, high: float, *, low_in: bool = False, high_in: bool = False):
    good = st.floats(low, high, exclude_min=not low_in, exclude_max=not high_in)
    below = st.floats(max_value=low, exclude_max=low_in, allow_nan=False, allow_infinity=False)
    above = st.floats(min_value=high, exclude_min=high_in, allow_nan=False) if high < 1e9 else st.just(math.inf)
    return good, st.one_of(NOT_NUMBERS, below, above, HUGE, st.sampled_from([True] if high == 1e9 else [math.nan]))


def choice(*allowed: str):
    odd = st.sampled_from([None, 1, (), [], {}, "", "x", allowed[0].upper(), allowed[0] + " ", (allowed[0],)])
    return st.sampled_from(allowed), st.one_of(odd, st.text(min_size=1).filter(lambda s: s not in allowed))


def text(*allowed: str):
    return st.sampled_from(allowed), st.sampled_from([None, 1, 1.5, True, (), ["a"], {"a": 1}, b"a"])


ABOVE_0 = number(0, 1e9)
BETA = number(0, 1, low_in=True)
BRANCH = {
    "camopd.demand": choice("absolute", "positive"), "camopd.rho": number(0, 1, high_in=True), "camopd.scale": ABOVE_0,
}  # fmt: skip
OPTIM = {
    "name": choice("adamw", "sgd"), "learning_rate": ABOVE_0, "warmup_steps": whole(0), "b1": BETA, "b2": BETA,
    "eps": ABOVE_0, "weight_decay": number(0, 1e9, low_in=True), "clip_norm": ABOVE_0,
}  # fmt: skip
TUPLES = [None, 1, "", "general", (), [], {}, ("general", 1), (None,), (("general",),), ("domain", "other")]
ALLOWED = {  # of each key: good values, and bad ones
    "name": text("medical"), "preset": text("tiny"), "seed": whole(0), "steps": whole(1),
    "student": choice("general", "domain"),
    "teachers.general": text("random:llama"), "teachers.domain": text("specialise", "random:llama:1"),
    "data.general.source": text("builtin:general"), "data.domain.source": text("builtin:icd10"),
    "data.general.heldout": text(""), "data.domain.heldout": text(""),
    "data.general.count": whole(0), "data.domain.count": whole(1), "data.heldout_share": number(0, 1),
    "icd10.candidates": (st.integers(2, 10), st.one_of(NOT_NUMBERS, st.integers(-5, 1), st.integers(11, 99))),
    "chat.system": text("", "Be brief."), "chat.thinking": choice("on", "off", "template"),
    "chat.date": choice("2026-01-01", "2024-02-29"),
    "specialise.source": text(""), "specialise.count": whole(0), "specialise.steps": whole(1),
    "specialise.batch_size": whole(1), "specialise.seed": whole(0), "specialise.checkpoint_every": whole(1),
    "rollout.batch_size": whole(1), "rollout.rows_at_once": whole(1), "rollout.max_prompt_tokens": whole(1),
    "rollout.long_prompts": choice("error", "drop", "cut"), "rollout.max_new_tokens": whole(1),
    "rollout.temperature": ABOVE_0,
    "camopd.method": choice("camopd", "no_selection", "no_scaling"), "camopd.schedule": choice("method"),
    "camopd.loss": choice("sampled"), "camopd.loss_top_k": whole(1), "camopd.idle_teachers": choice("host", "reread"),
    "camopd.cycle": (st.lists(st.sampled_from(["general", "domain"]), min_size=1).map(tuple), st.sampled_from(TUPLES)),
    "camopd.weight_band": (
        st.tuples(st.floats(0, 1), st.floats(1, 1e6)),
        st.sampled_from([None, 1.0, (), (1.0,), (2.0, 3.0), (0.5, 0.9), (-1.0, 2.0), ("0", "2"), (0, 1, 2),
                         (math.nan, 2.0), (0.5, math.nan)]),
    ),
    "camopd.relaxed.mixture": number(0, 0.5), "camopd.relaxed.first_fraction": number(0, 1, high_in=True),
    "camopd.relaxed.last_fraction": number(0, 1, high_in=True), "camopd.selectkd.test": choice("top_k", "speculative"),
    "camopd.selectkd.top_k": whole(1), "camopd.selectkd.beta": BETA,
    "lora.rank": whole(0), "lora.alpha": ABOVE_0,
    "lora.targets": (st.sampled_from([("q",), ("q", "v")]), st.sampled_from([*TUPLES, ("q_proj",), "q"])),
    "precision": choice("float32", "bfloat16"), "export.dtype": choice("float32", "bfloat16"),
    "micro.rows": whole(1), "micro.width": (st.integers(2000, 4000), whole(1)[1]), "micro.logit_chunk": whole(1),
    "micro.slots": (st.integers(600, 900), whole(1)[1]),
    "micro.remat": choice("none", "dots", "full"),
    **{f"mesh.{axis}": (st.sampled_from([-1, 1]), st.one_of(NOT_NUMBERS, st.integers(-9, -2), st.sampled_from([1.0])))
       for axis in ("replica", "fsdp", "tensor")},
    **{f"checkpoint.{key}": whole(least) for key, least in (("every", 1), ("keep_last", 1), ("keep_best", 0))},
    **{f"eval.{key}": whole(2) for key in ("prompts", "general_prompts", "instructions", "domain_prompts")},
    **{f"eval.{key}": whole(1)
       for key in ("batch_size", "max_new_tokens", "max_instruction_tokens", "max_domain_tokens")},
    "eval.every": whole(0), "eval.seed": whole(0),
    "eval.interpolation": (st.lists(number(0, 1)[0]).map(tuple),
                           st.sampled_from([None, 0.5, "0.5", "", {}, (0,), (1.0,), ("0.5",), (None,), (math.nan,)])),
    "diagnostics.every": whole(0), "diagnostics.prompts": (st.just(1), whole(1)[1]),
    **{f"report.{key}": whole(least) for key, least in (("rollouts", 0), ("tokens", 1), ("answers", 0))},
    **{f"{key}.{branch}": which for key, which in BRANCH.items() for branch in ("general", "domain")},
    **{f"{stage}.{key}": which for key, which in OPTIM.items() for stage in ("optim", "specialise.optim")},
}  # fmt: skip
SHARE = number(0, 1, low_in=True, high_in=True)
ALLOWED |= {
    "guard.on_spike": choice("warn", "skip", "stop"), "guard.spike_factor": number(1, 1e9), "guard.entropy": ABOVE_0,
    **{f"guard.{key}": whole(1) for key in ("spike_window", "spike_after", "steps")},
    **{f"guard.{key}": SHARE for key in ("w_kept", "eos_rate", "entropy_left")},
    "guard.length_ratio": ALLOWED["camopd.weight_band"], "guard.stall_seconds": number(0, 1e9, low_in=True),
    "data.licensed": (st.sampled_from([(), ("general",)]), st.sampled_from([None, 1, ("law",), (1,), "general"])),
    "data.licensed_shown": (st.sampled_from([(), ("answers",)]), st.sampled_from([None, 1, ("law",), (1,), "answers"])),
}  # fmt: skip
OWN = """
import json, math
from math import inf, nan
import runpy

def get_config():
    c = runpy.run_path({medical!r})["get_config"]("tiny").unlock()
    with c.ignore_type():
        {change}
    return c
"""


def medical():
    return runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"]("tiny")


KEYS = sorted(key for key, _ in workdirs.flat(medical().to_dict()))


def put(key: str, value: object) -> str:
    """Python that sets a key of the config c; a section is replaced as a whole, which leaves the value as it is."""
    *sections, name = key.split(".")
    home = "".join(["c", *(f"[{s!r}]" for s in sections)])
    return f"{home} = {{**{home}, {name!r}: {value!r}}}" if sections else f"{home}[{name!r}] = {value!r}"


def without(key: str) -> str:
    *sections, name = key.split(".")
    return "".join(["del c", *(f"[{s!r}]" for s in sections), f"[{name!r}]"])


CONTRADICTIONS = (
    "c.micro.width = 100", "c.micro.slots = 4", "c.diagnostics.prompts = c.eval.prompts + 1",
    "c.teachers.general = 'specialise'", "c.data.domain.heldout = c.data.domain.source",
    "c.camopd.method = 'selectkd'; c.camopd.loss = 'full'", "c.camopd.method = 'mix'; c.rollout.batch_size = 6",
    "c.camopd.method = 'vanilla_mopd'; c.camopd.cycle = ('domain',)", 
    "c.camopd.loss = 'top_k'; c.camopd.loss_top_k = 9999",
    "c.camopd.method = 'general_only'; c.camopd.schedule = 'halves'", "c.mesh.replica = 3", "c.mesh.tensor = 7",
    "c.student = 'law'", "c.teachers.law = 'random:llama'", "c.rollout.max_prompt_tokens = 9000",
    "c.teachers.domain = 'random:llama'; c.specialise.source = 'builtin:icd10'",
)  # fmt: skip
BAD_VALUE = st.sampled_from(KEYS).flatmap(lambda key: ALLOWED[key][1].map(lambda value: put(key, value)))
BAD_CONFIG = st.one_of(
    BAD_VALUE,
    BAD_VALUE,
    st.sampled_from(KEYS).map(without),
    st.sampled_from(KEYS).flatmap(lambda k: st.sampled_from(["x", "s", "_"]).map(lambda end: put(k + end, 1))),
    st.sampled_from(sorted({key.rpartition(".")[0] for key in KEYS} - {""})).map(lambda s: put(s, 3)),
    st.sampled_from(CONTRADICTIONS),
)


def accepted(config, read):
    """In the place of the last thing that a run does before it writes."""
    raise RuntimeError("the mistake was accepted")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """bin/train.py in a directory of its own."""
    spec = importlib.util.spec_from_file_location("train_program", ROOT / "bin" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plan, "estimate", accepted)
    with precision("highest"):
        load.load("random:llama")  # what this model is made with compiles once in a process
        yield module


def refused(program, capsys, *flags: str) -> str:
    """The line of a mistake: one, exit code 2, nothing computed, and nothing written but __pycache__."""
    before, compiled = sorted(os.listdir()), metrics.compilations()
    code = program.main(["bin/train.py", *flags, "--workdir=run"])
    output, errors = capsys.readouterr()
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in output + errors, (code, output, errors)
    assert len(errors.splitlines()) == 1, errors
    assert sorted(set(os.listdir()) - {"__pycache__"}) == sorted(set(before) - {"__pycache__"})
    assert metrics.compilations() == compiled, "something was computed"
    return lines[0]


def test_all_keys_are_generated():
    assert set(KEYS) <= set(ALLOWED)


def test_a_bad_config_is_one_line(program, capsys):
    seen = set()

    @settings(max_examples=300, **FIXED)
    @given(BAD_CONFIG)
    def check(change):
        seen.add(change)
        Path("own.py").write_text(OWN.format(medical=str(ROOT / "configs" / "medical.py"), change=change))
        refused(program, capsys, "--config=own.py")

    check()
    assert len(seen) >= 200


@settings(max_examples=100, **FIXED)
@given(st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), ALLOWED[key][0])))
def test_a_good_value_is_accepted(drawn):
    key, value = drawn
    config = medical().unlock()
    config.micro.width, config.micro.slots = 2000, 600
    with config.ignore_type():
        exec(put(key, value), {"c": config, "inf": math.inf, "nan": math.nan})
        if key == "eval.prompts":
            config.diagnostics.prompts = 1
    rules.check_config(config)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda s: s.strip())
ODD = st.sampled_from(
    ["\0", "a\0b", "a\u2028b", "\x1b[31mred", "\ufeffx", "\U0001f600", "‮abc", "e\u0301" * 50, "\\ud800"]
)
USERS = st.one_of(TEXT, ODD)
GOOD_ROW = st.one_of(
    st.fixed_dictionaries({"prompt": USERS}, optional={"id": st.one_of(TEXT, st.integers()), "answer": USERS,
                                                       "system": TEXT,
                                                       "extra": st.recursive(st.none() | st.floats(allow_nan=False,
                                                       allow_infinity=False), st.lists, max_leaves=5)}),
    USERS.map(lambda t: {"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t}]}),
)  # fmt: skip
NOT_TEXT = st.sampled_from([1, 1.5, True, [], {}, ["a"], {"text": "a"}, "", " \n", 10**300, 1e300])
BAD_ROW = st.one_of(
    NOT_TEXT.map(lambda x: {"prompt": x}),
    NOT_TEXT.filter(bool).map(lambda x: {"messages": x}),
    NOT_TEXT.map(lambda x: {"messages": [{"role": "user", "content": x}]}),
    NOT_TEXT.map(lambda x: {"prompt": "a", "answer": x}),
    NOT_TEXT.map(lambda x: {"prompt": "a", "system": x}),
    st.sampled_from([True, [], {}, [1], {"a": 1}]).map(lambda x: {"prompt": "a", "id": x}),
    st.sampled_from(["x", 1, {}, [1], [{}], [{"kind": 1}], ["a"]]).map(lambda x: {"prompt": "a", "checks": x}),
    st.sampled_from([None, "human", "", 1, [], {}]).map(lambda x: {"messages": [{"role": x, "content": "a"}]}),
    st.sampled_from([{}, {"Prompt": "a"}, {"text": "a"}, {"messages": []}, {"messages": None}, {"prompt": None},
                     {"prompt": "\ud800"},
                     {"messages": [{"role": "user", "content": "a\udfff"}]}, {"messages": [{"role": "assistant",
                     "content": "a"}]}, {"messages": [{"content": "a"}]}, {"messages": [None]}]),
    st.sampled_from([None, 1, 1.5, True, "prompt", [], ["prompt"], [[]]]),
)  # fmt: skip
GOOD_LINE = b'{"prompt": "What is 1 + 1?", "answer": "2"}'
BESIDE = st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False))
BAD_LINE = st.one_of(
    BAD_ROW.map(lambda row: json.dumps(row).encode()),
    *[
        st.tuples(BAD_ROW.filter(lambda row: isinstance(row, dict)), BESIDE).map(
            lambda drawn: json.dumps({"extra": drawn[1], **drawn[0]}).encode()
        )
    ]
    * 3,
    st.integers(1, len(GOOD_LINE) - 1).map(lambda n: GOOD_LINE[:n]),
    st.sampled_from([
        b"{'prompt': 'a'}", b'{"prompt": "a"}}', b'{"prompt": "a"},', b'{"prompt": a}', b'"prompt": "a"', 
        b"{prompt: 1}",
        b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": "a", "id": ' + b"1" * 5000 + b"}", b'{"prompt": NaN}',
        b'{"prompt": Infinity}', b'{"messages": -Infinity}', b'{"prompt": "\xff"}', b'{"prompt": "\xe2\x82"}',
        b"\xe2\x82",
        b'{"prompt": "a\x00b"}', b"\x00", b'\xff\xfe{\x00"\x00', b'\xef\xbb\xbf{"prompt": "a"}', b'{"prompt": "a\tb"}',
        b'{"prompt": "a", "checks": ' + b'[{"kind": "x", "n": ' * 400 + b"1" + b"}]" * 400 + b"}", b"\x1e{}", b"nul",
    ]),
    st.binary(min_size=1, max_size=30).filter(lambda b: b.strip() and b"\n" not in b and b"\r" not in b),
)  # fmt: skip
BLANK = st.sampled_from([b"", b" ", b"\t", b"\r"])


def test_a_bad_line_is_one_line_that_names_it(program, capsys):
    seen = set()

    @settings(max_examples=600, **FIXED)
    @given(BAD_LINE, st.integers(0, 12), st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"", b"\xef\xbb\xbf"]))
    def check(line, place, end, mark):
        seen.add(line)
        lines = [GOOD_LINE] * 12
        lines.insert(place, line)
        # Where the first line begins with a mark already, another one is no mistake.
        mark = b"" if line.startswith(b"\xef\xbb\xbf") and not place else mark
        body = mark + end.join(lines)
        if not place and body.startswith(b"\xef\xbb\xbf") and not mark:
            return
        Path("bad.jsonl").write_bytes(body)
        flags = ("--config=medical.py:tiny", "--config.data.general.source=path:bad.jsonl")
        said = refused(program, capsys, *flags)
        assert f"bad.jsonl:{place + 1}: " in said, said

    Path("medical.py").write_text((ROOT / "configs" / "medical.py").read_text())
    check()
    assert len(seen) >= 200


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf", b"\n\n \n", b"\r\n", b"\t"])
def test_a_file_without_rows_is_one_line(body, program, capsys):
    Path("bad.jsonl").write_bytes(body)
    Path("medical.py").write_text((ROOT / "configs" / "medical.py").read_text())
    flags = ("--config=medical.py:tiny", "--config.data.general.source=path:bad.jsonl")
    assert "it has no rows" in refused(program, capsys, *flags)


@settings(max_examples=150, **FIXED)
@given(st.lists(st.tuples(GOOD_ROW, st.lists(BLANK, max_size=2)), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_good_rows_are_accepted_and_keep_their_text(tmp_path_factory, drawn, ascii_alone, mark):
    path = tmp_path_factory.getbasetemp() / "good.jsonl"
    lines = [line for row, blank in drawn for line in (json.dumps(row, ensure_ascii=ascii_alone).encode(), *blank)]
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + b"\r\n".join(lines))
    got = sources.read(f"path:{path}")
    given_ = [row["prompt"] if "prompt" in row else row["messages"][0]["content"] for row, _ in drawn]
    assert [next(m["content"] for m in r.messages if m["role"] == "user") for r in got] == given_
