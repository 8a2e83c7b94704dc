"""Graph and Group: what must go together in a model, printable and explainable."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from podar.errors import PodarError
from podar.graph.cost import Cost, CostModel
from podar.graph.families import Cluster, Ties
from podar.graph.labels import INNER, OUTER, Ids
from podar.graph.mirrors import Mirror, mirrors, tie
from podar.graph.operators.statistics import check
from podar.graph.scaling import scale_attributes, scalings
from podar.graph.sizes import Grid, attributes_of
from podar.graph.tracing.running import observe
from podar.graph.tracing.tracer import Record
from podar.graph.unreached import freeze_beside_unreached
from podar.model.bare import bare
from podar.model.inputs import ExampleInputs
from podar.model.members import Members
from podar.model.nested_traces import outside_of_other_traces
from podar.model.patterns import means, patterns

KERNEL = "kernel positions"
"""Spatial positions of a filter are no candidates, so they are not listed as frozen."""

Outputs = str | Iterable[str] | Callable[[str], bool] | None
"""Which outputs must keep their shape: a path or several ("0", "logits"), a test of a path, or None for all."""

SINGLE = "it has one index only"

KINDS = {0: "channels", OUTER: "heads", INNER: "inner"}


@dataclass(frozen=True)
class Group:
    """The units of one family: interchangeable candidates, such as the 64 channels of one stage.

    **Attributes:**

    - `name`: the module whose parameters produce them first, with a range or "heads"/"inner" where that is needed.
    - `kind`: "channels", "heads" or "inner" (dimensions within a head).
    - `size`: number of units.
    - `families`: numbers of the families in it; more than one where parts of an axis must lose equally many.
    - `members`: (tensor, dimension) of every slice that its units own.
    - `widths`: indices per unit on the producing axis (a head owns several).
    - `tied`: names of groups that lose the same share.
    - `steps`: in how many equal moves the group (with those tied to it) can shrink.
    - `held`: this group stays by default because its heads go instead.
    """

    name: str
    kind: str
    size: int
    families: tuple[int, ...]
    members: tuple[tuple[str, int], ...]
    widths: int
    tied: tuple[str, ...]
    steps: int
    held: bool


class Graph:
    """All groups of a model, and for every frozen axis the reason it is frozen. Made by `podar.trace`."""

    def __init__(self, members: Members, record: Record, outputs: Outputs) -> None:
        self.record = record
        self.parameters = members.parameters  # the model's own: what a unit is worth is read from them when asked for
        tensors = members.tensors
        self.shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        first: dict[int, str] = {}
        self.aliases: dict[str, list[str]] = {}
        for name, tensor in tensors.items():
            self.aliases.setdefault(first.setdefault(id(tensor), name), []).append(name)
        self.elements = {
            name: (tensors[name].numel(), tensors[name].element_size(), name in members.parameters)
            for name in self.aliases
        }
        self.dense = record.sizes.dense
        self.mirrors: list[Mirror] = mirrors(members.once, tensors)
        tie(self.mirrors, record.layouts, record.sizes)
        self.scale_attributes = scale_attributes(members.once, record)
        self._freeze_outputs(outputs)
        freeze_beside_unreached(record, [n for n, (_, _, own) in self.elements.items() if own], self.shapes)
        self.solution = record.labels.solve()
        self.ties = Ties(
            record.labels, self.solution, record.layouts, record.sizes.constraints, record.ties, self.dense
        )
        self.scalings = scalings(record, self.ties)
        check(record.norms, self.ties)
        self.clusters: list[Cluster] = self._pruned_with_parameters(self.ties.clusters())

    def _freeze_outputs(self, outputs: Outputs) -> None:
        paths = [path for path, _ in self.record.outputs]
        if callable(outputs):
            chosen = [path for path in paths if outputs(path)]
        else:
            chosen = None if outputs is None else patterns(outputs)
        for wanted in chosen or ():
            if not any(_under(path, wanted) for path in paths):
                raise PodarError(f"outputs names {wanted!r}, but the model returns {', '.join(map(repr, paths))}")
        for path, blocks in self.record.outputs:
            if chosen is None or any(_under(path, wanted) for wanted in chosen):
                for _, ids in blocks:
                    self.record.labels.freeze(ids, f"output {path} of the model" if path else "output of the model")

    def _pruned_with_parameters(self, clusters: list[Cluster]) -> list[Cluster]:
        """Leave out what only buffers have: rows of an index table or of a mask that this input did not reach."""
        owned = np.zeros(len(self.ties.families) + 1, dtype=bool)
        of_parameters = [dims.values() for name, dims in self.record.layouts.items() if self.elements[name][2]]
        for ids in {id(ids): ids for arrays in of_parameters for ids in arrays}.values():
            owned[self.ties.family_of[self.ties.units(ids)]] = True
        kept = []
        for cluster in clusters:
            if owned[list(cluster.families)].any():
                kept.append(cluster)
            else:
                self.ties.reason.update(dict.fromkeys(cluster.families, "no parameter goes with it"))
        return kept

    def freeze(self, families: Mapping[int, str]) -> None:
        """Keep families of units whole, each for a reason that `frozen` then gives."""
        self.clusters = self._pruned_with_parameters(self.ties.clusters(frozen=dict(families)))
        for name in ("groups", "frozen"):
            self.__dict__.pop(name, None)

    @cached_property
    def costs(self) -> CostModel:
        """Prices of plans for this model."""
        return CostModel(self.record, self.ties, self.elements)

    # What users ask

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups that can be pruned, in the order in which the model meets them."""
        return self.groups_of(self.clusters)

    def groups_of(self, clusters: list[Cluster]) -> tuple[Group, ...]:
        """The groups under another choice of clusters (heads or inner dimensions)."""
        families = self.ties.families
        held = {k for k in self.ties.held() if k not in self.ties.reason and len(families[k].units) > 1}
        cluster_of = {k: c for c, cluster in enumerate(clusters) for k in cluster.families}
        parts: dict[tuple[int, int], list[int]] = {}
        for k in sorted([*cluster_of, *(held - cluster_of.keys())]):
            parts.setdefault((cluster_of.get(k, -1), families[k].kin), []).append(k)
        names = {key: self._name(ks) for key, ks in parts.items()}
        found = []
        for (cluster, kin), ks in parts.items():
            size = sum(len(families[k].units) for k in ks)
            found.append(
                Group(
                    name=names[cluster, kin],
                    kind=KINDS[families[ks[0]].role],
                    size=size,
                    families=tuple(ks),
                    members=tuple(self._members[ks[0]]),
                    widths=self._width(ks[0]),
                    tied=tuple(n for key, n in names.items() if key[0] == cluster >= 0 and key != (cluster, kin)),
                    steps=clusters[cluster].steps if cluster >= 0 else 0,
                    held=cluster < 0,
                )
            )
        return tuple(found)

    @cached_property
    def frozen(self) -> tuple[tuple[str, int, str], ...]:
        """(tensor, dimension, reason) of every axis of which no index can go, and of those that go only in part."""
        found = []
        for name, dims in self.record.layouts.items():
            for dim, ids in sorted(dims.items()):
                reason = self._why(ids)
                if reason is not None and not reason.startswith(KERNEL):
                    found.append((name, dim, reason))
        training = self.record.training
        unused = "no forward pass uses it"
        if training is not None and training.broken is not None:
            unused = f"evaluation does not use it, and the run in train mode broke off ({training.broken})"
        for name, (_, _, parameter) in self.elements.items():
            if parameter and not self.record.layouts.get(name):
                why = SINGLE if name in self.record.met else unused
                found += [(name, d, why) for d in range(len(self.shapes[name]))]
        return tuple(found)

    def explain(self, name: str) -> str:
        """What podar knows of a module or parameter: its groups and what goes with them, or why it is frozen.

        **Raises:** `PodarError`: nothing in the model has that name.
        """
        own = [n for n in self.aliases if n == name or n.startswith(name + ".")]
        if not own:
            import difflib

            modules = {n.rpartition(".")[0] for n in self.aliases} | set(self.aliases)
            close = difflib.get_close_matches(name, sorted(modules), n=1)
            raise PodarError(
                f"no module or parameter is named {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        lines = [name]
        followers = self._followers()
        frozen = {(n, d): why for n, d, why in self.frozen}
        by_family = {k: g for g in self.groups for k in g.families}
        for n in own:
            for dim in range(len(self.shapes[n])):
                ids = self.record.layouts.get(n, {}).get(dim)
                text = f"  {n} dim {dim} ({self.shapes[n][dim]})"
                groups = (
                    []
                    if ids is None
                    else sorted({by_family[k].name for k in self.ties.families_in(ids) if k in by_family})
                )
                if groups:
                    lines.append(f"{text}: group {', '.join(groups)}")
                elif (n, dim) in frozen:
                    lines.append(f"{text}: frozen: {frozen[n, dim]}")
        for group in dict.fromkeys(by_family[k] for n in own for k in self._families_of(n) if k in by_family):
            lines.append(f"  {group.name}: {group.size} {group.kind}, which own slices of")
            lines += [f"    {self._places(n, d, group)}" for n, d in group.members]
            follow = sorted({str(a) for k in group.families for a in followers.get(k, ())})
            if follow:
                lines.append(f"    and these attributes follow: {', '.join(follow)}")
            if group.tied:
                lines.append(f"    and lose in step with {', '.join(group.tied)}")
            if group.held:
                lines.append("    and stay by default: heads go instead")
        return "\n".join(lines)

    def goes_with(self, name: str, index: int, dim: int = 0) -> dict[tuple[str, int], list[int]]:
        """Every slice that goes when one index goes: (tensor, dimension) → indices.

        **Arguments:**

        - `name`: a parameter or buffer, or a module whose weight is meant.
        - `index`: which index of dimension `dim`.

        **Raises:** `PodarError`: nothing of that name, no such index, or that axis is frozen; the message gives the
        reason.

        ```python
        graph.goes_with("layer1.0.conv1", 3)
        {("layer1.0.conv1.weight", 0): [3], ("layer1.0.bn1.weight", 0): [3], …}
        ```
        """
        tensor = next((n for n in (name, f"{name}.weight") if n in self.shapes), None)
        first = next((f for f, names in self.aliases.items() if tensor in names), None)
        if tensor is None or first is None:
            raise PodarError(f"no parameter or buffer is named {name!r}")
        ids = self.record.layouts.get(first, {}).get(dim)
        if ids is None or not -ids.size <= index < ids.size:
            raise PodarError(
                f"{tensor} has no index {index} in dimension {dim} that could go (shape {self.shapes[tensor]})"
            )
        units = np.unique(self.ties.units(ids).reshape(ids.size, -1)[index])
        families = {int(self.ties.family_of[u]) for u in units} - {-1}
        open_families = families - self.ties.reason.keys()
        if not open_families:
            raise PodarError(f"{tensor} dimension {dim} is frozen: {self._why(ids) or 'no index of it can go'}")
        chosen = {u for u in units.tolist() if int(self.ties.family_of[u]) in open_families - self.ties.held()} or set(
            units.tolist()
        )
        removed = np.zeros(self.solution.units, dtype=bool)
        removed[[u for u in chosen if u < self.solution.units]] = True
        alive = self.solution.alive(removed)
        found: dict[tuple[str, int], list[int]] = {}
        for n, dims in self.record.layouts.items():
            for d, own in sorted(dims.items()):
                gone = np.flatnonzero(~alive[own.ravel()]).tolist()
                if gone:
                    found[n, d] = gone
        return found

    def cost(self, plan: Any = None) -> Cost:
        """Cost of the model as traced, or under a plan made for it: computed from the plan, nothing is run."""
        if plan is None:
            return self.costs.cost(np.ones(len(self.ties.families)))
        return self.costs.cost(self.share(self.removed_units(plan)))

    def share(self, removed: np.ndarray) -> np.ndarray:
        """For each family the share of units that stays, given a mask of removed units."""
        return np.array([1.0 - removed[f.units].mean() for f in self.ties.families])

    def removed_units(self, plan: Any) -> np.ndarray:
        """The mask of units whose every slice a plan removes."""
        gone = np.zeros(self.solution.units + 1, dtype=bool)
        for name, cuts in plan.cuts.items():
            for cut in cuts:
                ids = self.record.layouts.get(name, {}).get(cut.dim)
                if ids is None:
                    continue
                units = self.ties.units(ids).reshape(ids.size, -1)[cut.array]
                single = (units < self.solution.units).sum(axis=1) == 1
                gone[units[single]] = True
        # Units that only ever share an axis with another (heads and inner dims) are gone when all their indices are.
        for name, cuts in plan.cuts.items():
            for cut in cuts:
                ids = self.record.layouts.get(name, {}).get(cut.dim)
                if ids is not None:
                    units = self.ties.units(ids).reshape(ids.size, -1)
                    kept = np.delete(units, cut.array, axis=0)
                    dropped = np.setdiff1d(units[cut.array], kept)
                    gone[dropped] = True
        gone[-1] = False
        return gone[:-1]

    def matching(self, wanted: str | Iterable[str]) -> dict[str, list[str]]:
        """For each pattern the tensors it names, by tensor or by module; a shared one is meant under all its names."""
        return {p: [n for n, tied in self.aliases.items() if means(p, *tied)] for p in patterns(wanted)}

    def __str__(self) -> str:
        cost = self.cost()
        lines = [
            f"Graph: {cost.params:,} parameters, {cost.macs:,} MACs, "
            f"{len(self.groups)} groups, {len(self.frozen)} frozen axes"
        ]
        width = max([len(g.name) for g in self.groups], default=0)
        for g in self.groups:
            parts = f" in {len(g.families)} equal parts" if len(g.families) > 1 else ""
            held = " (heads go instead)" if g.held else ""
            tied = f", in step with {', '.join(g.tied)}" if g.tied else ""
            lines.append(f"  {g.name:<{width}}  {g.size:>5} {g.kind}{parts}{held}{tied}")
        return "\n".join(lines)

    __repr__ = __str__

    # Inside

    def _places(self, name: str, dim: int, group: Group) -> str:
        """A member, and which of its indices go with the first unit of the group."""
        units = self.ties.units(self.record.layouts[name][dim]).reshape(self.shapes_of(name, dim), -1)
        first = self.ties.families[group.families[0]].units[0]
        where = np.flatnonzero((units == first).any(axis=-1)).tolist()
        shown = ", ".join(map(str, where[:4])) + (f", … ({len(where)})" if len(where) > 4 else "")
        return f"{name} dim {dim}" + (f" (unit 0: {shown})" if where else "")

    def shapes_of(self, name: str, dim: int) -> int:
        """Labels along one axis: a grouped weight has those of every group."""
        return int(self.record.layouts[name][dim].size)

    def _followers(self) -> dict[int, set[Any]]:
        """For each family the attributes that are set anew when it shrinks."""
        found: dict[int, set[Any]] = {}
        for constraint in self.record.sizes.constraints:
            if isinstance(constraint, Grid):
                for axis, expr in enumerate(constraint.exprs):
                    named = attributes_of(expr)
                    if named:
                        for k in self.ties.along(constraint.ids, axis):
                            found.setdefault(k, set()).update(named)
        for mirror in self.mirrors:
            ids = self.record.layouts.get(mirror.tensor, {}).get(mirror.dim)
            if ids is not None:
                for k in self.ties.families_in(ids):
                    found.setdefault(k, set()).add(f"{mirror.module}.{mirror.attribute}")
        return found

    @cached_property
    def _members(self) -> dict[int, list[tuple[str, int]]]:
        found: dict[int, list[tuple[str, int]]] = {}
        for name, dims in self.record.layouts.items():
            for dim, ids in sorted(dims.items()):
                for k in self.ties.families_in(ids):
                    found.setdefault(k, []).append((name, dim))
        return found

    def _families_of(self, name: str) -> set[int]:
        return set().union(*(self.ties.families_in(ids) for ids in self.record.layouts.get(name, {}).values()), set())

    def _producer(self, family: int) -> tuple[str, int]:
        members = self._members[family]
        return next((m for m in members if m[1] == 0), members[0])

    def _width(self, family: int) -> int:
        name, dim = self._producer(family)
        units = self.ties.units(self.record.layouts[name][dim])
        return int((units == self.ties.families[family].units[0]).any(axis=-1).sum())

    def _name(self, families: list[int]) -> str:
        name, dim = self._producer(families[0])
        module = name.rpartition(".")[0] or name
        kind = KINDS[self.ties.families[families[0]].role]
        if kind != "channels":
            return f"{module} {kind}"
        ids = self.record.layouts[name][dim]
        own = np.isin(self.ties.family_of[self.ties.units(ids)], families).any(axis=-1).ravel()
        if own.all():
            return module
        where = np.flatnonzero(own)
        return f"{module}[{where[0]}:{where[-1] + 1}]"

    def _why(self, ids: Ids) -> str | None:
        """The reason that an axis is frozen as a whole, or None."""
        families = self.ties.families_in(ids)
        if families - self.ties.reason.keys():
            return None
        for k in sorted(families):
            return self.ties.reason[k]
        reasons = self.solution.reason[ids]
        known = reasons[reasons >= 0]
        return self.record.labels.reasons[known.min()] if len(known) else "tied to an axis of fixed size"


def _under(path: str, wanted: str) -> bool:
    return path == wanted or path.startswith(wanted + ".")


@outside_of_other_traces()
def trace(model: nn.Module, example_inputs: ExampleInputs, *, outputs: Outputs = None) -> Graph:
    """Run the model once and find out what must go together.

    **Arguments:**

    - `model`: any module; left exactly as it was. Wrappers around it (DataParallel, torch.compile, moving averages) are
      left away: names are those of the model inside.
    - `example_inputs`: a tensor, a tuple, a dict of keyword arguments, or a callable that takes the model and runs it.
    - `outputs`: paths of the outputs that must keep their shape ("0", "logits"), or a test of a path; None keeps all.

    **Returns:** The graph: `print(graph)`, `graph.groups`, `graph.frozen`, `graph.explain("layer3.0.conv1")`,
    `graph.cost()`.

    **Raises:** `PodarError`: the model does not run on these inputs, has no values (meta device) or is a TorchScript
    program.

    ```python
    graph = podar.trace(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    ```
    """
    model = bare(model)
    try:
        members = Members(model)
        record = observe(model, example_inputs, members)
    except Exception as error:
        if isinstance(error, PodarError):
            raise
        raise PodarError(
            f"the model does not run on the example inputs ({type(error).__name__}: {_short(error)}); "
            "check their shapes and types by calling the model on them"
        ) from error
    return Graph(members, record, outputs)


def _short(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
