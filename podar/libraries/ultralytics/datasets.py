"""Opens a data.yaml of Ultralytics (for classify a folder of folders), and says what is wrong with it beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podar.errors import PodarError, UsageError
from podar.files import no_file
from podar.libraries.ultralytics.caches import read_cache, use_plain_caches
from podar.libraries.ultralytics.ready import make_ready, said
from podar.trust.plain import read_yaml

SHAPED = {"segment": "polygons", "obb": "rotated rectangles of four corners"}
_BOX = 5  # words of a label that is a box: class, centre, width, height


@dataclass(frozen=True)
class YoloData:
    """A data set in Ultralytics' own form.

    - `spec`: the data.yaml, or for classify the folder; `side`: of its images in pixels.
    - `names`: the classes by number; `head`: what the head is made for, as keys of `head_of`.
    - `validation`: where its validation images lie: a folder, a list file, or several of either.
    """

    spec: str
    side: int
    names: dict[int, str]
    head: dict[str, Any]
    validation: Any

    @property
    def path(self) -> str:
        """The absolute path of `spec`, as Ultralytics takes it."""
        return str(Path(self.spec).resolve())


def is_own_form(spec: str, task: str) -> bool:
    """Whether a DATA string is of the form that Ultralytics reads for a task: a data.yaml, for classify a folder."""
    return spec.endswith((".yaml", ".yml")) or (task == "classify" and Path(spec).is_dir())


def open_data(model: Any, spec: str, side: int | None) -> YoloData:
    """Check a data set against a model's task.

    **Arguments:** `side`: of the images in pixels; None: what the model was trained with, else 640.

    **Raises:** `UsageError` for a side that is no multiple of the model's stride; `PodarError` for missing or empty
    folders, labels of another task, classes outside `names`, corrupt images.
    """
    make_ready()
    use_plain_caches()
    side = side or _side_of(model)
    stride = max(int(getattr(model, "stride", [32])[-1]) if hasattr(model, "stride") else 32, 32)
    if side % stride:
        near = max(round(side / stride), 1) * stride
        raise UsageError(f"--imgsz {side} is no multiple of the model's stride {stride}: give {near}.")
    task = getattr(model, "task", "detect")
    found = _classify(spec) if task == "classify" else _detect(spec, task, side)
    head: dict[str, Any] = {"nc": found["nc"]}
    if task == "pose":
        head["data_kpt_shape"] = tuple(found["kpt_shape"])
    return YoloData(spec, side, dict(found["names"]), head, found["val"])


def _side_of(model: Any) -> int:
    own = getattr(model, "args", None) or {}
    size = own.get("imgsz") if isinstance(own, dict) else getattr(own, "imgsz", None)
    return int(size) if isinstance(size, (int, float)) else 224 if getattr(model, "task", "") == "classify" else 640


def _classify(spec: str) -> dict[str, Any]:
    from ultralytics.data.utils import IMG_FORMATS

    root = Path(spec)
    if root.suffix in (".yaml", ".yml"):
        raise PodarError(
            f"{spec}: a classifier of Ultralytics takes a folder with train/CLASS and val/CLASS, no data.yaml, so "
            "these labels are of another task."
        )
    found: dict[str, list[str]] = {}
    for split in ("train", "val"):
        folder = root / split
        if not folder.is_dir():
            raise PodarError(
                f"{root} has no folder {split}: Ultralytics reads {root}/train/CLASS and {root}/val/CLASS."
            )
        found[split] = sorted(p.name for p in folder.iterdir() if p.is_dir())
        for path in folder.rglob("*"):
            if path.suffix[1:].lower() in IMG_FORMATS:
                _refuse_damaged(path)
        if not any(path.suffix[1:].lower() in IMG_FORMATS for path in folder.rglob("*")):
            raise PodarError(f"{folder} holds no images.")
    strangers = sorted(set(found["val"]) - set(found["train"]))
    if strangers:
        raise PodarError(f"{root}/val has the class {strangers[0]!r}, which {root}/train has not.")
    return {"nc": len(found["train"]), "names": dict(enumerate(found["train"])), "val": str(root / "val")}


def _detect(spec: str, task: str, side: int) -> dict[str, Any]:
    from ultralytics.data.utils import check_det_dataset

    path = Path(spec).expanduser()
    if not path.is_file():
        raise PodarError(no_file(path, "data set"))
    content = read_yaml(path)
    for key in ("train", "val", "names"):
        if not isinstance(content, dict) or not content.get(key):
            raise PodarError(f"{spec} is no data set of Ultralytics: {key}: is missing.")
    if task == "pose" and not content.get("kpt_shape"):
        raise PodarError(f"{spec} has no kpt_shape:, so its labels are of another task than pose.")
    if task != "pose" and content.get("kpt_shape"):  # Ultralytics would take the key points for outlines
        raise PodarError(f"{spec} has a kpt_shape:, so its labels are of another task than {task}: key points.")
    try:
        data: dict[str, Any] = check_det_dataset(str(path.resolve()), autodownload=False)
    except Exception as error:
        raise PodarError(f"{spec}: {said(error)}") from error
    for split in ("train", "val"):
        _check_labels(spec, split, data, task, side)
    return data


def _check_labels(spec: str, split: str, data: dict[str, Any], task: str, side: int) -> None:
    """Let Ultralytics read every image and label, which it does before training anyway, and look at what it says."""
    from ultralytics.data.dataset import YOLODataset

    for place in data[split] if isinstance(data[split], list) else [data[split]]:
        if not Path(place).exists():
            raise PodarError(f"{spec}: {split}: there is no {place}.")
    if not any(True for _ in images_in(data[split])):
        raise PodarError(f"{spec}: {split}: {data[split]} holds no images.")
    try:
        read = YOLODataset(img_path=data[split], imgsz=side, augment=False, data=data, task=task, batch_size=1)
    except Exception as error:
        cause = _complaint(data, data[split], task)
        raise PodarError(f"{spec}: {cause or said(error)}") from error
    cache = Path(read.label_files[0]).parent.with_suffix(".cache")
    if cache.is_file():
        kept = read_cache(cache)
        corrupt = kept["results"][3]
        if corrupt:
            first = next((said(ValueError(m)) for m in kept["msgs"] if "corrupt" in m), "")
            cause = _complaint(data, data[split], task) or f"the label of {first}"
            raise PodarError(f"{spec}: {split} has {corrupt} damaged images or labels, first {cause}")
    if not any(len(label["cls"]) for label in read.labels):
        raise PodarError(f"{spec}: no image of {split} has a label: labels/… lie beside images/….")
    if task in SHAPED and any(len(label["cls"]) != len(label["segments"]) for label in read.labels):
        # an older Ultralytics, which takes them in silence
        cause = _complaint(data, data[split], task) or f"labels of {split} are boxes: {task} needs {SHAPED[task]}."
        raise PodarError(f"{spec}: {cause}")


def _complaint(data: dict[str, Any], place: Any, task: str) -> str:
    """The first image or label at fault, where Ultralytics names none, or no line; "" where all look right here."""
    for image in images_in(place):
        _refuse_damaged(image)
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        if not label.is_file():
            continue
        for number, line in enumerate(label.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            word = line.split()[:1]
            if word and word[0].isdigit() and int(word[0]) >= data["nc"]:
                return f"{label} line {number} is of the class {word[0]}, and names: has {data['nc']}."
            if task in SHAPED and len(line.split()) == _BOX:
                return f"{label} line {number} is a box, so of another task: {task} needs {SHAPED[task]}."
    return ""


def _refuse_damaged(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:
        raise PodarError(f"the image {path} is damaged, or is no image: remove it or put it right.") from error


def images_in(place: Any) -> Iterator[Path]:
    """Every image under a folder, or named by a list file, or under several of either."""
    from ultralytics.data.utils import IMG_FORMATS

    for one in place if isinstance(place, (list, tuple)) else [place]:
        path = Path(one)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix[1:].lower() in IMG_FORMATS)
        elif path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            yield from (path.parent / line if line.startswith("./") else Path(line) for line in lines if line.strip())
