"""A checkpoint goes in whole or is refused with one sentence; a pickle runs nothing without trust."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from podar.errors import PodarError
from podar.weights import check_finite, load_weights, read_state


def network(classes: int = 10) -> nn.Sequential:
    body: list[tuple[str, nn.Module]] = [("conv", nn.Conv2d(3, 4, 3)), ("norm", nn.BatchNorm2d(4))]
    return nn.Sequential(OrderedDict([*body, ("flat", nn.Flatten()), ("fc", nn.Linear(4, classes))]))


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module._orig_mod."])
def test_state_dicts_as_training_scripts_save_them(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    saved = network()
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    model = network()
    load_weights(model, read_state(tmp_path / "w.pth"), of="w.pth")
    assert_equal(model, saved)


def test_safetensors(tmp_path: Path) -> None:
    saved = network()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    model = network()
    load_weights(model, read_state(tmp_path / "w.safetensors"), of="w")
    assert_equal(model, saved)


def test_the_averaged_weights_come_first(tmp_path: Path) -> None:
    plain, averaged = network(), network()
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict()}, tmp_path / "w.pt")
    model = network()
    load_weights(model, read_state(tmp_path / "w.pt"), of="w")
    assert_equal(model, averaged)


def test_a_pickled_module_needs_trust(tmp_path: Path) -> None:
    saved = network()
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(PodarError, match=r"w\.pt is a pickle .*torch\.nn\.modules.*can run any program.*--trust"):
        read_state(tmp_path / "w.pt")
    model = network()
    load_weights(model, read_state(tmp_path / "w.pt", trust=True), of="w")
    assert_equal(model, saved)


def test_a_pickle_named_safetensors_is_seen_through(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.safetensors")
    with pytest.raises(PodarError, match=r"w\.safetensors is a pickle .*--trust"):
        read_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"hello, I am no checkpoint at all", b"\x00" * 64])
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PodarError, match=rf"{name} is no readable checkpoint"):
        read_state(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(network().state_dict(), path)
    else:
        save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PodarError, match=r"w\.(pt|safetensors) (cannot be read|is no readable)"):
        read_state(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "best.pth").touch()
    with pytest.raises(PodarError, match=r"there is no weights file .*bset\.pth; did you mean .*best\.pth\?"):
        read_state(tmp_path / "bset.pth")
    with pytest.raises(PodarError, match=r"there is no weights file"):
        read_state(tmp_path / "no" / "folder.pt")


def test_folders_and_plain_pickles_are_called_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="is a folder, and weights are a file"):
        read_state(tmp_path)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(network().state_dict()))
    with pytest.raises(PodarError, match=r"w\.pkl is a pickle .*--trust") as caught:
        read_state(tmp_path / "w.pkl")
    assert "weights_only" not in str(caught.value)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "w.pt")
    with pytest.raises(PodarError, match="holds no state dict"):
        read_state(tmp_path / "w.pt")


def test_another_number_of_classes_names_the_option() -> None:
    with pytest.raises(PodarError, match=r"fc\.weight has shape \(7, 4\) in w\.pt and \(10, 4\).*num_classes=7\."):
        load_weights(network(), network(7).state_dict(), of="w.pt")


def test_another_width_does_not_blame_the_classes() -> None:
    state = {**network().state_dict(), "conv.weight": torch.zeros(8, 3, 3, 3)}
    message = r"conv\.weight has shape \(8, 3, 3, 3\) in w\.pt and \(4, 3, 3, 3\) in the model: .*another model"
    with pytest.raises(PodarError, match=message):
        load_weights(network(), state, of="w.pt")


def test_missing_and_unknown_tensors_are_named_and_nothing_is_loaded() -> None:
    model, untouched = network(), network()
    untouched.load_state_dict(model.state_dict())
    state = network().state_dict()
    state["fcc.weight"] = state.pop("fc.weight")
    with pytest.raises(PodarError, match=r"w\.pt lacks the tensor fc\.weight \(it has fcc\.weight\)"):
        load_weights(model, state, of="w.pt")
    with pytest.raises(PodarError, match=r"no place in the model for the tensor extra\.weight and 1 more"):
        load_weights(model, {**network().state_dict(), "extra.weight": torch.ones(1), "more": torch.ones(1)}, of="w.pt")
    assert_equal(model, untouched)


def test_old_checkpoints_without_batch_counters_load() -> None:
    state = {name: t for name, t in network().state_dict().items() if "num_batches" not in name}
    load_weights(network(), state, of="w.pt")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_weights_that_are_not_finite(value: float, word: str, name: str) -> None:
    model = network()
    check_finite(model, of="w.pt")
    tensor = model.state_dict()[name]
    tensor.view(-1)[:2] = value
    with pytest.raises(PodarError, match=rf"w\.pt: 2 of the {tensor.numel()} values of {name} are {word}"):
        check_finite(model, of="w.pt")


def test_an_attention_mask_may_be_infinite() -> None:
    model = network()
    model.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    check_finite(model, of="x")
