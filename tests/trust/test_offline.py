"""No network unless asked: strace sees no connection and no message to anything but this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""
WAIT = 12  # seconds: ONNX Runtime's reporter looks its host up some seconds after its first session
WENT_OUT = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg)\(.*AF_INET6?, (?!.*(127\.0\.0\.1|\"::1\"))")


def outward(folder: Path, *lines: tuple[str, ...], wait: int = 0) -> list[str]:
    """What commands, in one process, send to the network."""
    code = "import time; from podar import cli; "
    code += "".join(f"assert not cli.app({[*line, '--quiet']!r}, standalone_mode=False); " for line in lines)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "HF_", "TRANSFORMERS_", "ORT_"))}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    strace = ["strace", "-f", "-qq", "-e", "trace=network", "-o", "trace"]
    subprocess.run(
        [*strace, sys.executable, "-c", f"{code}time.sleep({wait})"],
        cwd=folder, env={**environment, "HOME": str(folder)}, check=True, timeout=300, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return [line for line in (folder / "trace").read_text(errors="replace").splitlines() if WENT_OUT.search(line)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    probe = subprocess.run(["strace", "-o", str(tmp_path / "probe"), "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("strace may not trace here")
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def test_the_pattern_sees_what_goes_out() -> None:
    assert WENT_OUT.search('1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.1")}, 16)')
    assert not WENT_OUT.search('1 connect(3, {sa_family=AF_INET, sin_addr=inet_addr("127.0.0.1")}, 16)')
    assert not WENT_OUT.search('1 connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 16)')


def test_a_yolo_configuration(folder: Path) -> None:
    assert outward(folder, ("inspect", "yolo26n.yaml")) == []


def test_pruning_exporting_and_measuring(folder: Path) -> None:
    cut = ("prune", "net.py:make", "--target", "macs=0.6", "--multiple-of", "1", "--out", "out")
    lines = [
        ("inspect", "net.py:make"),
        (*cut, "--export", "onnx"),
        ("export", "net.py:make", "--format", "openvino", "--out", "m.xml"),
        ("bench", "out", "m.xml", "--seconds", "0.05"),
    ]
    assert outward(folder, *lines, wait=WAIT) == []


@pytest.mark.slow
def test_exporting_a_yolo(folder: Path) -> None:
    lines = [
        ("export", "yolo26n.yaml", "--imgsz", "64", "--format", format, "--out", f"yolo.{format}")
        for format in ("onnx", "openvino")
    ]
    assert outward(folder, *lines, wait=WAIT) == []
