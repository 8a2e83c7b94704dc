"""The graph: what must go together in a model, and why each axis that must stay does; to be printed and explained."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from podar.errors import PodarError, first_line, nearest
from podar.graph.clusters import Cluster, Clustering, Ties
from podar.graph.cost import Cost, CostModel
from podar.graph.families import Families
from podar.graph.freezing import Outputs, freeze_beside_unreached, freeze_outputs
from podar.graph.groups import Group, groups_of
from podar.graph.labels import Ids, Solution
from podar.graph.mirrors import Mirror, mirrors, tie
from podar.graph.operators.statistics import no_norms
from podar.graph.record import Record
from podar.graph.scaling import Scaling, scale_attributes, scalings
from podar.graph.sizes import Grid, attributes_of
from podar.graph.tracing.running import observe
from podar.model.inputs import ExampleInputs
from podar.model.members import Members
from podar.model.nested_traces import outside_of_other_traces
from podar.model.patterns import means, patterns
from podar.model.quantizers import refuse_quantized
from podar.model.wrappers import bare

KERNEL = "kernel positions"
"""Spatial positions of a filter are no candidates, so they are not listed as frozen."""

SINGLE = "it has one index only"


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """All groups of a model, and for every frozen axis the reason. Made by `podar.trace`; it never changes.

    **Attributes:**

    - `record`: what the trace wrote down.
    - `model`, `example_inputs`: what was traced, without wrappers, to be looked at once more.
    - `shapes`: of every parameter and buffer, under each of its names.
    - `aliases`: first name → all names of each distinct tensor.
    - `elements`: first name → number of elements, bytes an element, and whether it is a parameter.
    - `mirrors`, `scale_attributes`, `scalings`: what follows a cut: attributes, and factors of attention.
    - `solution`, `families`, `ties`: labels solved, units that are interchangeable, and what ties their numbers.
    - `clusters`: families that lose in step.
    - `reason`: why a family stays whole, by its number.
    """

    record: Record
    model: nn.Module
    example_inputs: ExampleInputs
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, list[str]]
    elements: Mapping[str, tuple[int, int, bool]]
    mirrors: list[Mirror]
    scale_attributes: list[tuple[str, str, Ids]]
    scalings: list[Scaling]
    solution: Solution
    families: Families
    ties: Ties
    clusters: tuple[Cluster, ...]
    reason: Mapping[int, str]

    def with_frozen(self, reason: Mapping[int, str]) -> Graph:
        """The same graph with some more families kept whole, each for a reason that `frozen` then gives."""
        found = self.clustered(reason=reason)
        found = _with_parameters(found, self.families, self.elements)
        return replace(self, clusters=found.clusters, reason=found.reason)

    def clustered(self, inner: Iterable[int] = (), reason: Mapping[int, str] | None = None) -> Clustering:
        """The clusters under another choice; the graph stays as it is.

        **Arguments:**

        - `inner`: families of inner dimensions that go in place of their heads.
        - `reason`: families that stay whole beside those that do anyway, and why.
        """
        return self.ties.clusters(inner, {**(reason or {}), **self.reason})

    @cached_property
    def costs(self) -> CostModel:
        """Prices of plans for this model."""
        return CostModel(self.record, self.families, self.elements)

    # What users ask

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups that can be pruned, in the order in which the model meets them."""
        return self.groups_of(self.clusters)

    def groups_of(self, clusters: Iterable[Cluster]) -> tuple[Group, ...]:
        """The groups under another choice of clusters (heads or inner dimensions)."""
        return groups_of(self.families, self.ties, tuple(clusters), self.reason)

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
            close = nearest(name, {n.rpartition(".")[0] for n in self.aliases} | set(self.aliases))
            raise PodarError(
                f"no module or parameter is named {name!r}" + (f"; did you mean {close!r}?" if close else "")
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
                    [] if ids is None else sorted({by_family[k].name for k in self.families.of(ids) if k in by_family})
                )
                if groups:
                    lines.append(f"{text}: group {', '.join(groups)}")
                elif (n, dim) in frozen:
                    lines.append(f"{text}: frozen: {frozen[n, dim]}")
        for group in dict.fromkeys(by_family[k] for n in own for k in self.families.of_tensor(n) if k in by_family):
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
        units = np.unique(self.families.units(ids).reshape(ids.size, -1)[index])
        families = {int(self.families.family_of[u]) for u in units} - {-1}
        open_families = families - self.reason.keys()
        if not open_families:
            raise PodarError(f"{tensor} dimension {dim} is frozen: {self._why(ids) or 'no index of it can go'}")
        going = open_families - self.ties.held(reason=self.reason)
        chosen = {u for u in units.tolist() if int(self.families.family_of[u]) in going} or set(units.tolist())
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
            return self.costs.cost(np.ones(len(self.families)))
        return self.costs.cost(self.share(self.removed_units(plan)))

    def share(self, removed: np.ndarray) -> np.ndarray:
        """For each family the share of units that stays, given a mask of removed units."""
        return np.array([1.0 - removed[f.units].mean() for f in self.families])

    def removed_units(self, plan: Any) -> np.ndarray:
        """The mask of units whose every slice a plan removes."""
        gone = np.zeros(self.solution.units + 1, dtype=bool)
        for name, cuts in plan.cuts.items():
            for cut in cuts:
                ids = self.record.layouts.get(name, {}).get(cut.dim)
                if ids is None:
                    continue
                units = self.families.units(ids).reshape(ids.size, -1)[cut.array]
                single = (units < self.solution.units).sum(axis=1) == 1
                gone[units[single]] = True
        # Units that only ever share an axis with another (heads and inner dims) are gone when all their indices are.
        for name, cuts in plan.cuts.items():
            for cut in cuts:
                ids = self.record.layouts.get(name, {}).get(cut.dim)
                if ids is not None:
                    units = self.families.units(ids).reshape(ids.size, -1)
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
        ids = self.record.layouts[name][dim]
        units = self.families.units(ids).reshape(ids.size, -1)
        first = self.families[group.families[0]].units[0]
        where = np.flatnonzero((units == first).any(axis=-1)).tolist()
        shown = ", ".join(map(str, where[:4])) + (f", … ({len(where)})" if len(where) > 4 else "")
        return f"{name} dim {dim}" + (f" (unit 0: {shown})" if where else "")

    def _followers(self) -> dict[int, set[Any]]:
        """For each family the attributes that are set anew when it shrinks."""
        found: dict[int, set[Any]] = {}
        for constraint in self.record.sizes.constraints:
            if isinstance(constraint, Grid):
                for axis, expr in enumerate(constraint.exprs):
                    named = attributes_of(expr)
                    if named:
                        for k in self.families.along(constraint.ids, axis):
                            found.setdefault(k, set()).update(named)
        for mirror in self.mirrors:
            ids = self.record.layouts.get(mirror.tensor, {}).get(mirror.dim)
            if ids is not None:
                for k in self.families.of(ids):
                    found.setdefault(k, set()).add(f"{mirror.module}.{mirror.attribute}")
        return found

    def _why(self, ids: Ids) -> str | None:
        """The reason that an axis is frozen as a whole, or None."""
        families = self.families.of(ids)
        if families - self.reason.keys():
            return None
        if families:
            return self.reason[min(families)]
        reasons = self.solution.reason[ids]
        known = reasons[reasons >= 0]
        return self.record.labels.reasons[known.min()] if len(known) else "tied to an axis of fixed size"


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

    **Raises:** `PodarError`: the model does not run on these inputs, has no values (meta device), is a TorchScript
    program, or quantised.

    ```python
    graph = podar.trace(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    ```
    """
    model = bare(model)
    try:
        members = Members(model)
        refuse_quantized(members.parameters)
        record = observe(model, example_inputs, members)
    except Exception as error:
        if isinstance(error, PodarError):
            raise
        raise PodarError(
            f"the model does not run on the example inputs ({type(error).__name__}: {first_line(error)[:200]}); "
            "check their shapes and types by calling the model on them"
        ) from error
    return _finished(model, example_inputs, members, record, outputs)


def _finished(
    model: nn.Module, example_inputs: ExampleInputs, members: Members, record: Record, outputs: Outputs
) -> Graph:
    """The graph of what a trace wrote down: one step after the other, each needs those before it."""
    tensors = members.tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    aliases = _aliases(tensors)
    elements = {n: (tensors[n].numel(), tensors[n].element_size(), n in members.parameters) for n in aliases}

    followers = mirrors(members.once, tensors)
    tie(followers, record.layouts, record.sizes)
    freeze_outputs(record, outputs)
    freeze_beside_unreached(record, [n for n, (_, _, parameter) in elements.items() if parameter], shapes)

    solution = record.labels.solve()
    sizes = record.sizes
    families = Families(solution, record.layouts, [c for c in sizes.constraints if isinstance(c, Grid)])
    factors, reason = scalings(record, families)
    reason = {**no_norms(record.norms, families), **reason}

    ties = Ties(families, sizes.constraints, record.ties, sizes.dense)
    found = _with_parameters(ties.clusters(reason=reason), families, elements)
    return Graph(
        record=record,
        model=model,
        example_inputs=example_inputs,
        shapes=shapes,
        aliases=aliases,
        elements=elements,
        mirrors=followers,
        scale_attributes=scale_attributes(members.once, record),
        scalings=factors,
        solution=solution,
        families=families,
        ties=ties,
        clusters=found.clusters,
        reason=found.reason,
    )


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """All names of each distinct tensor, by the first of them."""
    if len(set(map(id, tensors.values()))) == len(tensors):
        return {name: [name] for name in tensors}
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def _with_parameters(
    found: Clustering, families: Families, elements: Mapping[str, tuple[int, int, bool]]
) -> Clustering:
    """Leave out what only buffers have: rows of an index table or of a mask that this input did not reach."""
    owned = families.on([ids for name, dims in families.layouts.items() if elements[name][2] for ids in dims.values()])
    kept = tuple(cluster for cluster in found.clusters if not owned.isdisjoint(cluster.families))
    alone = {k for cluster in found.clusters if cluster not in kept for k in cluster.families}
    return Clustering(kept, {**found.reason, **dict.fromkeys(sorted(alone), "no parameter goes with it")})
