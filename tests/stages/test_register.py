"""A stage is one thing: a toy, declared here alone, appears in recipes, commands, runs, resuming and the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import torch
from markupsafe import Markup

import podar
from podar import cli
from podar.errors import PodarError, UsageError
from podar.reports import RunRecord
from podar.reports.sections import Section
from podar.runs import recipe, running
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage, stages, unregister

TOY = "brighten"
CUT = {"prune": {"target": "macs=0.6", "multiple_of": 1}}


class Brighten(StageOptions):
    """Options of the toy."""

    by: Annotated[float, Flag("How much is added to every bias.")] = 1.0

    def check(self, recipe: RecipeLike) -> None:
        if self.by == 0:
            raise UsageError("by is 0: nothing would be brighter.")

    def __str__(self) -> str:
        return f"by {self.by:g}"


def _shown(record: RunRecord) -> Markup | str:
    told = record.own.get("brightness")
    return Markup("<section><h2>Brightness</h2><p>{}</p></section>").format(told["by"]) if told else ""


@pytest.fixture
def toy() -> Iterator[list[str]]:
    """The toy in the register; the list says how often it worked, and fails the first time where it holds "break"."""
    worked: list[str] = []

    @stage(
        TOY,
        options=Brighten,
        after=("export",),
        changes_model=True,
        fact="brighten",
        command="Make a model brighter.",
        then=("export",),
        sections=(Section(55, _shown),),
    )
    def brighten(job: Job, options: Brighten) -> Finding:
        if "break" in worked:
            worked.remove("break")
            raise KeyboardInterrupt
        worked.append(job.step)
        with torch.no_grad():
            for name, parameter in job.model.named_parameters():
                if name.endswith("bias"):
                    parameter += options.by
        return Finding(after={"brightness": options.by}, notes=("it is brighter",), facts={"brightness": {"by": 12.5}})

    yield worked
    unregister(TOY)
    assert TOY not in stages()


@pytest.fixture
def folder(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.app([*arguments, "--quiet"], standalone_mode=False, prog_name="podar") or 0


def test_it_stands_in_a_recipe_and_in_the_report(toy: list[str], folder: Path, capsys) -> None:
    (folder / "r.yaml").write_text(json.dumps({"model": "net.py:make", "stages": [CUT, {TOY: {"by": 2}}]}))
    assert run("run", "r.yaml", "--out", "x", "--trust", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert toy == [TOY] and list(summary["stages"]) == ["load", "evaluate dense", "prune", TOY, "evaluate"]
    assert summary["brightness"] == {"by": 12.5} and summary["after"]["brightness"] == 2
    assert summary["facts"]["brighten"] == "by 2" and "It is brighter." in summary["notes"]
    assert "<h2>Brightness</h2><p>12.5</p>" in (folder / "x" / "report.html").read_text()
    (folder / "x" / "report.html").unlink()
    assert run("report", "x") == 0
    assert "<h2>Brightness</h2>" in (folder / "x" / "report.html").read_text()


def test_it_has_a_command_with_help_flags_and_checks(toy: list[str], folder: Path, capsys) -> None:
    assert run("--help") == 0 and "Make a model brighter." in capsys.readouterr().out
    assert run(TOY, "--help") == 0
    told = capsys.readouterr().out
    assert "--by" in told and "How much is added" in told and "--export" in told and "--epochs" not in told
    assert run(TOY, "net.py:make", "--by", "0") == 2
    assert "nothing would be brighter" in capsys.readouterr().err
    assert run(TOY, "net.py:make", "--by", "3", "--out", "x") == 0
    assert json.loads((folder / "x" / "summary.json").read_text())["recipe"]["stages"] == [{TOY: {"by": 3.0}}]


def test_a_run_that_breaks_in_it_goes_on_from_there(toy: list[str], folder: Path) -> None:
    planned = recipe.make({"model": "net.py:make", "stages": [CUT, {TOY: {"by": 2}}, {TOY: {}}]})
    toy.append("break")
    with pytest.raises(PodarError, match=f"interrupted in the stage '{TOY}'"):
        running.start(planned, folder / "x", command="")
    done: list[str] = []
    summary = running.resume(folder / "x", progress=lambda step, *_: done.append(step), trust=True)
    assert toy == [TOY, f"{TOY} 2"] and "prune" not in done
    assert summary["after"]["brightness"] == 1


def test_recipes_know_its_name_options_and_place(toy: list[str]) -> None:
    for stages_, message in (
        ([{"brigten": {}}], f"did you mean {TOY}"),
        ([{TOY: {"bye": 1}}], "did you mean by"),
        ([{"measure": {}}, {TOY: {}}], "measure comes before a stage that changes the model"),
    ):
        with pytest.raises(UsageError, match=message):
            recipe.make({"model": "net.py:make", "stages": stages_})


def test_without_the_register_there_is_nothing(folder: Path, capsys) -> None:
    with pytest.raises(UsageError, match=f"there is no stage '{TOY}'"):
        recipe.make({"model": "net.py:make", "stages": [{TOY: {}}]})
    assert run(TOY, "net.py:make") == 2
    source = Path(podar.__file__).parent
    assert not [path for path in source.rglob("*.py") if TOY in path.read_text(encoding="utf-8")]


def test_each_file_is_one_stage_and_bears_its_name() -> None:
    files = {path.stem for path in Path(podar.__file__).parent.glob("stages/[!_]*.py")}
    assert files == {name.replace(" ", "_") for name in stages()}
    with pytest.raises(TypeError, match="holds the options of the stage 'prune' already"):
        stage("twin", options=stages()["prune"].options)(lambda job, options: Finding())
