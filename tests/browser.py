"""A real browser for tests: headless Chromium, steered through chromedriver's own HTTP interface.

The interface is W3C WebDriver (https://www.w3.org/TR/webdriver2/) with Chromium's extensions for
the console and for dark and light; a few requests need no library.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

#: Chromium's own address; nothing leaves the machine.
_HOST = "127.0.0.1"


def reason_no_browser() -> str | None:
    """Why there is no browser to test with, None if there is one."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} missing (apt-get install chromium chromium-driver)"


class Browser:
    """One browser with one window; use it as a context manager."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="slurm-sweeps-browser-")
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            self._url = f"http://{_HOST}:{self._read_port()}/session"
            self._url += "/" + self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _read_port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            found = re.search(rb"started successfully on port (\d+)", line)
            if found:
                return int(found[1])
        raise RuntimeError("chromedriver ended before it told its port")

    def _begin(self) -> str:
        arguments = [
            "--headless=new",
            "--no-sandbox",  # tests may run as root, in containers
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--use-gl=angle",
            "--use-angle=swiftshader",  # WebGL without a GPU
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={self._profile}",
        ]
        wanted = {
            "goog:chromeOptions": {"args": arguments, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        return str(answer["sessionId"])

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._ask("DELETE", "", None)
        self._driver.terminate()
        self._driver.wait()
        if self._driver.stdout is not None:
            self._driver.stdout.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _ask(self, method: str, path: str, data: Any) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self._url + path, body, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def _command(self, name: str, **parameters: Any) -> Any:
        """Run a command of Chromium's developer tools."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page's window in pixels."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def set_dark(self, dark: bool) -> None:
        """Tell pages that the user likes it dark, or light."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[feature])

    def open(self, page: Path) -> None:
        """Open a file and wait until it has loaded."""
        self._ask("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self._ask("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def type(self, text: str) -> None:
        """Press keys, in what has the focus."""
        keys = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def wait_for(self, script: str, timeout_s: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"never true in the page: {script}")
            time.sleep(0.05)

    def read_console(self) -> list[str]:
        """What the page has written to the console so far, each message once."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def save_screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot", None)))
