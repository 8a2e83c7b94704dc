"""The native package alone: networks against a numpy reference, every level, patterns, damaged files."""

from __future__ import annotations

import numpy as np
import pytest

podar_native = pytest.importorskip("podar_native", reason="podar-native is not built here")
from podar_native import Activation, Choice, Network, Runner, build, describe, levels  # noqa: E402

RANDOM = np.random.default_rng(0)


def convolved(x, weight, stride, padding, dilation, groups):
    """The sum over taps, channel by channel, in float64."""
    n, channels, high, wide = x.shape
    out_channels, per_group, kh, kw = weight.shape
    padded = np.zeros((n, channels, high + 2 * padding[0], wide + 2 * padding[1]))
    padded[:, :, padding[0] : padding[0] + high, padding[1] : padding[1] + wide] = x
    oh = (padded.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (padded.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, out_channels, oh, ow))
    of_group = out_channels // groups
    for g in range(groups):
        source = padded[:, g * per_group : (g + 1) * per_group]
        for ky in range(kh):
            for kx in range(kw):
                y, z = ky * dilation[0], kx * dilation[1]
                patch = source[
                    :, :, y : y + (oh - 1) * stride[0] + 1 : stride[0], z : z + (ow - 1) * stride[1] + 1 : stride[1]
                ]
                part = weight[g * of_group : (g + 1) * of_group, :, ky, kx]
                out[:, g * of_group : (g + 1) * of_group] += np.einsum("oc,nchw->nohw", part, patch)
    return out


