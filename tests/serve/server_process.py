"""A real server process on a free port of 127.0.0.1, and the real `openai` client."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import openai

MAX_POSITIONS = 6000
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
TEXT = "In the beginning"


class Server:
    """A process that runs `flextron-export serve`."""

    def __init__(self, bundle, *options):
        words = ["serve", bundle, "--port", 0, "--name", "tiny", "--threads", 1, "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flextron_export", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.about, text = None, ""
        while self.about is None:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            text += line
            try:
                self.about = json.loads(text)
            except ValueError:
                continue
        self.address = self.about["address"]
        self.host, self.port = "127.0.0.1", int(self.address.rpartition(":")[2])

    def client(self, **options):
        settings = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.address}/v1", **settings)

    def end(self, number=signal.SIGTERM, timeout=30):
        """Tell it to stop, unless `number` is None; return its exit code and what it wrote."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out + err


@contextmanager
def running(bundle, *options):
    server = Server(bundle, *options)
    try:
        yield server
    finally:
        code, written = server.end()
    assert code == 0 and "Traceback" not in written, written
