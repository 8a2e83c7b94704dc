"""`quantize`: build every encoding, judge it, time all in turn, and keep the fastest that keeps the budget."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from podar.errors import PodarError, UsageError, first_line, require
from podar.files import no_file, put_in_place, staged
from podar.formats import FORMATS, export
from podar.measuring.latency import time_in_turn
from podar.model.batches import read, rows, size
from podar.model.quantizers import refuse_already
from podar.quantization import judging
from podar.quantization.budget import Budget, parse_budget
from podar.quantization.judging import Answers, Judged
from podar.quantization.register import Backend, Encoding, Prepared, known
from podar.quantization.result import FLOAT, Quantized, Row
from podar.quantization.samples import CALIBRATED, JUDGED, FileModel, Samples, check_telling, gather, parts
from podar.quantization.sensitivity import left_out_until
from podar.runtimes import RUNTIMES, Session
from podar.runtimes.opening import check_threads, file_bytes, sidecars

Progress = Callable[[str, int, int, dict[str, float]], None]

_VISIBLY = 1.1  # so many times faster than the best: then it is worth while to let layers go back to float
_REPAIRED = 2  # encodings of which layers are let go back to float
_FASTER = 1.02  # a file must be so many times faster before it counts: less is noise


@dataclass(frozen=True)
class _Built:
    """An encoding that was built and judged: its row, and the opened file where that could be had."""

    row: Row
    file: Path | None = None
    session: Session | None = None


@dataclass
class _Bench:
    """What all encodings of one model have in common while they are compared, and those that stand in the table."""

    backend: Backend
    folder: Path
    budget: Budget
    threads: int
    samples: Samples
    floating: Answers
    names: tuple[str, ...]
    as_float: Judged
    evaluate: Callable[[Path], float] | None
    built: dict[str, _Built] = field(default_factory=dict)
    count: int = 0

    @property
    def rows(self) -> list[Row]:
        """The table."""
        return [found.row for found in self.built.values()]


def quantize(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    runtime: str = "onnxruntime",
    budget: str = "accuracy>=0.99",
    out: str | os.PathLike[str] | None = None,
    *,
    threads: int = 1,
    seconds: float = 0.5,
    beside: Mapping[str, Path] | None = None,
    evaluate: Callable[[Path], float] | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write a model in whole numbers of 8 bits, in the encoding that is fastest here among those that keep a budget.

    Every encoding that makes sense for the model on this processor is built from ranges measured on the data, judged
    on the answers, and timed in turn with all others and with the float model. Where none that is faster keeps the
    budget, layers go back to float one by one, those first that give most. Softmax and what decodes boxes and scores
    stay float, known by the graph. Where nothing is faster, the float model stays.

    **Arguments:**

    - `model`: a torch module, or a float file of the runtime's (`.onnx`).
    - `data`: what `podar.data.load` takes or gives, or batches of inputs, with labels or without. Ranges are measured
      on at most 128 training samples, answers judged on at most 1,000 test samples, where there are both.
    - `runtime`: where it is to run: a name of `podar.quantization.BACKENDS`.
    - `budget`: what must be kept: `"accuracy>=0.99"` (of the float model's, with labels; without, agreement is judged,
      and the result says so), `"agreement>=0.99"` (equal top answers) or `"error<=0.1"` (distance of the outputs over
      their size, for models that are no classifiers).
    - `out`: the file to write; None: the model's name with `.int8` before the ending.
    - `threads`, `seconds`: the runtime's threads, and how long each encoding is timed.
    - `beside`: other files of the same inputs, timed in the same turns.
    - `evaluate`: file → its accuracy, where labels do not tell it, such as a detector's mean average precision.
    - `progress`: called as `progress(what, done, total, info)`.

    **Returns:** `Quantized`, with `.path`, `.encoding` and `.table`.

    **Raises:** `podar.errors.PodarError` when a package is missing, the model is quantised already or no model, or the
    data do not fit, are constant, not finite or a single sample; `UsageError` for an unknown runtime or budget. Nothing
    is left half-written.

    ```python
    found = podar.quantize(model, podar.data.load("fashion-mnist-demo"), out="model.int8.onnx")
    print(found.encoding, found.row.ratio)
    ```
    """
    if not isinstance(model, (nn.Module, str, os.PathLike)):
        raise UsageError(f"cannot quantise a {type(model).__name__}: give a torch module, or a model file.")
    check_threads(threads)
    asked, backend = parse_budget(budget), known(runtime)
    backend.imported()
    source = model if isinstance(model, nn.Module) else _checked_file(Path(model), backend)
    target = _target(source, out, backend)
    with staged(target) as folder:
        learned, tested = parts(data)
        file = source if isinstance(source, Path) else _exported(source, learned, backend, folder / "float")
        session = RUNTIMES[backend.runtime].open(file, threads)
        taking = FileModel(session) if isinstance(source, Path) else source
        called = str(source) if isinstance(source, Path) else "the model"
        calibration, samples, notes = _read(learned, tested, taking, session, called)
        floating = judging.answers(session, samples)
        names = tuple(port.name for port in session.outputs)
        judging.check_labels(floating, names, samples.labels)
        as_float = judging.judge(floating, floating, names, samples.labels)
        if evaluate is not None:
            as_float = replace(as_float, accuracy=evaluate(file))
            if asked.kind == "accuracy" and not as_float.accuracy:
                raise PodarError(
                    "the float model's accuracy on these data is 0, so there is none to keep: train it first, or bound "
                    "the error of its outputs, such as error<=0.1."
                )
        asked, remarks = _judged_by(asked, as_float, samples.labels is None)
        _tell(progress, 0, 1)
        prepared = backend.prepare(file, calibration, folder)
        bench = _Bench(backend, folder, asked, threads, samples, floating, names, as_float, evaluate)
        row = Row(FLOAT, file_bytes(file), as_float.accuracy, as_float.agreement, as_float.error, keeps=True)
        bench.built[FLOAT] = _Built(row, file, session)
        for at, encoding in enumerate(prepared.encodings):
            _tell(progress, at, len(prepared.encodings))
            bench.built[encoding.name] = _build(bench, encoding, encoding.name, ())
        others = {name: RUNTIMES[backend.runtime].open(path, threads) for name, path in (beside or {}).items()}
        times = _time(bench, others, seconds)
        if _promising(bench):
            _repair(bench, prepared, progress)
            times = _time(bench, others, seconds)
        chosen = _best(bench) or FLOAT
        file = bench.built[chosen].file
        assert file is not None  # only what was built is chosen
        _put(file, folder, target)
    return Quantized(
        path=target,
        encoding=chosen,
        table=tuple(bench.rows),
        verdict=_verdict(bench, chosen),
        budget=str(asked),
        runtime=session.version,
        threads=threads,
        notes=(*notes, *remarks),
        held=dict(prepared.held),
        beside={name: times[name] for name in others},
    )


def _checked_file(path: Path, backend: Backend) -> Path:
    """A float file that is there, and of a kind that the runtime reads."""
    if path.is_dir():
        raise PodarError(f"cannot quantise {path}: it is a folder; name the model file in it.")
    if not path.is_file():
        raise PodarError(no_file(path))
    suffixes = RUNTIMES[backend.runtime].suffixes
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"cannot quantise {path} for {backend.name}: it takes a torch model or a file that ends in "
            f"{' or '.join(suffixes)}."
        )
    return path


def _target(source: nn.Module | Path, out: str | os.PathLike[str] | None, backend: Backend) -> Path:
    if out is None:
        stem = source.with_suffix("") if isinstance(source, Path) else Path(type(source).__name__.lower())
        return stem.with_name(f"{stem.name}.int8{backend.suffix}")
    target = Path(out)
    if target.suffix != backend.suffix:
        raise UsageError(f"{backend.runtime} reads files that end in {backend.suffix}: write {target}{backend.suffix}.")
    if isinstance(source, Path) and target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the float model itself: name another file with out.")
    return target


def _exported(model: nn.Module, data: Any, backend: Backend, stem: Path) -> Path:
    """The float file of a torch model, exported for the first sample of the data."""
    refuse_already(model)
    inputs = next(read(data, model, "quantization", limit=1)).inputs
    file = stem.with_suffix(FORMATS[backend.format].suffix)
    export(model, file, rows(inputs, 0, 1, size(inputs)), format=backend.format)
    return file


def _read(
    learned: Any, tested: Any, model: nn.Module, session: Session, called: str
) -> tuple[Samples, Samples, list[str]]:
    """Samples for ranges and for answers, and what is to be said of them. Data without a test part serve both."""
    limit = CALIBRATED if tested is not None else JUDGED
    found, notes = gather(learned, model, session.inputs, called, limit)
    few = check_telling(found)
    if tested is None:
        return found.part(CALIBRATED), found, [*notes, *few]
    samples, more = gather(tested, model, session.inputs, called, JUDGED)
    return found, samples, [*dict.fromkeys([*notes, *more]), *few]


def _judged_by(asked: Budget, as_float: Judged, unlabelled: bool) -> tuple[Budget, list[str]]:
    """The budget as it can be judged on these data, and what is to be said where that is another one.

    **Raises:** `UsageError` where answers have no top, and so only the error can be bounded.
    """
    if as_float.error is None:
        raise PodarError("the float model's outputs are not finite or all zero, so nothing can be compared with them.")
    if asked.kind == "error" or (asked.kind == "accuracy" and as_float.accuracy):
        return asked, []
    if as_float.agreement is None:
        raise UsageError(
            f"the budget {asked} needs a classifier, and the model gives no output (samples, classes): bound the error "
            "of its outputs instead, such as error<=0.1."
        )
    if asked.kind == "agreement":
        return asked, []
    why = "the data have no labels" if unlabelled else "the float model names none of the labels"
    judged = replace(asked, kind="agreement")
    return judged, [f"{why}, so {judged} was judged in place of {asked}"]


def _build(bench: _Bench, encoding: Encoding, name: str, left_out: tuple[str, ...], evaluated: bool = True) -> _Built:
    """Write, open and judge one encoding; of what cannot be built the row tells the reason.

    `evaluated`: whether its accuracy is to be known, where that takes an evaluation of its own.
    """
    bench.count += 1
    path = bench.folder / f"{bench.count}{bench.backend.suffix}"
    row = Row(name, left_out=left_out)
    try:
        encoding.write(path, left_out)
        session = RUNTIMES[bench.backend.runtime].open(path, bench.threads)
        found = judging.answers(session, bench.samples)
    except OSError:
        raise  # a full disk
    except Exception as error:  # quantizers raise whatever their helpers do
        return _Built(replace(row, reason=first_line(error).replace(str(path), "the file")))
    judged = judging.judge(found, bench.floating, bench.names, bench.samples.labels)
    if bench.evaluate is not None:
        judged = replace(judged, accuracy=bench.evaluate(path) if evaluated else None)
    keeps = bench.budget.kept(judged, bench.as_float)
    row = replace(row, bytes=file_bytes(path), keeps=keeps, **vars(judged))
    return _Built(row, path, session)


def _time(bench: _Bench, others: Mapping[str, Session], seconds: float) -> dict[str, float]:
    """Time everything in turn: A, B, A, B; the fastest turn of each counts, which other programs disturbed least."""
    feed = bench.samples.first

    def run(session: Session) -> Callable[[], object]:
        arrays = [feed[port.name] for port in session.inputs]
        return lambda: session.run(arrays)

    own = {name: found.session for name, found in bench.built.items() if found.session is not None}
    runs = {name: run(session) for name, session in {**own, **others}.items()}
    timed = time_in_turn(runs, seconds=seconds).timed
    times = {name: min(found.turns_ms) for name, found in timed.items()}
    for name in own:
        found = bench.built[name]
        row = replace(found.row, latency_ms=times[name], p50_ms=timed[name].p50, ratio=times[FLOAT] / times[name])
        bench.built[name] = replace(found, row=row)
    return times


