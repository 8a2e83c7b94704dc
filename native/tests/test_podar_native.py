"""The native package alone: networks against a numpy reference, every level, patterns, damaged files."""

from __future__ import annotations

import math

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


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "clamp": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("seed", range(120))
def test_depthwise_convolutions_alone_and_after_a_convolution_on_every_level(seed):
    random = np.random.default_rng(seed)
    kernel, step = int(random.choice([3, 3, 5, 7])), int(random.choice([1, 2]))
    channels, wide = int(random.integers(1, 7)), int(random.integers(1, 30))
    size = random.integers(1, 70, 2) if seed % 2 else random.integers(1, 18, 2)
    padding = random.integers(0, kernel, 2)
    if (size + 2 * padding < kernel).any():
        return
    first = random.standard_normal((wide, channels, 1, 1)).astype(np.float32)
    first *= random.random(first.shape) < 0.5
    weight = random.standard_normal((wide, 1, kernel, kernel)).astype(np.float32)
    bias = random.standard_normal((2, wide)).astype(np.float32)
    name = str(random.choice(list(ACTIVATIONS)))
    act = Activation(name, 0, 6)
    network = Network()
    x = network.input((channels, *size))
    y = network.conv(x, first, bias[0], act=Activation("relu"), name="wide")
    z = network.conv(
        y, weight, bias[1], stride=(step, step), padding=tuple(map(int, padding)), groups=wide, act=act, name="deep"
    )
    network.output(z, z.shape)
    if random.random() < 0.3:
        network.output(y, y.shape)  # another reader: it must be whole
    image = random.standard_normal((2, channels, *size)).astype(np.float32)
    middle = np.maximum(convolved(image, first, (1, 1), (0, 0), (1, 1), 1) + bias[0][:, None, None], 0)
    deep = convolved(middle, weight, (step, step), padding, (1, 1), wide) + bias[1][:, None, None]
    expected = ACTIVATIONS[name](deep)
    program = build(network, default=Choice(int(random.choice([1, 4, 8]))), pair=int(random.choice([0, 1 << 20])))
    kinds = {layer["name"]: layer["kind"] for layer in describe(program)["layers"]}
    assert kinds["deep"] == "depthwise"
    for level in levels():
        found = Runner(program, level=level, threads=int(random.integers(1, 4)))(image)
        assert np.abs(found[0] - expected).max() <= 1e-5 * max(1.0, np.abs(deep).max()), level
        if len(found) > 1:
            assert np.abs(found[1] - middle).max() <= 1e-5 * max(1.0, np.abs(middle).max()), level


@pytest.mark.parametrize("seed", range(20))
def test_attention_on_every_level(seed):
    random = np.random.default_rng(seed)
    heads, keys, values = (int(n) for n in random.integers(1, 9, 3))
    size = tuple(int(n) for n in random.integers(1, 12, 2))
    together = bool(seed % 2)  # q, k and v of a head side by side, or all of q first
    wide = heads * (2 * keys + values)
    first = (0, keys, 2 * keys) if together else (0, heads * keys, 2 * heads * keys)
    step = (2 * keys + values,) * 3 if together else (keys, keys, values)
    network = Network()
    x = network.input((wide, *size))
    y = network.attention(x, heads, (keys, values), first, step, 0.3)
    z = network.conv(y, np.ones((1, heads * values, 3, 3), np.float32), padding=(1, 1))  # reads the pads
    network.output(y, y.shape)
    network.output(z, z.shape)
    image = random.standard_normal((2, wide, *size)).astype(np.float32)
    flat = image.reshape(2, wide, -1).astype(np.float64)
    parts = []
    for h in range(heads):
        q, k, v = (flat[:, a + h * s : a + h * s + d] for a, s, d in zip(first, step, (keys, keys, values)))
        scores = 0.3 * np.einsum("bdi,bdj->bij", q, k)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(np.einsum("bij,bdj->bdi", weights / weights.sum(-1, keepdims=True), v))
    expected = np.concatenate(parts, 1).reshape(2, heads * values, *size)
    summed = convolved(expected, np.ones((1, heads * values, 3, 3)), (1, 1), (1, 1), (1, 1), 1)
    for level in levels():
        found = Runner(build(network), level=level, threads=1 + seed % 3)(image)
        assert np.abs(found[0] - expected).max() <= 1e-5, level
        assert np.abs(found[1] - summed).max() <= 1e-4, level


