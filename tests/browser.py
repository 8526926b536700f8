"""A headless browser for tests of pages: Chromium through chromedriver, spoken to in W3C's WebDriver protocol.

Not a test file. It needs both programs on PATH (Debian: ``apt-get install chromium chromium-driver``) and no Python package.
Start reading at Browser.
"""

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,800"
).split()
KEYS = {
    "Tab": "\ue004", "Enter": "\ue007", "Shift": "\ue008", "Control": "\ue009", "Escape": "\ue00c", "End": "\ue010",
    "Home": "\ue011", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015",
}  # fmt: skip


def what_is_missing():
    """Why there is no browser here; '' if there is one."""
    missing = [] if shutil.which("chromedriver") else ["chromedriver"]
    if not any(map(shutil.which, BROWSERS)):
        missing.append("chromium")
    return f"needs {' and '.join(missing)} on PATH" if missing else ""


class Browser:
    """A browser with one window. quit() ends it; so does the end of a `with` block."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
        )
        self.session = self.looked = None
        try:
            self.connect()
        except BaseException:
            self.quit()
            raise

    def connect(self):
        said = []
        for line in self.driver.stdout:
            said.append(line)
            if found := re.search(r"on port (\d+)\.", line):
                break
        else:
            raise RuntimeError(f"chromedriver did not start: {''.join(said)}")
        self.url = f"http://127.0.0.1:{found[1]}/session"
        options = {
            "binary": next(filter(None, map(shutil.which, BROWSERS))),
            "args": [*FLAGS, f"--user-data-dir={self.profile.name}"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.session = self.ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.url += f"/{self.session}"
        self.ask("POST", "/url", {"url": "about:blank"})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.quit()

    def quit(self):
        try:
            if self.session is not None:
                self.ask("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.driver.stdout.close()
            self.profile.cleanup()

    def ask(self, method, path, body=None):
        """One command of the protocol."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def open(self, path):
        """Shows this file. Until a page has been painted the browser drops what is done to it, so that is waited for."""
        self.ask("POST", "/url", {"url": path.resolve().as_uri()})
        self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def run(self, script, *args):
        """What this JavaScript returns; of a promise what it comes to."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": args})

    def press(self, *keys):
        """Presses keys, one after the other; those joined by + together."""
        actions = []
        for key in keys:
            held = [KEYS.get(part, part) for part in (key.split("+") if len(key) > 1 else [key])]
            actions += [{"type": "keyDown", "value": part} for part in held]
            actions += [{"type": "keyUp", "value": part} for part in reversed(held)]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def drag(self, x, y, by):
        """Presses the mouse's button at a point of the window, moves the mouse, lets the button go; by (0, 0) is a click."""
        move = {"type": "pointerMove", "origin": "viewport", "duration": 0}
        there = [{**move, "x": x + by[0] * k // 4, "y": y + by[1] * k // 4} for k in range(1, 5)] if any(by) else []
        steps = [{**move, "x": x, "y": y}, {"type": "pointerDown", "button": 0}, *there, {"type": "pointerUp", "button": 0}]
        self.ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def command(self, name, **parameters):
        """A command of the browser's own protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def looks(self, scheme="light", width=1280, height=800):
        """What the page is to think of the system's colours and the window's size."""
        if self.looked == (scheme, width, height):
            return
        self.looked = scheme, width, height
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def complaints(self):
        """What the console was told since the last call."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def requests(self):
        """What the network was asked for since the last call: addresses."""
        messages = [json.loads(entry["message"])["message"] for entry in self.ask("POST", "/se/log", {"type": "performance"})]
        found = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address for address in found if address.startswith(("http", "ws"))]
