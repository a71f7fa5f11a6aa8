"""What is shown of texts that others wrote: on a terminal, in an error line, in a log, in Markdown."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping

# Environment variables whose values are never shown.
_SECRET_NAMES = re.compile(
    r"(?!PWD$|.*_(PATH|FILE|DIR|URL|ID|NAME|TYPE|COUNT|SIZE|LENGTH|LIMIT)$)(.*_)?"
    r"(TOKEN|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|PGPASS|PGPASSWORD|PWD|PAT|CREDENTIAL|(API|ACCESS|SECRET|PRIVATE)?KEY)"
    r"S?(_.*)?",
    re.I,
)
_SHORTEST = 8  # characters of such a value; a shorter one stands in words by chance
_SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|(?<![\w/-])sk-[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"  # GitHub, GitLab
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\bxox[abprs]-[\w-]{10,}|\bpypi-[\w-]{40,}"  # clouds, Slack, PyPI
    r"|(?<=(?i:bearer) )[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/@:]*:[^\s/]+(?=@)|(?<=://)(?!git@)[^\s/@]+(?=@)"  # user:password of a URL, or a token
    r"|(?<=[?&#])(?i:[\w-]*(token|key|secret|password|passwd|signature|sig)=)[^\s&#'\"]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HIDDEN = "***"
WARNING = "warning: "  # of a line of the page of checks
# Control characters (those of 8 bits too), line separators, what is not seen, and what turns a text around.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
LONGEST = 2000  # characters of a line


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without the secrets of the environment, and without what looks like one."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST and _SECRET_NAMES.fullmatch(name):
            text = text.replace(value, HIDDEN)
    return _SECRETS.sub(HIDDEN, text)


def line(text: str) -> str:
    """One line that a terminal shows as it stands: no secret, no control sequence, nothing that turns text around."""
    text = masked(text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"
    return _CONTROL.sub(lambda m: " " if m[0] in "\t\r\n" else f"<{ord(m[0]):04X}>", text)


def visible(text: str) -> str:
    """The whole text, in which what is not seen, or turns text around, stands as its number; line breaks stay."""
    return _CONTROL.sub(lambda m: m[0] if m[0] in "\t\r\n" else f"⟨{ord(m[0]):04X}⟩", text)


def lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(map(line, text.split("\n")))


def markdown(text: str) -> str:
    """A text that stands in Markdown, also in a table, as it is: neither HTML nor a column nor code begins in it."""
    text = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", text)


class Formatter(logging.Formatter):
    """Of the log that a terminal shows."""

    def format(self, record: logging.LogRecord) -> str:
        return lines(super().format(record))


# Of a write that failed beside the one that is raised: Orbax waits for one alone, the others end in threads of theirs.
_BESIDE = "Event loop is closed"


def excepthook(kind, error, trace) -> None:
    """In the place of sys.excepthook: the traceback without secrets."""
    if str(error) != _BESIDE:
        print(lines("".join(traceback.format_exception(kind, error, trace)).rstrip("\n")), file=sys.stderr, flush=True)


def unraisablehook(unraisable) -> None:
    """In the place of sys.unraisablehook: the same for what no one can catch."""
    excepthook(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
