"""podar's sparse engine: builds programs from networks and runs them on numpy arrays. It knows nothing of torch."""

from podar_native._engine import levels as _levels
from podar_native.lists import Choice
from podar_native.network import Activation, Network, Value
from podar_native.program import FORMAT, build, describe, with_tile
from podar_native.runner import Runner
from podar_native.weights import square_sums, take

__version__ = "0.3.1"

__all__ = [
    "FORMAT",
    "Activation",
    "Choice",
    "Network",
    "Runner",
    "Value",
    "build",
    "describe",
    "levels",
    "square_sums",
    "take",
    "with_tile",
]


def levels() -> list[str]:
    """The vector levels that this processor runs, best first."""
    return _levels().split()
