"""JSON over HTTP to a server that may be busy: retried with growing pauses, each failure one line without a secret."""

import email.utils
import http.client
import ipaddress
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from camopd_jax import shown

RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
SPENT = ("insufficient_quota", "billing_hard_limit_reached")  # in a 429 that no waiting mends
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
PATIENCE = 600.0  # seconds, the longest pause that a server may ask for
LARGEST = 1 << 26  # bytes of a response
LONGEST = 300  # characters shown of what a server says

_log = logging.getLogger(__name__)


class Refused(ValueError):
    """A server that will not answer this, however often it is asked."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


class _Again(Exception):
    """A failure that may pass."""

    def __init__(self, line: str, after: float = 0.0, everyone: bool = False, absent: bool = False):
        super().__init__(line)
        self.after = after  # seconds
        self.everyone = everyone  # all requests are too many, and not only this one
        self.absent = absent  # no server listens there


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would take the key to another address."""

    def redirect_request(self, *_):
        return None


class Server:
    """An address that JSON is posted to, by several threads if need be.

    Args:
      address: of http or https.
      key_variable: the environment variable that has the key; unset or "": no key is sent.
      timeout: seconds without a byte.
      attempts: at each request.

    Raises:
      ValueError: one line: the address or the key cannot be used.
    """

    def __init__(self, address: str, key_variable: str, timeout: float, attempts: int, sleep: Callable[[float], None]):
        host = _host(address)
        self.address, self._variable, self._key = address, key_variable, _key(key_variable)
        if self._key and address.startswith("http:") and not _loopback(host):
            _log.warning("%s: the key in %s goes there unencrypted", address, key_variable)
        # None: the proxies of the environment, which know nothing of a server of this machine.
        proxies = {} if _loopback(host) else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)
        self._timeout, self._attempts, self._sleep = timeout, attempts, sleep
        self._lock = threading.Lock()
        self._not_before = 0.0  # of time.monotonic, for all threads
        self._reached = False

    def post(self, path: str, body: dict) -> dict:
        """The object that the server answers.

        Raises:
          Refused: it refuses the request, or is no server of this kind.
          ConnectionError: it is not there, or failed each time.
        """
        data = json.dumps(body).encode()
        for attempt in range(1, self._attempts + 1):
            with self._lock:
                pause = self._not_before - time.monotonic()
            if pause > 0:
                self._sleep(pause)
            try:
                return self._once(path, data)
            except _Again as again:
                if again.absent and not self._reached:
                    raise ConnectionError(f"{self.address}: no server can be reached there ({again})") from None
                if again.after > PATIENCE:
                    raise ConnectionError(f"{self.address}: {again}; not again for {again.after:,.0f} s") from None
                if attempt == self._attempts:
                    raise ConnectionError(f"{self.address}: {again} ({attempt} times)") from None
                self._pause(again, attempt)
        raise AssertionError("attempts is 1 or more")

    def _pause(self, again: _Again, attempt: int) -> None:
        own = min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        pause = max(again.after, own)
        if not again.everyone:
            self._sleep(pause)
            return
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + pause)

    def _once(self, path: str, data: bytes) -> dict:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "camopd_jax"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.address + path, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                self._reached, status, told = True, response.status, response.headers
                answer = response.read(LARGEST)
                if response.length:  # bytes that it promised and did not send
                    raise http.client.IncompleteRead(b"", response.length)
        except urllib.error.HTTPError as error:
            self._reached, status, told = True, error.code, error.headers
            answer = _read(error)
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            absent = isinstance(cause, ConnectionRefusedError | socket.gaierror | ssl.SSLError)
            raise _Again(self._line(_cause(cause)), absent=absent) from None
        found = _object(answer)
        error = found.get("error") if found else None
        if status == 200 and found is not None and not error:
            return found
        if status == 200 and isinstance(error, dict) and isinstance(error.get("code"), int):
            status = error["code"]  # a gateway's, of the server behind it
        raise self._failure(status, answer, told)

    def _failure(self, status: int, answer: bytes, told: Mapping[str, str]) -> Exception:
        said = self._line(_message(answer))
        if status in RETRIED and not any(code in answer.decode("utf-8", "replace") for code in SPENT):
            return _Again(f"HTTP {status} ({said})", _after(told), everyone=status in (429, 503, 529))
        meaning = ""
        if status == 200:
            meaning = "; that is no answer of an OpenAI-compatible server, whose address mostly ends in /v1"
        elif status in (401, 403):
            have = f"the key in {self._variable} was sent" if self._key else f"no key was sent ({self._named()})"
            meaning = f"; {have}"
        elif status == 404:
            meaning = "; an address mostly ends in /v1, and the model must be one of the server's"
        elif 300 <= status < 400:
            meaning = f"; it redirects to {self._line(told.get('Location', 'nowhere'))}: name the address itself"
        return Refused(status, f"{self.address}: HTTP {status} ({said}){meaning}")

    def _named(self) -> str:
        return f"{self._variable} is not set" if self._variable else "no variable is named"

    def _line(self, text: str) -> str:
        """One line of what others say, without the key, whatever the name of its variable."""
        text = shown.line(text.replace(self._key, shown.HIDDEN) if self._key else text)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _host(address: str) -> str:
    """The host of an address that can be asked."""
    allowed = "allowed is the base of the API, such as http://localhost:8000/v1"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{shown.line(address)}: {error}; {allowed}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{shown.line(address)}: a key or password in the address; the key goes in the environment")
    odd = parts.query or parts.fragment or parts.path.rstrip("/").endswith("/completions") or not address.isprintable()
    if parts.scheme not in ("http", "https") or not host or odd or " " in address:
        raise ValueError(f"{shown.line(address)}: not an address of a server; {allowed}")
    return host


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()) or " " in key:  # else an error of http.client would show it
        raise ValueError(f"the environment's {variable} holds characters that no key has; allowed is the key alone")
    return key


def _read(error: urllib.error.HTTPError) -> bytes:
    try:
        with error:
            return error.read(LARGEST)
    except (OSError, http.client.HTTPException):
        return b""


def _object(answer: bytes) -> dict | None:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _message(answer: bytes) -> str:
    """What an error says, in one of the forms that servers have."""
    found = _object(answer) or {}
    inner = found.get("error", found.get("detail", found.get("message")))
    if isinstance(inner, dict):
        inner = inner.get("message", inner)
    text = inner if isinstance(inner, str) else json.dumps(inner) if inner else answer.decode("utf-8", "replace")
    return " ".join(text.split()) or "it says nothing"


def _after(told: Mapping[str, str]) -> float:
    """Seconds that the server wants to be left alone, 0 if it does not say."""
    value = told.get("Retry-After") or ""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            seconds = 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _cause(cause: object) -> str:
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
