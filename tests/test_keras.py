"""The Keras half: what is decayed, padding, whose statistics batch normalisation keeps, neutral names and layouts."""

import os
import signal
import subprocess
import sys

import horovod.tensorflow as hvd
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from keras import layers
from steps import made, micro_batches, plan

from hvd_imagenet.config import AllreduceSettings, OptimizerSettings
from hvd_imagenet.keras.model import build_model
from hvd_imagenet.keras.names import named_parameters
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD, sum_in_buckets, sum_over_workers, undecayed
from hvd_imagenet.keras.state import _sum_of_bits
from hvd_imagenet.models.spec import RESNETS
from hvd_imagenet.stream import share
from hvd_imagenet.torch.model import build_model as build_in_torch

pytestmark = pytest.mark.one_launch


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet50", 63), ("resnet8", 28), ("resnet20", 13)])
def test_the_same_network_as_in_pytorch(name, size):
    """Names, shapes, initial values, and what comes out, with odd sizes where padding could be one-sided."""
    torch_model = build_in_torch(name, 7, seed=3, dtype=torch.float64)
    model = build_model(name, 7, seed=3)
    parameters = named_parameters(model)
    expected = dict(torch_model.named_parameters())
    assert parameters.keys() == expected.keys()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter, value in expected.items():
            assert np.array_equal(parameters[parameter].numpy(), value.numpy()), parameter
            if parameter.endswith("weight") and value.ndim == 1:  # a last gamma of 0 would hide its block
                value.copy_(torch.from_numpy(rng.standard_normal(len(value))))
                parameters[parameter].assign(value.numpy())
    images = rng.standard_normal((4, size, size, 3))
    scores = torch_model.train()(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    assert model(images, training=True).numpy() == pytest.approx(scores, rel=1e-9, abs=1e-9)


def test_every_network_of_the_table_can_be_built():
    for name in ("resnet34", "resnet32", "resnet44", "resnet56"):
        assert len(named_parameters(build_model(name, 5))) == 3 * len(list(RESNETS[name].conv_norms())) + 2


def test_weight_decay_spares_gamma_and_beta_and_nothing_else():
    model = build_model("resnet8", 10)
    names = {id(parameter.variable): name for name, parameter in named_parameters(model).items()}
    spared = {names[number] for number in undecayed(model)}
    assert spared == {n for n in names.values() if ".bn" in n or n.startswith("bn") or ".downsample.1." in n}
    assert "fc.bias" not in spared


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_by_hand(nesterov):
    """u <- m u + (g + lambda w); w <- w - eta (g + lambda w + m u) or w - eta u: decay coupled, eta outside of u."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    optimizer = SGD(model, OptimizerSettings(momentum=0.9, nesterov=nesterov, weight_decay=0.1))
    w, u = 2.0, 0.0
    model.layers[0].kernel.assign([[w]])
    for gradient, rate in ((1.0, 0.1), (0.5, 0.4), (-1.0, 0.04)):
        optimizer.apply([tf.constant([[gradient]], "float64")], tf.constant(rate, "float64"))
        d = gradient + 0.1 * w
        u = 0.9 * u + d
        w -= rate * (d + 0.9 * u if nesterov else u)
        assert float(model.layers[0].kernel[0, 0]) == pytest.approx(w, rel=1e-15)


@pytest.mark.parametrize("workers", [2])
def test_gradients_are_summed(workers):
    hvd.init()
    one = sum_over_workers(tf.constant([1.0, 2.0]) * (hvd.rank() + 1), "one")
    other = sum_over_workers(tf.constant([[5.0]]) * hvd.rank(), "other")
    assert one.numpy().tolist() == [3.0, 6.0] and other.numpy().tolist() == [[5.0]]


@pytest.mark.parametrize("workers", [2])
def test_gradients_in_sixteen_bits_are_right_to_eleven(workers):
    hvd.init()
    of_rank = tf.constant([[1.0, 1e-7, -2.5, 1 / 3, 31.0], [2.0, 2e-7, 2.5, 1 / 3, 33.5]], "float32")
    given = [of_rank[hvd.rank()], tf.fill([2, 3], float(hvd.rank() + 1))]
    sums, ones = sum_in_buckets(given, AllreduceSettings(compression="fp16"))
    assert sums.numpy()[:4] == pytest.approx(of_rank.numpy().sum(0)[:4], rel=2**-10, abs=0) and np.isinf(sums[4])
    assert ones.numpy().tolist() == [[3.0] * 3] * 2 and ones.dtype == sums.dtype == tf.float32


def test_statistics_are_the_mean_over_micro_batches_with_each_layers_momentum():
    one, other = layers.BatchNormalization(momentum=0.9), layers.BatchNormalization(momentum=0.7)
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((None, None, 3)), one, other, frozen])
    statistics = StepStatistics(model, (4, 5, 5, 3))
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((4, 5, 5, 3)) * 2 + 1 for _ in range(3)]
    sums = tf.zeros_like(statistics.running)
    for batch in batches:
        model(batch, training=True)
        sums += statistics.last()
    statistics.update(sums, tf.constant(3.0, "float64"))
    running = {name: value.numpy() for name, value in statistics.named()}
    assert len(running) == 4
    mean = np.mean([b.mean((0, 1, 2)) for b in batches], 0)
    var = np.mean([b.var((0, 1, 2), ddof=1) for b in batches], 0)
    assert running[f"{one.name}.running_mean"] == pytest.approx(0.1 * mean, rel=1e-12)
    assert running[f"{one.name}.running_var"] == pytest.approx(0.9 + 0.1 * var, rel=1e-12)
    # The second layer sees the first one's output, mean 0 and biased variance 1 (but for epsilon).
    seen = np.mean([one(b, training=True).numpy().var((0, 1, 2), ddof=1) for b in batches], 0)
    assert running[f"{other.name}.running_var"] == pytest.approx(0.7 + 0.3 * seen, rel=1e-12)
    statistics.use_running()
    y = (batches[0] - running[f"{one.name}.running_mean"]) / np.sqrt(running[f"{one.name}.running_var"] + one.epsilon)
    assert one(batches[0], training=False).numpy() == pytest.approx(y, rel=1e-12)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_against_plain_keras(workers):
    """Three micro-batches of 8 on one worker or two: loss and weights of the loop as one would write it, in float64."""
    backend = made("keras")
    batches = list(micro_batches(3))
    start, stop = share(3, backend.rank, backend.size)
    backend.train_step(plan(3), batches[start:stop])
    [(_, totals)] = backend.take_totals(wait=True)

    model = build_model("resnet8", 4)
    spared = undecayed(model)
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses = [
            keras.losses.sparse_categorical_crossentropy(b.labels, model(b.images, training=True), from_logits=True)
            for b in batches
        ]
        loss = tf.reduce_mean(losses)
        decay = tf.add_n([tf.reduce_sum(v**2) for v in variables if id(v) not in spared])
        penalised = loss + 0.5e-4 * decay
    for variable, gradient in zip(variables, tape.gradient(penalised, variables), strict=True):
        variable.assign_sub(0.1 * (1 + 0.9) * gradient)  # the first step with Nesterov momentum
    assert totals.loss == pytest.approx(float(loss), rel=1e-12) and totals.count == 24
    state = backend.state()
    for name, parameter in named_parameters(model).items():
        assert state.model[name] == pytest.approx(parameter.numpy(), rel=1e-9, abs=1e-12), name


def test_the_last_words_of_an_import_that_crashes_are_told(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 00:00 noise\\nF0000 no such instruction\\n')\nos.abort()\n"
    )
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import hvd_imagenet.keras"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, "F0000 no such instruction\n")


def test_neither_the_learning_rate_nor_the_number_of_micro_batches_is_traced_again():
    backend = made("keras")
    for micro, rate in ((3, 0.1), (2, 0.2), (5, 0.05), (1, 0.1)):
        backend.train_step(plan(micro, rate=rate), micro_batches(micro), stop=micro == 2)
    assert backend._graph.accumulate.experimental_get_tracing_count() == 1
    assert backend._graph.finish.experimental_get_tracing_count() == 2  # with micro-batches before it, and without


@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, 32), (np.float64, 64)])
def test_every_flipped_bit_changes_the_fingerprint(dtype, bits):
    """For values whose bits are all 0, mixed, and all but one 1, in every position; and so does another order."""
    integers = {32: np.uint32, 64: np.uint64}[bits]
    values = np.array([0, 0x3F123456, 2**bits - 2, 7], dtype=integers)
    whole = _sum_of_bits(tf.constant(values.view(dtype)))
    for place in range(4):
        for bit in range(bits):
            flipped = values.copy()
            flipped[place] ^= integers(2**bit)
            assert _sum_of_bits(tf.constant(flipped.view(dtype))) != whole, (place, bit)
    assert _sum_of_bits(tf.constant(values[::-1].view(dtype))) != whole


def test_importing_says_nothing():
    program = "import hvd_imagenet.keras.backend, tensorflow as tf; tf.constant(1.0) + 1"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("before", ["", "import keras; "])
def test_another_keras_backend_is_refused(before):
    program = f"{before}import hvd_imagenet.keras"
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "SettingsError: KERAS_BACKEND: torch; Horovod has operations for Keras on tensorflow only" in done.stderr
