"""Mixed requests to a running server for a while: no wrong answer, and memory that stays.

    flextron-export serve bundle --port 8000 --parallel 2 --threads 1
    python tools/soak_server.py http://127.0.0.1:8000 --pid PID --minutes 60 [--clients 4]

Every client asks at random for whole answers, streams, streams it leaves half way, requests at a latency target that
only the fastest budget can meet, and requests that must be refused. Greedy answers, whole and streamed, are compared
with the first answer to the same request. Prints counts and the memory of the server at the start (after a warm-up of a
tenth of the time) and at the end; exits with 1 for a wrong answer, an unexpected error, or growth of more than a tenth.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

WORDS = ("In", "the", "beginning", "God", "created", "heaven", "and", "earth", "was", "void", "light", "day")
KINDS = ("whole", "whole", "stream", "left", "target", "refused")


class Soak:
    """Clients in threads until a time."""

    def __init__(self, address: str, model: str, budgets: list[str], end: float) -> None:
        self.address, self.model, self.budgets, self.end = address, model, budgets, end
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._answers: dict[Any, str] = {}
        self._lock = threading.Lock()

    def client(self, seed: int) -> None:
        """One client."""
        draw = random.Random(seed)
        with httpx.Client(base_url=self.address, timeout=120) as http:
            while time.monotonic() < self.end:
                kind = draw.choice(KINDS)
                try:
                    result = self._ask(http, kind, draw)
                except Exception as error:  # counted: whatever it is, it must not happen
                    result = f"{kind} failed"
                    self.faults.append(f"{kind}: {type(error).__name__}: {error}")
                with self._lock:
                    self.counts[result] += 1

    def _ask(self, http: httpx.Client, kind: str, draw: random.Random) -> str:
        prompt = " ".join(WORDS[: draw.randint(1, 12)]) + f" {draw.randint(0, 5)}"
        body: dict[str, Any] = {
            "model": draw.choice(self.budgets),
            "prompt": prompt,
            "max_tokens": draw.choice((1, 8, 40)),
        }
        body |= {"temperature": 0, "ignore_eos": True}
        if kind == "refused":
            body |= draw.choice(({"top_p": 0}, {"model": "none"}, {"prompt": []}, {"budget": "none"}))
            self._expect(http.post("/v1/completions", json=body), (400, 404))
            return kind
        if kind == "target":
            body |= {"model": self.model, "latency_target": "1us", "best_effort": True}
            return self._checked(http.post("/v1/completions", json=body), None, kind)
        key = (body["model"], prompt, body["max_tokens"])
        if kind == "whole":
            return self._checked(http.post("/v1/completions", json=body), key, kind)
        body["stream"] = True
        with http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 429:
                return "too many"
            lines = response.iter_lines()
            if kind == "left":
                next(lines, None)
                return kind
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        if events[-1:] != ["[DONE]"]:
            raise ValueError("a stream has no end")
        self._compare(key, "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]))
        return kind

    def _checked(self, response: httpx.Response, key: Any, kind: str) -> str:
        if response.status_code == 429:
            return "too many"
        self._expect(response, (200,))
        if key is not None:
            self._compare(key, response.json()["choices"][0]["text"])
        return kind

    def _compare(self, key: Any, text: str) -> None:
        with self._lock:
            first = self._answers.setdefault(key, text)
        if text != first:
            raise ValueError(f"{key} was {first!r} and is {text!r}")

    def _expect(self, response: httpx.Response, statuses: tuple[int, ...]) -> None:
        if response.status_code not in (*statuses, 429):
            raise ValueError(f"{response.status_code}: {response.text[:200]}")


def memory(pid: int) -> float:
    """Resident megabytes of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no memory of process {pid}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pid", type=int, required=True, help="process of the server")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    names = [model["id"] for model in httpx.get(f"{arguments.address}/v1/models").json()["data"]]
    soak = Soak(arguments.address, names[0], names, time.monotonic() + seconds)
    threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(arguments.clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 10)
    before = memory(arguments.pid)
    for thread in threads:
        thread.join()
    after = memory(arguments.pid)
    print(f"{sum(soak.counts.values())} requests in {arguments.minutes:g} minutes:", dict(soak.counts))
    print(f"resident memory {before:.1f} MB after a tenth of the time, {after:.1f} MB at the end")
    for fault in soak.faults[:20]:
        print("fault:", fault)
    sys.exit(bool(soak.faults) or after > before * 1.1)


if __name__ == "__main__":
    main()
