"""An OpenAI-compatible server in the process of the tests: it answers from a script and keeps what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """What it sends: a text as a chat completion, or a body as it stands."""

    text: str = ""
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    finish: str = "stop"
    delay: float = 0.0  # seconds
    usage: bool = True


@dataclass
class Fake:
    """Its address, and (path, headers, body) of each request."""

    url: str
    requests: list = field(default_factory=list)

    @property
    def bodies(self) -> list[dict]:
        return [body for _, _, body in self.requests]


def words(text: str) -> int:
    return len(text.split())


@contextmanager
def serving(script: Callable[[dict], Answer] | list[Answer]) -> Iterator[Fake]:
    """A server whose answers are those of a list, one after the other, or script(body)."""
    lock, left = threading.Lock(), list(script) if isinstance(script, list) else None

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fake.requests.append((self.path, dict(self.headers), body))
                answer = script(body) if left is None else left.pop(0)
            time.sleep(answer.delay)
            message = {"role": "assistant", "content": answer.text}
            found = {"choices": [{"index": 0, "message": message, "finish_reason": answer.finish}]}
            if answer.usage:
                prompt = sum(words(m["content"]) for m in body["messages"])
                found["usage"] = {"prompt_tokens": prompt, "completion_tokens": words(answer.text)}
            data = json.dumps(found).encode() if answer.body is None else answer.body
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # who asked did not wait
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = Fake(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
