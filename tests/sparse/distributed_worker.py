"""One of two processes that train together; test_distributed.py starts them. Each case ends with `agree`."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import podar
from podar.sparse import gradual, lightning_callback, rigl, transformers_callback
from podar.sparse.keeper import Keeper
from tests.sparse.trained import OPTIMIZERS, batches, lightning_task, network, samples, small_bert

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
AMOUNT, STEPS, ACCUMULATE = 0.8, 24, 3
X, Y = samples(64)


def agree(model: nn.Module, keeper: Keeper) -> None:
    """Every process has the same masks and weights, and the zeros are where the masks say."""
    found = podar.sparsity(model).fraction
    assert abs(found - AMOUNT) < 0.01, found
    for name, mask in keeper.masks.items():
        values = model.get_parameter(name).detach()
        assert not bool(values[~mask].any()), name
        for tensor in (mask.to(torch.uint8), values.float().contiguous()):
            every = [torch.empty_like(tensor) for _ in range(WORLD)]
            dist.all_gather(every, tensor)
            assert all(torch.equal(each, tensor) for each in every), f"the processes differ in {name}"


# Random scores are drawn anew by each process: the masks must come from one of them.
KEEPERS: dict[str, Callable[[nn.Module], Keeper]] = {
    "cubic": lambda m: gradual(m, AMOUNT, importance="random", updates=12),
    "rigl": lambda m: rigl(m, AMOUNT, importance="random", updates=12),
}


def loop(optimizer_name: str, keeper_name: str) -> None:
    """A loop of one's own: DDP, accumulated gradients, bf16, a moving average, a copy."""
    model = network()
    torch.manual_seed(100 + RANK)
    keeper = KEEPERS[keeper_name](model)
    together = DistributedDataParallel(model)
    optimizer = OPTIMIZERS[optimizer_name](together.parameters())
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    done = [0]
    keeper.attach(optimizer, lambda: (done[0] + 1) / STEPS)
    for step in range(STEPS):
        done[0] = step
        for part in range(ACCUMULATE):
            places = torch.randint(0, 64, (16,))
            silent = part < ACCUMULATE - 1
            with together.no_sync() if silent else contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(together(X[places]).float(), Y[places])
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        keeper.apply(average.module)
        for name, mask in keeper.masks.items():
            assert not bool(model.get_parameter(name)[~mask].any()), name
    agree(model, keeper)
    agree(average.module, keeper)
    agree(copy.deepcopy(together).module, keeper)


def own_training(keeper_name: str) -> None:
    model = network()
    torch.manual_seed(100 + RANK)
    keeper = KEEPERS[keeper_name](model)
    podar.finetune(model, list(batches(X, Y, 16)), epochs=6, precision="fp32", keeper=keeper)
    agree(model, keeper)


def with_lightning(keeper_name: str) -> None:
    callback = lightning_callback(KEEPERS[keeper_name])
    import lightning.pytorch as lightning

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]).float(), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return OPTIMIZERS["adamw"](self.parameters())

    task = lightning_task(OPTIMIZERS["adamw"])
    trainer = lightning.Trainer(
        max_epochs=6, accelerator="cpu", strategy="ddp", devices=WORLD, precision="bf16-mixed", callbacks=[callback],
        accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, batches(X, Y, 8))
    assert trainer.world_size == WORLD
    agree(task, callback.keeper)


def with_transformers(keeper_name: str) -> None:
    callback = transformers_callback(KEEPERS[keeper_name])
    import transformers

    model, sentences = small_bert(48)
    arguments = transformers.TrainingArguments(
        sys.argv[1], num_train_epochs=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, report_to=[],
        save_strategy="no", logging_strategy="no", use_cpu=True, bf16=True, weight_decay=0.1, disable_tqdm=True,
    )  # fmt: skip
    torch.manual_seed(100 + RANK)
    transformers.Trainer(model, arguments, train_dataset=sentences, callbacks=[callback]).train()
    assert arguments.world_size == WORLD
    agree(model, callback.keeper)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    case = sys.argv[2]
    if case == "lightning":
        with_lightning("cubic")
    elif case == "transformers":
        with_transformers("rigl")
    else:
        for keeper_name in KEEPERS:
            own_training(keeper_name)
            for optimizer_name in OPTIMIZERS:
                loop(optimizer_name, keeper_name)
    dist.barrier()
    print("agreed", flush=True)
    # Without the interpreter's end: threads of the libraries above may outlive gloo's there and abort the process.
    os._exit(0)


if __name__ == "__main__":
    main()
