"""A headless Chromium, driven through a pipe by the DevTools protocol."""

import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
).split()


class Page:
    """One page of a browser of its own: a context manager."""

    def __enter__(self) -> "Page":
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()

        def wire() -> None:  # Chromium reads from descriptor 3 and writes to 4
            ends = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *SWITCHES, f"--user-data-dir={self._home.name}", "about:blank"],
            preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._calls, self._read, self._session, self.events = 0, b"", None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if its window were in front
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._in.close()
        self._home.cleanup()

    def call(self, method: str, **params) -> dict:
        """A command of the protocol; what happens meanwhile is in `events`."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") != self._calls:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._read:
            chunk = os.read(self._in.fileno(), 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self._read += chunk
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def evaluate(self, script: str):
        """The value of a JavaScript expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def open(self, url: str, width: int, height: int, dark: bool) -> None:
        """Show a page in a window of this size, and wait until it has drawn itself."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")  # so that another hash alone loads the page anew
        self.call("Page.navigate", url=url)
        limit = time.monotonic() + 60
        while not self.evaluate("location.protocol === 'file:' && document.documentElement?.dataset.ready === 'yes'"):
            if time.monotonic() > limit:
                raise RuntimeError(f"{url} has not drawn itself: {self.events[-3:]}")
            time.sleep(0.02)
        self.settle()

    def settle(self) -> None:
        """Wait out a filter's delay and two frames."""
        self.evaluate(
            "new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 200))"
        )
