"""Trains a model by Ultralytics' own trainer, as one step of a run, and puts the best weights back into the model."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from podar.errors import PodarError, UsageError, did_you_mean, nearest
from podar.files import write_atomic
from podar.libraries.ultralytics.caches import check_unpickling
from podar.libraries.ultralytics.files import NAME, write_checkpoint
from podar.libraries.ultralytics.finding import refuse_missing
from podar.libraries.ultralytics.quantizing import remember_quantization
from podar.libraries.ultralytics.ready import make_ready, said
from podar.recover import History
from podar.sparse import follow_ultralytics
from podar.trust.plain import Unreadable, read_yaml
from podar.trust.tables import read_csv
from podar.workshops import TrainingOptions

_OURS = {  # what podar's own options, or the run folder, say already
    "model": "MODEL",
    "data": "--data",
    "epochs": "--epochs",
    "imgsz": "--imgsz",
    "project": "--out",
    "name": "--out",
    "save_dir": "--out",
    "exist_ok": "--out",
    "resume": "podar resume",
    "mode": "podar prune",
    "format": "--export",
    "pretrained": "MODEL",
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse arguments that Ultralytics does not know, or that podar has an option for.

    **Raises:** `UsageError`, with the nearest valid name, or with what is wrong with a value; `PodarError` where a
    teacher's file, or the package that an argument needs, is missing.
    """
    make_ready()
    from ultralytics.cfg import get_cfg, smart_value
    from ultralytics.utils import DEFAULT_CFG_DICT

    for name in settings:
        if name in _OURS:
            raise UsageError(f"{name}={settings[name]}: podar sets this by {_OURS[name]}.")
        if name not in DEFAULT_CFG_DICT:
            near = nearest(name, set(DEFAULT_CFG_DICT) - set(_OURS))
            hint = f"; did you mean {near}={settings[name]}?" if near else "."
            raise UsageError(f"Ultralytics has no argument {name!r}{hint}")
    if "optimizer" in settings:
        _check_optimizer(str(settings["optimizer"]))
    teacher = settings.get("distill_model")
    if teacher and not Path(str(teacher)).expanduser().is_file():
        refuse_missing(str(teacher))
    elif teacher:
        check_unpickling(Path(str(teacher)).expanduser())
    try:
        read = get_cfg(overrides={key: smart_value(v) if isinstance(v, str) else v for key, v in settings.items()})
    except Exception as error:
        raise UsageError(said(error)) from error
    if getattr(read, "quantize", None) == 8 and importlib.util.find_spec("modelopt") is None:
        raise PodarError(
            "quantize=8 trains by nvidia-modelopt, which is not installed: pip install nvidia-modelopt huggingface_hub."
        )


def _check_optimizer(name: str) -> None:
    """Ultralytics knows its optimizers only where it builds one: a tiny one is built, so that it says so now."""
    from ultralytics.engine.trainer import BaseTrainer

    trainer: Any = None  # only "auto" would look at it
    try:
        if name.lower() != "auto":
            BaseTrainer.build_optimizer(trainer, nn.Linear(1, 1), name)
    except NotImplementedError as error:
        known = set(re.findall(r"'(\w+)'", str(error))) - {name}
        hint = did_you_mean(name, sorted(known), "optimizer={}", list_all=True)
        raise UsageError(f"Ultralytics has no optimizer {name!r}{hint}") from error
    except AttributeError:  # one that looks at the model's head before it is built: it is known
        pass


def train(model: nn.Module, data: str, side: int, training: TrainingOptions) -> History:
    """Train in place; Ultralytics' own files (weights/, results.csv, args.yaml, plots) go into `training.files`.

    A training that was broken off goes on from its last epoch. `lr` and `batch_size` None are left to Ultralytics;
    a teacher is named as there, by `distill_model`.

    **Raises:** `PodarError` with what Ultralytics says where it cannot train.
    """
    make_ready()
    from ultralytics import YOLO

    from podar.libraries.ultralytics.trainers import Trainer, unwrapped

    files, asked = training.files, _arguments(data, side, training)
    last = files / "weights" / "last.pt"
    start = training.checkpoint.with_suffix(".pt")
    if _unfinished(last):
        _end_at_a_line(files / "results.csv")
        yolo, asked = YOLO(str(last)), {"resume": True, "data": data}
    else:
        (files / "results.csv").unlink(missing_ok=True)  # of a training that broke off before its first checkpoint
        yolo = YOLO(str(write_checkpoint(model, start, {"imgsz": side})))
    if training.progress is not None:
        _report_to(yolo, training.progress)
    if training.keeper is not None:
        follow_ultralytics(yolo, training.keeper)
    try:
        yolo.train(trainer=Trainer, **asked)
    except PodarError:
        raise
    except Exception as error:
        raise PodarError(f"Ultralytics could not train: {said(error)}") from error
    best: Any = unwrapped(yolo.model).float()
    remember_quantization(model, best)
    try:
        model.load_state_dict({name: t for name, t in best.state_dict().items() if "quantizer" not in name})
    except RuntimeError as error:
        raise PodarError(f"training left a model of another shape ({said(error)}): please report it.") from error
    model.eval()
    start.unlink(missing_ok=True)
    _rename(files, files.resolve().parent.parent)
    epochs_done = history(files / "results.csv")
    stopped = None
    if training.seconds is None and len(epochs_done) < training.epochs:
        stopped = f"Ultralytics saw no improvement after epoch {len(epochs_done)} (patience)"
    return History(epochs_done, "fp32", stopped)