def _best(bench: _Bench) -> str | None:
    """The fastest encoding that is faster than float and keeps the budget."""
    fit = [row for row in bench.rows if row.keeps and row.encoding != FLOAT and (row.ratio or 0) > _FASTER]
    return max(fit, key=lambda row: row.ratio or 0).encoding if fit else None


def _promising(bench: _Bench) -> list[Row]:
    """Encodings that break the budget, and are visibly faster than the best that keeps it, or than float."""
    best = _best(bench)
    least = _FASTER if best is None else _VISIBLY * (bench.built[best].row.ratio or 1)
    return [row for row in bench.rows if not row.keeps and (row.ratio or 0) > least]


def _repair(bench: _Bench, prepared: Prepared, progress: Progress | None) -> None:
    """Let layers of the encodings that are faster go back to float, until the budget holds."""
    by_name = {encoding.name: encoding for encoding in prepared.encodings}
    # The error says which is near to the budget; a broken one would need all of its layers back.
    for row in sorted(_promising(bench), key=lambda row: math.inf if row.error is None else row.error)[:_REPAIRED]:
        encoding = by_name[row.encoding]
        name = f"{encoding.name}, some layers float"

        def judged(left_out: Sequence[str], ranking: bool, encoding: Encoding = encoding, name: str = name) -> Row:
            found = _build(bench, encoding, name, tuple(left_out), evaluated=not ranking)
            if found.row.keeps:
                bench.built[name] = found
            elif found.file is not None:
                found.file.unlink()
            return found.row

        left_out_until(prepared.layers, judged, lambda done, total: _tell(progress, done, total))


def _verdict(bench: _Bench, chosen: str) -> str:
    """The outcome in one sentence."""
    table = [row for row in bench.rows if row.encoding != FLOAT]
    if chosen != FLOAT:
        row = bench.built[chosen].row
        floats = f", with {len(row.left_out)} layers in float" if row.left_out else ""
        return f"{chosen}{floats} is {row.ratio:.2f} times as fast as fp32 and keeps {bench.budget}"
    failed = [row.encoding for row in table if row.reason]
    if any((row.ratio or 0) > _FASTER for row in table):
        return f"no encoding that is faster keeps {bench.budget}, so fp32 stays"
    if failed:
        return f"fp32 stays: no encoding that could be built is faster, and {', '.join(failed)} could not be built"
    fastest = max((row.ratio or 0 for row in table), default=0)
    return f"int8 is slower here (at best {fastest:.2f} times as fast as fp32), so fp32 stays"


def _put(file: Path, folder: Path, target: Path) -> None:
    """Give the chosen file its name, with what travels beside it. `folder`: a hidden one beside the target."""
    written = folder / "chosen" / target.name
    written.parent.mkdir()
    beside = {old.suffix: old for old in sidecars(file) if old.exists()}
    if beside and file.suffix == ".onnx":  # such a file names the other that holds its weights
        onnx = require("onnx", extra="onnx")
        onnx.save(onnx.load(str(file)), str(written), save_as_external_data=True, location=f"{target.stem}.onnx.data")
    else:
        shutil.copyfile(file, written)
        for new in sidecars(written):
            if (old := beside.get(new.suffix)) is not None:
                shutil.copyfile(old, new)
    for new in sidecars(target):
        if (made := written.with_name(new.name)).exists():
            put_in_place(made, new)
        else:
            new.unlink(missing_ok=True)  # of the file that is replaced now
    put_in_place(written, target)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("quantize", done, total, {})
