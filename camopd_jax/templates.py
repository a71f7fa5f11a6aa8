"""Chat templates come from strangers: they are filled in by a process of its own, with limits of time and memory.

The sandbox (jinja2's ImmutableSandboxedEnvironment, as transformers sets it up) keeps a template from what is outside
it, and not from 'a' * 10**10 or a loop that never ends; Python can stop neither safely. One process renders for all
that a run needs. It gets no secret of the environment, cannot write a file, and when it takes too much the kernel ends
it and nothing else.
"""

import atexit
import datetime
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Sequence

SECONDS = 5.0  # of processor time for a request, which compiles the template
SECONDS_EACH = 0.01  # for each conversation more; one usually takes a hundredth of it
MEMORY = 1_000_000_000  # bytes beside what the process has when it starts
TEMPLATE_SIZE = 200_000  # characters; the longest known are a tenth of it
RENDERED_SIZE = 200_000  # characters that a template may add, beside
PART, PART_SIZE = 1000, 4_000_000  # conversations and characters of a request, at most
TIMES = 10  # as many as the conversation's own, for templates that escape or repeat it
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "HOME", "VIRTUAL_ENV")


class Refused(ValueError):
    """A conversation was not rendered. Carries its place among those that were asked for."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place = place


_lock = threading.Lock()
_process: subprocess.Popen | None = None


def is_date(text: str) -> bool:
    """Whether a text is a day as `render` takes it."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def render(template: str, conversations: Sequence[list[dict]], options: dict, date: str) -> list[str]:
    """The text of each conversation in a chat template.

    Args:
      options: of transformers' render_jinja_template (add_generation_prompt, ...), and the template's own variables.
      date: YYYY-MM-DD, today for a template that asks: a run that goes on tomorrow has the prompts of today.

    Raises:
      Refused: at the first conversation that the template refuses, or for which it takes too much.
    """
    if len(template) > TEMPLATE_SIZE:
        raise Refused(0, f"it has {len(template):,} characters; allowed are {TEMPLATE_SIZE:,}")
    rendered: list[str] = []
    with _lock:
        for request in _requests(conversations):
            asked = json.dumps({"template": template, "conversations": request, "options": options, "date": date})
            texts, error = _asked(asked.encode() + b"\n", len(request))
            rendered += texts
            if error:
                raise Refused(len(rendered), error)
    return rendered


def _requests(conversations: Sequence[list[dict]]) -> Iterator[list]:
    """Parts of a list that are small beside the memory that a template is given."""
    part, held = [], 0
    for messages in conversations:
        size = sum(len(m["content"]) for m in messages)
        if part and (len(part) == PART or held + size > PART_SIZE):
            yield part
            part, held = [], 0
        part.append(messages)
        held += size
    if part:
        yield part


def _asked(request: bytes, answers: int) -> tuple[list[str], str]:
    """The texts up to the first conversation that goes wrong, and what is wrong with it ("": nothing)."""
    process, texts = _started(), []
    try:
        process.stdin.write(request)
        process.stdin.flush()
        while len(texts) < answers:
            line = process.stdout.readline()
            text, error = json.loads(line) if line else (None, _ending(process, answers))
            if text is None:
                return texts, error
            texts.append(text)
    except BrokenPipeError:
        return texts, _ending(process, answers)
    except BaseException:  # with answers that nobody read it is of no use any more
        _stop(process)
        raise
    return texts, ""


def _started() -> subprocess.Popen:
    global _process
    if _process is None or _process.poll() is not None:
        _process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={k: os.environ[k] for k in PASSED_ON if k in os.environ},
            start_new_session=True,
        )  # fmt: skip
        atexit.register(_stop, _process)
        try:
            line = _process.stdout.readline()
            if why := json.loads(line) if line else _code(_process):
                raise ValueError(f"chat templates cannot be filled in: the process that does it does not start ({why})")
        except BaseException:
            _stop(_process)
            raise
    return _process


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        try:
            pipe.close()
        except OSError:  # what was still to be written is for nobody
            pass
    process.wait()


def _ending(process: subprocess.Popen, conversations: int) -> str:
    if process.wait() == -signal.SIGPROF:
        others = f" with the {conversations - 1:,} beside it" if conversations > 1 else ""
        return f"it takes more than {_seconds(conversations):g} seconds{others}"
    return f"the process that filled it in was ended ({_code(process)})"


def _seconds(conversations: int) -> float:
    return SECONDS + SECONDS_EACH * (conversations - 1)


def _code(process: subprocess.Popen) -> str:
    code = process.wait()
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _answers(template: str, conversations: list, options: dict, date: str) -> Iterator[tuple[str | None, str | None]]:
    """(text, None) or (None, what is wrong) of each conversation, up to the first that goes wrong."""
    from transformers.utils import chat_template_utils

    today = datetime.datetime.fromisoformat(date)
    chat_template_utils.datetime = types.SimpleNamespace(now=lambda: today)  # of strftime_now

    for messages in conversations:
        try:
            found = chat_template_utils.render_jinja_template(
                conversations=[messages], chat_template=template, **options
            )
            (text,) = found[0] if isinstance(found, tuple) else found
        except MemoryError:
            yield None, f"it takes more than {MEMORY / 1e9:g} GB of memory"
            return
        except Exception as error:  # a template can raise anything
            yield None, " ".join(str(error).split())[:300] or type(error).__name__
            return
        try:
            text.encode()
        except UnicodeEncodeError as error:
            yield None, f"it makes half a surrogate pair at character {error.start}, which no tokenizer takes"
            return
        given = sum(len(m["content"]) for m in messages)
        if len(text) > TIMES * given + RENDERED_SIZE:
            yield None, f"it makes {len(text):,} characters of a conversation of {given:,}"
            return
        yield text, None


def _limit() -> None:
    """Take memory, files and signals from this process."""
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else open(os.devnull) as file:
        pages = int((file.read().split() or ["0"])[0])
    for what, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the process: no Python needs to run for that


def _serve() -> None:
    """Say that all is there, or what is not; then answer requests, a line of JSON each, until there are no more."""
    try:
        import transformers.utils.chat_template_utils  # noqa: F401  (before the limits)

        _limit()
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"), flush=True)
        return
    print(json.dumps(""), flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, _seconds(len(request["conversations"])))
        for answer in _answers(**request):
            print(json.dumps(answer), flush=True)  # what is lost when the process is ended names the conversation
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    _serve()