def _arguments(data: str, side: int, training: TrainingOptions) -> dict[str, Any]:
    """What Ultralytics' trainer is asked for; the user's own arguments come last."""
    from ultralytics.cfg import smart_value

    files = training.files
    asked: dict[str, Any] = {"data": data, "epochs": training.epochs, "imgsz": side, "seed": training.seed}
    asked |= {"project": str(files.resolve().parent), "name": files.name, "exist_ok": True, "verbose": False}
    if training.lr is not None:  # its optimizer "auto" would choose a rate of its own
        asked |= {"lr0": training.lr, "optimizer": "AdamW"}
    if training.batch_size is not None:
        asked["batch"] = training.batch_size
    if training.seconds is not None:
        asked["time"] = training.seconds / 3600
    return asked | {key: smart_value(v) if isinstance(v, str) else v for key, v in training.settings.items()}


def history(path: Path) -> list[dict[str, float]]:
    """The epochs of a results.csv: `loss` is the sum of its training losses, `val_accuracy` what best.pt is chosen by.

    That is mAP50-95 (of masks or key points where there are some), or top-1 accuracy.

    **Raises:** `PodarError` for a file that is missing, too large, or no such table.
    """
    try:
        rows = [{key: float(value) for key, value in row.items()} for row in read_csv(path)]
        strange = any(not (math.isfinite(row["epoch"]) and math.isfinite(row["time"])) for row in rows)
    except (Unreadable, OSError, ValueError, KeyError) as error:
        raise PodarError(_no_table(path, error)) from error
    if strange:
        raise PodarError(_no_table(path, "an epoch or a time in it is no number"))
    found: list[dict[str, float]] = []
    for at, row in enumerate(rows):
        quality = [row[k] for k in row if k.startswith("metrics/mAP50-95")] or [
            row[k] for k in row if k == "metrics/accuracy_top1"
        ]
        entry = {
            "epoch": int(row["epoch"]),
            "loss": sum(value for key, value in row.items() if key.startswith("train/")),
            "seconds": row["time"] - (rows[at - 1]["time"] if at and row["time"] > rows[at - 1]["time"] else 0),
            "lr": next((row[k] for k in row if k.startswith("lr/")), 0.0),
        }
        if quality:
            entry["val_accuracy"] = quality[-1]
        if found and entry["epoch"] <= found[-1]["epoch"]:  # broken off after this line and before its checkpoint
            del found[next(k for k, earlier in enumerate(found) if earlier["epoch"] >= entry["epoch"]) :]
        found.append(entry)
    return found


def _no_table(path: Path, error: object) -> str:
    said = f"it has no column {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
    return f"{path} is no table of a training by Ultralytics ({said}): remove it, and its last epochs are not told."


def _end_at_a_line(path: Path) -> None:
    """Cut off a line that a kill or a full disk broke off: Ultralytics would write the next one behind it.

    **Raises:** `PodarError` for a table that Ultralytics should not be given to read.
    """
    if not path.is_file():
        return
    history(path)
    whole, newline, broken = path.read_bytes().rpartition(b"\n")
    if broken:
        write_atomic(path, whole + newline)


def _unfinished(last: Path) -> bool:
    if not last.is_file():
        return False
    from ultralytics.nn.tasks import load_checkpoint

    try:
        check_unpickling(last)
    except PodarError as error:
        if "damaged" in str(error) or "no checkpoint" in str(error):  # half written: begin anew
            return False
        raise
    try:
        return int(load_checkpoint(str(last))[1].get("epoch", -1)) >= 0
    except Exception:  # half written: begin anew
        return False


def _report_to(yolo: Any, progress: Any) -> None:
    def batch_end(trainer: Any) -> None:
        count = len(trainer.train_loader)
        seen = getattr(trainer, "podar_seen", (-1, 0))
        at = seen[1] + 1 if seen[0] == trainer.epoch else 1
        trainer.podar_seen = (trainer.epoch, at)
        loss = trainer.tloss
        values = (
            list(loss.values()) if isinstance(loss, dict) else [] if loss is None else [torch.as_tensor(loss).sum()]
        )
        info = {"epoch": trainer.epoch + 1, "loss": float(sum(float(torch.as_tensor(v).sum()) for v in values))}
        progress("fine-tune", trainer.epoch * count + at, trainer.epochs * count, info)

    yolo.add_callback("on_train_batch_end", batch_end)


def _rename(files: Path, out: Path) -> None:
    """args.yaml names the folder that the run will be, not the hidden one that it was made in."""
    path = files / "args.yaml"
    if not path.is_file():
        return
    kept = read_yaml(path)
    kept |= {"model": NAME, "project": str(out.parent), "name": out.name, "save_dir": str(out)}
    write_atomic(path, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
