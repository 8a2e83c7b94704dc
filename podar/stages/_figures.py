"""What several stages say of a model: its costs, its quality, a point on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.stages import Job

if TYPE_CHECKING:
    from podar.graph.cost import Cost


def costs(cost: Cost) -> dict[str, int]:
    """Parameters and MACs; `bytes` and `memory_bytes` are the deployable file's and come from measuring it."""
    return {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes, "activation_bytes": cost.memory_bytes}


def quality(job: Job) -> dict[str, float]:
    """What the data set says of the model as it is now; nothing without data."""
    return job.workshop.evaluate(job.model) if job.recipe.data is not None else {}


def point(name: str, stage: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    """One state of the model for the charts; none where its quality is not known."""
    told = next((state[key] for key in ("accuracy", "map50_95", "agreement") if key in state), None)
    return [] if told is None else [{"name": name, "stage": stage, "accuracy": told, "macs": state["macs"]}]


def points(job: Job) -> list[dict[str, Any]]:
    """The points of the stages so far, as plain data."""
    return [{k: v for k, v in vars(found).items() if v is not None} for found in job.found.points]