def random_case(random):
    groups = int(random.choice([1, 1, 1, 2, 3]))
    channels, out_channels = int(random.integers(1, 9)) * groups, int(random.integers(1, 13)) * groups
    if random.random() < 0.2:
        groups = channels = out_channels
    size = random.integers(1, 24, 2)
    kernel, stride = random.integers(1, 5, 2), random.integers(1, 4, 2)
    padding, dilation = random.integers(0, 4, 2), random.integers(1, 3, 2)
    if (size + 2 * padding < dilation * (kernel - 1) + 1).any():
        return None
    weight = random.standard_normal((out_channels, channels // groups, *kernel)).astype(np.float32)
    weight *= random.random(weight.shape) < random.choice([0.0, 0.1, 0.5, 1.0])
    image = random.standard_normal((2, channels, *size)).astype(np.float32)
    how = Choice(int(random.choice([1, 4, 8])), int(random.choice([0, 3, 16])), int(random.choice([0, 1, 3, 14])))
    numbers = [tuple(int(n) for n in pair) for pair in (stride, padding, dilation)]
    return image, weight, *numbers, groups, how, int(random.choice([0, 16, 64])), int(random.integers(1, 4))


@pytest.mark.parametrize("seed", range(120))
def test_convolutions_with_a_residual_on_every_level(seed):
    random = np.random.default_rng(seed)
    case = random_case(random)
    if case is None:
        return
    image, weight, stride, padding, dilation, groups, how, strip, threads = case
    bias = random.standard_normal(len(weight)).astype(np.float32)
    second = (random.standard_normal((len(weight), len(weight), 3, 3)) * (random.random((3, 3)) < 0.4)).astype(
        np.float32
    )
    network = Network()
    x = network.input(image.shape[1:])
    y = network.conv(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, act=Activation("relu")
    )
    z = network.activate(network.add(network.conv(y, second, padding=(1, 1)), y), Activation("leaky_relu", 0.1))
    network.output(z, z.shape)
    program = build(network, default=how, strip=strip)
    middle = np.maximum(convolved(image, weight, stride, padding, dilation, groups) + bias[:, None, None], 0)
    expected = convolved(middle, second, (1, 1), (1, 1), (1, 1), 1) + middle
    expected = np.where(expected < 0, 0.1 * expected, expected)
    for level in levels():
        found = Runner(program, level=level, threads=threads)(image)[0]
        assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), level


def test_pooling_joining_and_scaling():
    network = Network()
    x = network.input((4, 9, 10))
    pooled = network.pool(x, "max", (3, 3), (2, 2), (1, 1))
    average = network.pool(x, "average", (2, 2), (2, 2))
    narrow = network.channels(x, 1, 3)
    joined = network.concat(
        [network.channels(x, 0, 2), network.channels(x, 2, 4), narrow, network.activate(x, Activation("silu"))]
    )
    scaled = network.mul(joined, network.activate(network.mean(joined), Activation("sigmoid")))
    for value in (pooled, average, scaled, network.upsample(narrow, (2, 3))):
        network.output(value, value.shape)
    image = RANDOM.standard_normal((3, 4, 9, 10)).astype(np.float32)
    for level in levels():
        found = Runner(build(network), level=level)(image)
        padded = np.pad(image, ((0, 0), (0, 0), (1, 2), (1, 1)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2][:, :, :5, :5]
        assert np.array_equal(found[0], windows.max((-1, -2)))
        assert np.allclose(found[1], image[:, :, :8].reshape(3, 4, 4, 2, 5, 2).mean((3, 5)), atol=1e-6)
        silu = image / (1 + np.exp(-image))
        whole = np.concatenate([image, image[:, 1:3], silu], 1)
        factor = 1 / (1 + np.exp(-whole.mean((2, 3), keepdims=True)))
        assert np.allclose(found[2], whole * factor, atol=1e-5)
        assert np.array_equal(found[3], image[:, 1:3].repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("hardswish", lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_activations_over_their_whole_range(name, function):
    network = Network()
    x = network.input((1, 1, 2000))
    network.output(network.activate(x, Activation(name)), x.shape)
    numbers = np.linspace(-30, 30, 2000, dtype=np.float32).reshape(1, 1, 1, -1)
    for level in levels():
        found = Runner(build(network), level=level)(numbers)[0]
        assert np.allclose(found, function(numbers.astype(np.float64)), rtol=2e-6, atol=2e-6), (name, level)
    odd = np.full_like(numbers, np.nan)
    assert np.isnan(Runner(build(network))(odd)[0]).all()


def small():
    network = Network()
    x = network.input((3, 8, 8), "image")
    y = network.conv(x, RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32), padding=(1, 1), name="first")
    network.output(y, y.shape)
    return build(network, notes={"by": "test"})


def test_a_file_is_mapped_and_describes_itself(tmp_path):
    program = small()
    path = tmp_path / "small.podar"
    path.write_bytes(program)
    image = RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)
    run = Runner(path, verify=True)
    assert np.array_equal(run(image)[0], Runner(program)(image)[0])
    assert describe(program)["by"] == "test" and describe(program)["layers"][0]["name"] == "first"
    assert run.arena_bytes > 0 and run.level == levels()[0]


def test_damaged_files_are_refused(tmp_path):
    program = small()
    for damaged, message in [
        (b"", "no program"),
        (program[:50], "no program"),
        (b"x" * len(program), "no program"),
        (program[:-8], "cut off"),
        (program[:8] + b"\x63" + program[9:], "format 99"),
    ]:
        with pytest.raises(ValueError, match=message):
            Runner(damaged)
    with pytest.raises(ValueError, match="damaged"):
        Runner(program[:-1] + bytes([program[-1] ^ 1]), verify=True)
    (tmp_path / "empty.podar").write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        Runner(tmp_path / "empty.podar")


def test_no_damage_crashes():
    """Any byte of the tables and lists may be wrong: the program is refused, or runs inside its own memory."""
    program = small()
    image = np.zeros((1, 3, 8, 8), np.float32)
    random = np.random.default_rng(1)
    for _ in range(400):
        broken = bytearray(program)
        for _ in range(int(random.integers(1, 4))):
            broken[int(random.integers(8, len(program)))] = int(random.integers(256))
        try:
            run = Runner(bytes(broken))
            if run.arena_bytes < 1 << 24:
                run(image)
        except (ValueError, KeyError, TypeError, OverflowError):
            pass


def test_wrong_inputs_are_said():
    run = Runner(small())
    with pytest.raises(ValueError, match="image is 1×3×8×9, the program takes batch×3×8×8"):
        run(np.zeros((1, 3, 8, 9), np.float32))
    with pytest.raises(ValueError, match="image is float64"):
        run(np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="takes 1 inputs, 2 were given"):
        run(np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="does not run the level sse9"):
        Runner(small(), level="sse9")
    with pytest.raises(ValueError, match="threads is 0"):
        Runner(small(), threads=0)


def test_the_level_can_be_forced(monkeypatch):
    monkeypatch.setenv("PODAR_SIMD", "scalar")
    assert Runner(small()).level == "scalar"
