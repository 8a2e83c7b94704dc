"""Prunes every model of the zoo, each in a process of its own, proves it with the oracle, and prints a table.

python -m tests.zoo.run [SOURCE [NAME …]] [--target channels=0.5] [--scope local] [--no-oracle] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import podar
from tests.graph.oracle import difference
from tests.zoo.models import FURTHER, NAMES, build

LIMIT = 180  # seconds a model
ENOUGH = 0.4  # of the parameters must go
EXACT = 1e-6


def examine(source: str, name: str, target: str, scope: str, oracle: bool) -> dict[str, Any]:
    """Prune one model; what happened, as plain data."""
    model, inputs = build(source, name)
    start = time.perf_counter()
    graph = podar.trace(model, inputs)
    traced = time.perf_counter() - start
    frozen = Counter[str]()
    sizes: dict[str, int] = {n: p.numel() for n, p in model.named_parameters()}
    held: dict[str, str] = {}
    for tensor, _, reason in graph.frozen:
        held.setdefault(tensor, reason)
    free = {t for g in graph.groups for t, _ in g.members}
    for tensor, reason in held.items():
        if tensor in sizes and tensor not in free:
            frozen[reason] += sizes[tensor]
    start = time.perf_counter()
    result = podar.prune(model, inputs, target, scope=scope)
    found: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "trace_seconds": traced,
        "kept": result.after.params / result.before.params,
        "macs": result.after.macs / max(result.before.macs, 1),
        "free": sum(n for t, n in sizes.items() if t in free) / sum(sizes.values()),
        "frozen": [(reason, count / sum(sizes.values())) for reason, count in frozen.most_common(4)],
        "rules": sorted({r for _, _, r in graph.frozen if "no rule" in r or "does not cover" in r}),
    }
    if oracle:
        built, inputs = build(source, name)
        worst, _ = difference(lambda: built, inputs, lambda m, x: podar.prune(m, x, target, scope=scope))
        found["difference"] = worst
    return found


def _child(pipe: Any, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    try:
        pipe.send(work(*arguments))
    except BaseException as error:
        pipe.send({"error": f"{type(error).__name__}: {str(error)[:300]}", "trace": traceback.format_exc()})
    pipe.close()
    os._exit(0)


def one(source: str, name: str, *arguments: Any, work: Callable[..., dict[str, Any]] = examine) -> dict[str, Any]:
    """`work` on one model in a forked process, so that a crash or a leak of one model touches no other."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, source, name, *arguments))
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(LIMIT) else {"error": f"no answer in {LIMIT} s"}
    except EOFError:
        found = {"error": "the process died"}
    process.kill()
    process.join()
    return {"source": source, "name": name, **found}


def passed(row: dict[str, Any]) -> bool:
    """Whether a model is pruned as it should be."""
    if "error" in row or row["rules"]:
        return False
    explained = sum(share for _, share in row["frozen"]) > 0
    return row.get("difference", 0.0) <= EXACT and (row["kept"] <= 1 - ENOUGH or explained)


def _line(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["source"], row["name"], "[red]failed", "", "", "", "", row["error"]]
    why = "; ".join(row["rules"]) or ", ".join(f"{share:.0%} {reason}" for reason, share in row["frozen"][:2])
    return [
        row["source"],
        row["name"],
        "ok" if passed(row) else "[red]not right",
        f"{row['seconds']:.2f}",
        f"{row['kept']:.3f}",
        f"{row['free']:.3f}",
        f"{row['difference']:.0e}" if "difference" in row else "",
        why,
    ]


def main() -> None:
    """Run what was asked for; exit code 1 where a model fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="channels=0.5")
    parser.add_argument("--scope", default="local")
    parser.add_argument("--no-oracle", action="store_true")
    parser.add_argument("--trace", action="store_true", help="print the traceback of what fails")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time")
    parser.add_argument("--further", action="store_true", help="more models of the same sources, instead of the zoo's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        (source, name)
        for source, names in (FURTHER if options.further else NAMES).items()
        if options.source in (None, source)
        for name in (options.names or names)
    ]
    console = Console(width=200)
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:  # each thread waits for a process
        for row in pool.map(lambda m: one(m[0], m[1], options.target, options.scope, not options.no_oracle), chosen):
            rows.append(row)
            console.print("  ".join(_line(row)[1:]), highlight=False, markup=False)
            if options.trace and "trace" in row:
                console.print(row["trace"], markup=False)
    table = Table(title=f"{options.target}, scope {options.scope}")
    for heading in ("source", "model", "", "seconds", "kept", "in groups", "difference", "frozen"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*_line(row))
    console.print(table)
    good = [row for row in rows if passed(row)]
    console.print(f"{len(good)} of {len(rows)} models are pruned, and compute what their masks compute")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    raise SystemExit(len(good) < len(rows))


if __name__ == "__main__":
    main()
