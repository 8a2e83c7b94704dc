"""The demo: a small residual network, already trained on Fashion-MNIST photographs, and its checkpoint."""

from __future__ import annotations

from podar.demo.network import build, load_trained

__all__ = ["build", "load_trained"]
