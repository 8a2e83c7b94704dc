"""A record as a real run leaves it, and a browser to look at its page with."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def summary() -> dict[str, Any]:
    """The object of a summary.json, of a run that cut, trained, exported and measured."""
    latency = {"runtime": "onnxruntime 1.32.0", "threads": 1}
    return {
        "before": {
            "params": 272474,
            "macs": 40813184,
            "bytes": 1104512,
            "memory_bytes": 52428800,
            "accuracy": 0.9312,
            "latency_ms": {"p50": 1.4234, "p95": 1.6112, **latency},
        },
        "after": {
            "params": 131042,
            "macs": 20413184,
            "bytes": 540512,
            "memory_bytes": 51380224,
            "accuracy": 0.9254,
            "latency_ms": {"p50": 0.9411, "p95": 1.0829, **latency},
        },
        "command": "podar prune net.py:make --data x.npz --target macs=0.5 --out 'runs/<x> & y'",
        "versions": {"podar": "0.1.0", "torch": "2.13.0"},
        "title": "net <script>alert(1)</script> on x",
        "facts": {"model": "net.py:make", "data": "x & y: 100 training images"},
        "layers": [
            {"name": "conv1", "kind": "channels", "before": 16, "after": 16},
            {"name": "layer1.0.conv1", "kind": "channels", "before": 64, "after": 24},
        ],
        "frozen": [
            {"name": "fc.weight", "dim": 0, "reason": "output of the model"},
            {"name": "fc.bias", "dim": 0, "reason": "output of the model"},
            {"name": "conv1.weight", "dim": 1, "reason": "meets an axis of <fixed> size"},
        ],
        "points": [
            {"name": "dense", "stage": "dense", "accuracy": 0.9312, "macs": 40813184, "latency_ms": 1.4234},
            {"name": "cut", "stage": "cut", "accuracy": 0.8711, "macs": 20413184, "latency_ms": 0.9411},
            {"name": "fine-tuned", "stage": "final", "accuracy": 0.9254, "macs": 20413184, "latency_ms": 0.9411},
        ],
        "history": [
            {"epoch": 1, "loss": 1.31, "val_accuracy": 0.88, "seconds": 9.5, "lr": 0.01},
            {"epoch": 2, "loss": 1.02, "val_accuracy": 0.917, "seconds": 9.4, "lr": 0.001},
        ],
        "pictures": [
            {
                "file": "pictures/00.png",
                "label": "Bag",
                "before": "Bag",
                "before_confidence": 0.91,
                "after": "<b>Coat</b>",
                "after_confidence": 0.512,
            }
        ],
        "stages": {"load": 0.4, "prune": 0.031, "fine-tune": 75.2},
        "notes": ["Energy was not measured: no energy counters."],
    }


@pytest.fixture
def record_of() -> Callable[[dict[str, Any], Path], Any]:
    """Writes the pictures of a summary to a folder and reads the record of it."""

    def read(data: dict[str, Any], folder: Path) -> Any:
        from podar.reports import RunRecord

        for shown in data.get("pictures", ()):
            (folder / shown["file"]).parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
            written = io.BytesIO()
            Image.fromarray(pixels).save(written, "PNG")
            (folder / shown["file"]).write_bytes(written.getvalue())
        return RunRecord.from_summary(data, folder)

    return read


@pytest.fixture(name="summary")
def _summary() -> dict[str, Any]:
    return summary()


class _Hooks(HTMLParser):
    """Collects (data-field, data-value, text) of every element that has a data-field."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None, str]] = []
        self._open: tuple[str, str | None] | None = None
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("data-field"):
            self._open, self._text = (str(given["data-field"]), given.get("data-value")), []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self.found.append((*self._open, "".join(self._text).strip()))
            self._open = None


@pytest.fixture
def hooks() -> Callable[[str], list[tuple[str, str | None, str]]]:
    """HTML → (data-field, data-value, shown text) of everything on the page that has a hook."""

    def read(html: str) -> list[tuple[str, str | None, str]]:
        parser = _Hooks()
        parser.feed(html)
        return parser.found

    return read


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[..., str]:
    """An HTML file → its document as headless Chromium sees it."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def dump(page: Path) -> str:
        options = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --disable-dev-shm-usage --dump-dom --virtual-time-budget=2000"
        )
        profile = tmp_path / "profile"
        command = [browser, *options.split(), f"--user-data-dir={profile}", page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump
