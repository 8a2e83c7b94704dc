"""A checkpoint goes in whole or is refused with one sentence; a pickle runs nothing without trust."""

from __future__ import annotations

import argparse
import json
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from podar.errors import PodarError
from podar.model.checkpoints import check_finite, load_weights, read_state


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


def renamed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


Trees = dict[str, Any]
GOOD, BAD = network(), network()  # what is to be read, and other weights of the same shapes that may lie beside it
good, bad = GOOD.state_dict(), BAD.state_dict()

CHECKPOINTS: dict[str, Trees] = {
    "PyTorch's ImageNet example": {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": renamed(good, "module."),
        "best_acc1": torch.tensor(71.3),
        "optimizer": torch.optim.SGD(GOOD.parameters(), momentum=0.9).state_dict(),
    },
    "Lightning": {
        "epoch": 3,
        "state_dict": renamed(good, "model.") | {"criterion.weight": torch.ones(10)},
        "hyper_parameters": {"lr": 0.1, "kind": "cnn"},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    },
    "Lightning, its own name for the network": {"state_dict": renamed(good, "net.body.")},
    "Lightning with a moving average": {"state_dict": renamed(good, "ema_model.module.") | renamed(bad, "model.")},
    "timm": {
        "arch": "x",
        "state_dict": bad,
        "state_dict_ema": good,
        "args": argparse.Namespace(lr=0.1, size=(3, 32, 32)),
        "amp_scaler": {"scale": 65536.0},
        "metric": np.float64(71.3),
    },
    "nested average": {"model": bad, "ema": {"module": renamed(good, "module."), "updates": torch.tensor(7)}},
    "an average that is none": {"model": good, "ema": {"decay": torch.tensor(0.99), "shadow_params": []}},
    "no average yet": {"model": good, "ema": None},
    "model_state_dict": {"model_state_dict": good, "loss": torch.tensor(0.2), "history": defaultdict(list)},
    "net": {"net": renamed(good, "module."), "acc": 93.1},
    "params_ema": {"params": bad, "params_ema": good},
    "DeepSpeed": {"module": good, "buffer_names": ["a"], "dp_world_size": 1},
    "two deep": {"model": {"state_dict": good, "epoch": torch.tensor(1)}},
    "averaged by torch": {**renamed(good, "module."), "n_averaged": torch.tensor(5)},
    "beside numbers": {**good, "epoch": torch.tensor(3), "best": 0.9},
    "of an unknown name": {"my_resnet": good, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}},
    "compiled and parallel": {"state_dict": renamed(good, "_orig_mod.module.model.")},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_as_people_write_them(tmp_path: Path, name: str) -> None:
    torch.save(CHECKPOINTS[name], tmp_path / "w.ckpt")
    model = network()
    load_weights(model, read_state(tmp_path / "w.ckpt"), of="w.ckpt")
    assert_equal(model, GOOD)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"generator": good, "discriminator": bad}, r"several state dicts \(generator, discriminator\).*save that one"),
        ({"state_dict": {**renamed(good, "student."), **renamed(bad, "teacher.")}}, r"under student\., teacher\."),
        ({"state_dict": renamed(good, "model.") | {"model.more.weight": torch.ones(2)}}, r"no place .* more\.weight"),
        (torch.ones(3), "one tensor without a name"),
        ([good], "holds no state dict"),
    ],
)
def test_checkpoints_that_could_mean_several_things_are_refused(tmp_path: Path, tree: Any, said: str) -> None:
    torch.save(tree, tmp_path / "w.pt")
    with pytest.raises(PodarError, match=said):
        load_weights(network(), read_state(tmp_path / "w.pt"), of="w.pt")


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    tree: Trees = {"epoch": 1}
    tree.update(model=tree, net=tree, other=tree)
    torch.save(tree, tmp_path / "w.pt")
    with pytest.raises(PodarError, match="holds no state dict"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin", "parts"])
def test_folders_as_accelerate_writes_them(tmp_path: Path, kind: str) -> None:
    if kind == "parts":
        names = list(good)
        whole = {n: f"model-0000{1 + k % 2}-of-00002.safetensors" for k, n in enumerate(names)}
        for part in set(whole.values()):
            save_file({n: good[n] for n in names if whole[n] == part}, tmp_path / part)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": whole}))
    elif kind.endswith("bin"):
        torch.save(good, tmp_path / kind)
    else:
        save_file(good, tmp_path / kind)
    model = network()
    load_weights(model, read_state(tmp_path), of="folder")
    assert_equal(model, GOOD)


@pytest.mark.parametrize("named", ["../w.safetensors", "/etc/passwd", "model.safetensors.index.json", "", ".."])
def test_an_index_names_files_beside_it_and_nothing_else(tmp_path: Path, named: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(PodarError, match="is no file beside it"):
        read_state(index)


def test_a_tied_weight_may_stand_under_one_of_its_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.embed.weight

    saved = Tied().state_dict()
    for name in saved:
        model = Tied()
        load_weights(model, {name: saved[name]}, of="w")
        assert torch.equal(model.out.weight, saved[name]) and model.out.weight is model.embed.weight


def test_complex_weights_do_not_become_real_ones() -> None:
    with pytest.raises(PodarError, match=r"fc\.bias is complex in w\.pt"):
        load_weights(network(), {**good, "fc.bias": good["fc.bias"].to(torch.complex64)}, of="w.pt")


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


def test_a_pickle_of_an_old_torch_is_told_by_what_it_needs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("1/0",)

    torch.save({"w": Bomb()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(PodarError, match=r"more than tensors \((\w+\.)?eval\)"):
        read_state(tmp_path / "old.pt")
