"""Callbacks of other trainers: the amount is reached, and not a single masked weight comes back."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.sparse import follow_ultralytics, gradual, lightning_callback, rigl, transformers_callback
from podar.sparse.keeper import Keeper
from tests.sparse.trained import OPTIMIZERS, batches, lightning_task, network, samples, small_bert

X, Y = samples(256)


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where a library is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@pytest.mark.parametrize("accumulate", [1, 4])
@needs("lightning")
def test_lightning(tmp_path: Path, accumulate: int) -> None:
    callback = lightning_callback(lambda model: gradual(model, 0.8))
    import lightning.pytorch as lightning

    task = lightning_task(OPTIMIZERS["adamw"])
    loader = batches(X, Y, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and logging
        trainer = lightning.Trainer(
            max_epochs=4, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=accumulate,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(task, loader)
    assert podar.sparsity(task).fraction == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@needs("lightning")
def test_lightning_with_a_moving_average(tmp_path: Path, first: bool) -> None:
    callback = lightning_callback(lambda model: rigl(model, 0.8, updates=20))
    import lightning.pytorch as lightning

    average: Any = getattr(importlib.import_module("lightning.pytorch.callbacks"), "EMAWeightAveraging", None)
    if average is None:
        pytest.skip("this Lightning has no EMAWeightAveraging")

    task = lightning_task(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01))
    ema = average(decay=0.99)
    loader = batches(X, Y, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_epochs=6, accelerator="cpu", callbacks=[callback, ema] if first else [ema, callback], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, precision="bf16-mixed",
            default_root_dir=tmp_path,
        ).fit(task, loader)  # fmt: skip
    assert podar.sparsity(task).fraction == pytest.approx(0.8, abs=0.002)  # the average, which ends in the model


@needs("transformers")
def test_transformers(tmp_path: Path) -> None:
    callback = transformers_callback(lambda m: gradual(m, 0.7))
    import transformers

    model, sentences = small_bert(64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=3, per_device_train_batch_size=8, gradient_accumulation_steps=2,
            report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, weight_decay=0.1, disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(model, arguments, train_dataset=sentences, callbacks=[callback]).train()
    assert podar.sparsity(model).fraction == pytest.approx(0.7, abs=0.002)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", [lambda m: gradual(m, 0.8), lambda m: rigl(m, 0.8)], ids=["cubic", "rigl"])
def test_masks_hold_under_momentum_decay_averaging_and_copies(kind: str, make: Any) -> None:
    model = network()
    keeper: Keeper = make(model)
    optimizer = OPTIMIZERS[kind](model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    done, total = [0], 60
    keeper.attach(optimizer, lambda: (done[0] + 1) / total)
    for step in range(total):
        done[0] = step
        with torch.autocast("cpu", torch.bfloat16, enabled=step % 2 == 0):
            loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        keeper.apply(average.module)
        for name, mask in keeper.masks.items():
            assert not bool(model.get_parameter(name)[~mask].any()), name
    assert podar.sparsity(model).fraction == pytest.approx(0.8, abs=0.003)
    assert podar.sparsity(average.module).fraction >= 0.79
    twin = copy.deepcopy(model)
    assert podar.sparsity(twin).zeros == podar.sparsity(model).zeros


@needs("ultralytics")
@pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own
def test_ultralytics(tmp_path: Path) -> None:
    from podar.data.scenes import compose
    from podar.libraries.ultralytics import make_ready

    make_ready()
    from ultralytics import YOLO

    data = compose(tmp_path / "scenes", scenes=(6, 3), side=64, task="detect", photographs="fashion-mnist-demo")
    yolo = YOLO("yolo26n.yaml")
    follow_ultralytics(yolo, lambda model: gradual(model, 0.6, protect=["model.23"]))
    yolo.train(
        data=str(data), epochs=3, imgsz=64, batch=3, workers=0, plots=False, verbose=False, project=str(tmp_path),
        name="run", exist_ok=True,
    )  # fmt: skip
    saved = YOLO(str(tmp_path / "run" / "weights" / "last.pt")).model
    assert isinstance(saved, nn.Module)
    zeros = podar.sparsity(saved)
    counted = [layer for layer in zeros.layers if not layer.name.startswith("model.23.")]
    assert sum(x.zeros for x in counted) / sum(x.weights for x in counted) == pytest.approx(0.6, abs=0.005)
