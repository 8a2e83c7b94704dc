"""Trains on a processor by the arithmetic that is fastest there: Ultralytics itself knows none but fp32 on CPUs."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import torch

_STEPS, _HOPELESS = 3, 1.5


def fastest_on_cpu(trainer: Any) -> None:
    """A callback for `on_train_start`: times steps of the model in fp32 and bf16, with one thread and with all.

    What is fastest is used: bf16 is Ultralytics' own AMP, which it never turns on for a CPU; weights lie channels
    last. On a graphics card, or with `amp=False`, nothing is changed. `trainer.podar_arithmetic` says what was chosen.

    ```python
    model = YOLO("yolo26n.yaml")
    model.add_callback("on_train_start", fastest_on_cpu)
    ```
    """
    if trainer.device.type != "cpu" or not trainer.args.amp:
        return
    batch = next(iter(trainer.train_loader))
    batch = {key: value[:16] if key == "img" else value for key, value in trainer.preprocess_batch(batch).items()}
    shown = batch["batch_idx"] < len(batch["img"])
    batch |= {key: batch[key][shown] for key in ("cls", "bboxes", "batch_idx") if key in batch}
    state = torch.get_rng_state()
    model: Any = copy.deepcopy(trainer.model).to(memory_format=torch.channels_last).train()
    times: dict[tuple[int, bool], float] = {}
    for threads in sorted(
        {1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1}
    ):
        for bf16 in (False, True):
            torch.set_num_threads(threads)
            laps: list[float] = []
            for _ in range(_STEPS):
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss, _ = model(batch)
                loss.sum().backward()
                laps.append(time.perf_counter() - start)
                if laps[-1] > _HOPELESS * min(times.values(), default=float("inf")):
                    break
            times[threads, bf16] = min(laps)
    threads, bf16 = min(times, key=lambda choice: times[choice])
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    trainer.amp = bf16
    trainer.model.to(memory_format=torch.channels_last)
    trainer.podar_arithmetic = f"{'bf16' if bf16 else 'fp32'}, threads: {threads}, {times[threads, bf16]:.3f} s a step"
