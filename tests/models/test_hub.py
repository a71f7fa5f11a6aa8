"""A snapshot of the hub: the right files and commit, the cache where there is no network, one line for each failure.

A small server stands in for the hub and answers as huggingface_hub asks: revision, list of files, files.
"""

import errno
import hashlib
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants, hf_hub_download

from camopd_jax.models import hub

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"x": "model-1.safetensors"}}).encode(),
    "model-1.safetensors": b"weights",
    "consolidated.safetensors": b"the same weights again",
    "original/model.safetensors": b"and again",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"code",
    "README.md": b"words",
}
WANTED = {name for name in FILES if "/" not in name and not name.endswith((".bin", ".py", ".md"))}
WANTED -= {"consolidated.safetensors"}


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.tokens = dict(FILES), [], set()
        self.failure = {}  # part of a path -> (status, X-Error-Code)

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        hub = self.server
        hub.requests.append(path)
        if "/org/name" in path:
            hub.tokens.add(self.headers.get("Authorization"))
        for part, (status, code) in hub.failure.items():
            if part in path:
                return self.answer(status, b"{}", {"X-Error-Code": code} if code else {})
        if path.startswith("/api/models/org/name/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b), "oid": oid(b)} for n, b in hub.files.items()]
            return self.answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        if path == "/api/models/org/name" or path.startswith("/api/models/org/name/revision/"):
            revision = path.removeprefix("/api/models/org/name").removeprefix("/revision/") or "main"
            if (commit := COMMITS.get(revision, revision)) not in COMMITS.values():
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            names = [{"rfilename": name} for name in hub.files]
            answer = {"id": "org/name", "sha": commit, "siblings": names, "tags": [], "private": False, "downloads": 0}
            return self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        if path.startswith("/org/name/resolve/"):
            revision, name = path.removeprefix("/org/name/resolve/").split("/", 1)
            headers = {"ETag": f'"{oid(hub.files[name])}"', "X-Repo-Commit": COMMITS.get(revision, revision)}
            return self.answer(200, hub.files[name], headers)
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def oid(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A hub with the model org/name, an empty cache, and the library pointed at both."""
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    point_at(monkeypatch, server.url())
    yield server
    server.shutdown()
    server.server_close()


def point_at(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def refusal(repo="org/name", revision=None):
    """The one line with which a source is refused."""
    with pytest.raises(ValueError) as error:
        hub.snapshot(repo, revision)
    message = str(error.value)
    assert f"hf:{repo}" in message and "\n" not in message and "hf_secret" not in message
    return message


def contents(directory):
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


@pytest.mark.parametrize("revision, commit", [(None, "a"), ("main", "a"), ("v1", "b"), ("b" * 40, "b")])
def test_the_files_of_a_model_come_with_its_commit_and_nothing_else(fake, revision, commit):
    directory, got = hub.snapshot("org/name", revision)
    assert got == commit * 40
    assert contents(directory) == {name: FILES[name] for name in WANTED}
    assert fake.tokens == {"Bearer hf_secret"}


def test_a_commit_in_the_cache_needs_no_network(fake):
    directory, commit = hub.snapshot("org/name", "v1")
    fake.requests.clear()
    assert hub.snapshot("org/name", commit) == (directory, commit)
    assert fake.requests == []


def test_a_commit_of_which_another_tool_fetched_some_files_is_completed(fake):
    hf_hub_download("org/name", "config.json", revision="v1")
    directory, commit = hub.snapshot("org/name", COMMITS["v1"])
    assert commit == COMMITS["v1"]
    assert contents(directory) == {name: FILES[name] for name in WANTED}


@pytest.mark.parametrize("how", ["down", "offline", "error 503"])
def test_without_the_hub_a_revision_comes_from_the_cache_and_the_log_says_so(fake, monkeypatch, caplog, how):
    first = hub.snapshot("org/name", None)
    hf_hub_download("org/name", "config.json", revision="v1")
    cut_off(fake, monkeypatch, how)
    with caplog.at_level(logging.WARNING, hub.__name__):
        assert hub.snapshot("org/name", None) == first
    assert f"taking commit {first[1]} from the cache" in caplog.text
    caplog.clear()
    assert hub.snapshot("org/name", first[1]) == first and not caplog.records
    for revision in ("v1", "v2"):  # the cache has one file of the first
        message = refusal(revision=revision)
        assert all(word in message for word in ("cannot be reached", "path:DIR", "pypi:", "HF_ENDPOINT", "HF_HOME"))


def cut_off(fake, monkeypatch, how):
    if how == "down":
        point_at(monkeypatch, "http://127.0.0.1:9")
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        fake.failure = {"/": (503, None)}


@pytest.mark.parametrize(
    "repo, revision",
    [("name", None), ("org/name/more", None), ("", None), ("org/", None), ("org/na me", None), ("../name", None),
     ("org/na..me", None), ("org/name", ""), ("org/name", "a b"), ("org/name", "../../x")],
)  # fmt: skip
def test_a_malformed_name_is_refused_before_anything_is_asked(fake, repo, revision):
    assert "hf:ORG/NAME@REVISION" in refusal(repo, revision)
    assert fake.requests == []


@pytest.mark.parametrize(
    "where, failure, words",
    [
        ("/api/models", (401, "RepoNotFound"), ["no such model", "HF_TOKEN"]),
        ("/api/models", (401, None), ["refuses access", "HF_TOKEN"]),
        ("/api/models", (404, "RepoNotFound"), ["no such model", "check the name"]),
        ("/resolve/", (401, "GatedRepo"), ["gated", "licence", "HF_TOKEN"]),
        ("/resolve/", (403, "GatedRepo"), ["gated", "licence", "HF_TOKEN"]),
        ("/api/models", (403, None), ["refuses access", "HF_TOKEN"]),
        ("/resolve/", (403, None), ["refuses access", "HF_TOKEN"]),
    ],
)
def test_what_the_hub_refuses_is_explained(fake, where, failure, words):
    fake.failure = {where: failure}
    message = refusal()
    assert all(word in message for word in words), message


def test_the_cache_does_not_cover_up_a_refusal(fake):
    hub.snapshot("org/name", None)
    fake.failure = {"/api/models": (404, "RepoNotFound")}
    assert "no such model" in refusal()


def test_an_unknown_model_or_revision_is_named(fake):
    assert "no such model" in refusal("org/other")
    assert "no such revision" in refusal(revision="v9")
    assert "no such revision" in refusal(revision="c" * 40)


def test_a_model_without_safetensors_or_a_shard_is_refused(fake):
    del fake.files["model-1.safetensors"]
    fake.files["model-2.safetensors"] = b"weights"
    assert "no model-1.safetensors" in refusal(revision="v1")
    del fake.files["model-2.safetensors"]
    assert "no *.safetensors" in refusal()


@pytest.mark.parametrize(
    "index", [b"{}", b"[]", b"no JSON", b'{"weight_map": ["x"]}', b'{"weight_map": {"x": 1}}', b"\xff"]
)
def test_a_damaged_index_is_named(fake, index):
    fake.files["model.safetensors.index.json"] = index
    assert "there is no weight_map in model.safetensors.index.json" in refusal()


def test_a_full_disk_is_explained(fake, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    assert "disk is full" in refusal()