def test_positions_joined_constants_and_differences():
    network = Network()
    x, y = network.input((3, 4, 5)), network.input((3, 2, 7))
    joined = network.join([network.join([x]), y, network.join([network.activate(x, Activation("relu"))])])
    numbers = RANDOM.standard_normal((3, 1, 54)).astype(np.float32)
    less = network.subtract(network.constant(numbers), joined)
    factors = RANDOM.standard_normal((1, 1, 54)).astype(np.float32)
    scaled = network.mul(network.activate(less, Activation("affine", 2, -1)), network.constant(factors))
    network.output(scaled, (3, 54))
    one, other = (RANDOM.standard_normal((2, 3, *size)).astype(np.float32) for size in ((4, 5), (2, 7)))
    whole = np.concatenate([one.reshape(2, 3, 20), other.reshape(2, 3, 14), np.maximum(one, 0).reshape(2, 3, 20)], 2)
    for level in levels():
        (found,) = Runner(build(network), level=level)(one, other)
        assert np.allclose(found, (2 * (numbers[:, 0] - whole) - 1) * factors[0], atol=1e-5)


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
        ("gelu", lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
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


def every_kind():
    """A small program of every operator; the middle value is made some channels at a time."""
    network = Network()
    x = network.input((3, 8, 8), "image")
    y = network.conv(x, RANDOM.standard_normal((6, 3, 1, 1)).astype(np.float32), act=Activation("silu"))
    deep = RANDOM.standard_normal((6, 1, 3, 3)).astype(np.float32)
    y = network.conv(y, deep, padding=(1, 1), groups=6, stride=(2, 2))
    y = network.attention(y, 2, (1, 1), (0, 2, 4), (1, 1, 1), 0.5)
    y = network.conv(
        network.upsample(y, (2, 2)), RANDOM.standard_normal((2, 2, 3, 3)).astype(np.float32), padding=(1, 1)
    )
    pooled = network.pool(y, "max", (3, 3), (2, 2), (1, 1))
    y = network.subtract(network.join([y, pooled]), network.constant(np.ones((2, 1, 80), np.float32)))
    y = network.mul(y, network.constant(np.ones((1, 1, 80), np.float32)))
    network.output(y, y.shape)
    scores = network.linear(network.mean(y), np.ones((5, 2), np.float32))
    network.output(scores, (5,))
    return build(network, pair=0)


@pytest.mark.parametrize("program", [small, every_kind])
def test_no_damage_crashes(program):
    """Any byte of the tables and lists may be wrong: the program is refused, or runs inside its own memory."""
    program = program()
    Runner(program)(np.zeros((1, 3, 8, 8), np.float32))
    image = np.zeros((1, 3, 8, 8), np.float32)
    random = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(program)
        for _ in range(int(random.integers(1, 4))):
            broken[int(random.integers(8, len(program)))] = int(random.integers(256))
        try:
            run = Runner(bytes(broken))
            if run.arena_bytes < 1 << 20:
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


@pytest.mark.parametrize("seed", range(20))
def test_sums_of_squares_of_rows_and_columns(seed):
    random = np.random.default_rng(seed)
    shape = random.integers(1, (4, 600, 90)) if seed else (2, 5, 2100)
    values = random.standard_normal(tuple(shape)).astype(np.float32)
    rows, columns = podar_native.square_sums(values)
    squares = values.astype(np.float64) ** 2
    np.testing.assert_allclose(rows, squares.sum(2), rtol=1e-5)
    np.testing.assert_allclose(columns, squares.sum(1), rtol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.uint8, np.bool_])
@pytest.mark.parametrize("inner", [(), (3, 3), (5, 5), (7, 7), (2, 5)])
def test_chosen_rows_and_columns(kind, inner):
    values = (RANDOM.standard_normal((9, 31, *inner)) * 9).astype(kind)
    rows, columns = RANDOM.integers(0, 9, 5), RANDOM.integers(0, 31, 12)
    for places in (columns, np.unique(columns), np.arange(31), columns[:0]):
        out = np.zeros((5, len(places), *inner), kind)
        podar_native.take(values, rows, places, out)
        assert (out == values[rows][:, places]).all()


def test_what_cannot_be_taken_is_refused():
    values, out = np.zeros((3, 4), np.float32), np.zeros((1, 2), np.float32)
    one, two = np.array([0]), np.array([0, 3])
    with pytest.raises(IndexError, match="outside"):
        podar_native.take(values, np.array([3]), two, out)
    with pytest.raises(IndexError, match="outside"):
        podar_native.take(values, one, np.array([0, -1]), out)
    with pytest.raises(ValueError, match="another size"):
        podar_native.take(values, one, one, out)
    with pytest.raises(ValueError, match="type of out"):
        podar_native.take(values, one, two, out.astype(np.float64))
    with pytest.raises(TypeError):
        podar_native.take(np.zeros((4, 3), np.float32).T, one, two, out)
    with pytest.raises(TypeError):
        podar_native.take(values, one, two, np.zeros((2, 2), np.float32)[:1, ::-1])
    with pytest.raises(TypeError):
        podar_native.take(values, one.astype(np.int32), two, out)
    with pytest.raises(TypeError):
        podar_native.square_sums(np.zeros((1, 2, 3)))
