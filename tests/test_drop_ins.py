"""The parts for training loops of one's own, in plain scripts on two workers."""

import os

import horovod.tensorflow as hvd
import horovod.tensorflow.keras as hvd_keras
import keras
import numpy as np
import pytest
import torch
from keras import layers, optimizers

from hvd_imagenet.keras import BroadcastCallback, DistributedOptimizer, LargeBatchCallback, MetricAverageCallback
from hvd_imagenet.keras.schedule import velocities
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings, ScheduleSettings, WarmupSettings
from hvd_imagenet.torch import LargeBatchLR

pytestmark = pytest.mark.one_launch
RANK = int(os.environ.get("HOROVOD_RANK", 0))
SAMPLES, GLOBAL, CLASSES = 48, 16, 3


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def data(seed=0, samples=SAMPLES):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, 6, 6, 3)).astype(np.float32), rng.integers(0, CLASSES, samples)


def share_of(arrays, workers=2):
    """This worker's half of every batch, so that both together take the whole ones."""
    own = GLOBAL // workers
    rows = [i for i in range(len(arrays[0])) if i % GLOBAL // own == RANK]
    return [array[rows] for array in arrays]


def network(norm=False, seed=0):
    keras.utils.set_random_seed(seed)
    parts = [layers.Conv2D(4, 3), *([layers.BatchNormalization()] if norm else []), layers.ReLU(), layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 3)), *parts, layers.Dense(CLASSES)])


def fit(model, optimizer, arrays, batch, callbacks=(), epochs=2, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False, auto_scale_loss=False)
    return model.fit(
        *arrays, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **options
    )


def everyones(weights):
    hvd.init()
    return hvd.allgather_object([np.array(weight) for weight in weights], name="weights")


def furthest(ones, others):
    return max(np.abs(one - other).max() for one, other in zip(ones, others, strict=True))


def sgd():
    return optimizers.SGD(0.1, momentum=0.9, nesterov=True)


def accumulating():
    return optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)


OPTIMIZERS = {
    "SGD": (sgd, DistributedOptimizer, 1),
    "Adam": (lambda: optimizers.Adam(0.01), DistributedOptimizer, 1),
    "accumulation": (accumulating, DistributedOptimizer, 2),
    "loss scale inside": (sgd, lambda o: DistributedOptimizer(optimizers.LossScaleOptimizer(o)), 1),
    "loss scale outside": (sgd, lambda o: optimizers.LossScaleOptimizer(DistributedOptimizer(o)), 1),
}
for _place in ("inside", "outside"):
    OPTIMIZERS[f"accumulation, loss scale {_place}"] = (accumulating, OPTIMIZERS[f"loss scale {_place}"][1], 2)


@pytest.mark.parametrize("workers", [2])
def test_fit_on_two_workers_is_fit_on_the_joined_batches(workers):
    for name, (inner, wrap, batches) in OPTIMIZERS.items():
        model = network(seed=RANK)  # each its own weights, as a script without a seed has them
        fit(model, wrap(inner()), share_of(data()), GLOBAL // 2 // batches, [BroadcastCallback()])
        ours, others = everyones(model.get_weights())
        assert furthest(ours, others) == 0, name
        alone = network(seed=0)
        plain = inner()
        if batches > 1:  # of whole batches in two parts each
            plain.gradient_accumulation_steps = None
        fit(alone, plain, data(), GLOBAL)
        assert furthest(ours, alone.get_weights()) < 1e-5, name
        assert furthest(ours, network(seed=0).get_weights()) > 0.01, name


@pytest.mark.parametrize("workers", [2])
def test_mixed_float16_as_keras_compiles_it(workers):
    """By default, Keras puts a loss scale around what is none: gradients must not be divided by two of them."""
    inner = {
        "none": sgd(),
        "inside": optimizers.LossScaleOptimizer(sgd(), initial_scale=1024),
        "factor": optimizers.SGD(0.1, momentum=0.9, nesterov=True, loss_scale_factor=8.0),
    }
    moved = {}
    for name, optimizer in inner.items():
        keras.config.set_dtype_policy("mixed_float16")
        model = network()
        before = model.get_weights()
        model.compile(DistributedOptimizer(optimizer), "mse", jit_compile=False)
        images, labels = share_of(data())
        callbacks = [BroadcastCallback()]
        targets = np.eye(CLASSES, dtype=np.float32)[labels]
        model.fit(images, targets, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
        assert model.optimizer.initial_scale == (1024 if name == "inside" else 32768)
        moved[name] = np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), before, strict=True)])
    assert np.abs(moved["none"]).max() > 0.05
    for name in ("inside", "factor"):
        assert moved[name] == pytest.approx(moved["none"], abs=0.01), name


@pytest.mark.parametrize("workers", [2])
def test_dropout_differs_between_workers_and_weights_do_not(workers):
    model = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5, seed=RANK), layers.Dense(3)])
    fit(model, DistributedOptimizer(sgd()), [np.ones((16, 6)), np.zeros(16)], 8, [BroadcastCallback()])
    seeds = everyones(model.layers[0].seed_generator.state.value for _ in range(1))
    assert not np.array_equal(*[one[0] for one in seeds])
    assert furthest(*everyones(model.get_weights())) == 0


@pytest.mark.parametrize("workers", [2])
def test_epochs_of_different_length_are_refused_before_they_hang(workers):
    images, labels = data()
    rows = slice(0, 32 + 8 * RANK)
    with pytest.raises(ValueError, match="an epoch of fit is 4, 5 batches on workers 0, 1"):
        fit(network(), DistributedOptimizer(sgd()), (images[rows], labels[rows]), 8, [BroadcastCallback()])


@pytest.mark.parametrize("workers", [2])
def test_one_worker_may_validate_alone(workers):
    model = network(norm=True)
    validation = {"validation_data": data(1)} if RANK == 0 else {}
    history = fit(model, DistributedOptimizer(sgd()), share_of(data()), 8, [BroadcastCallback()], **validation)
    assert furthest(*everyones(model.get_weights())) == 0
    if RANK == 0:  # with the statistics that all workers have in the end
        loss, _ = model.evaluate(*data(1), verbose=0)
        assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("workers", [2])
def test_moving_statistics_are_equal_after_each_epoch(workers):
    model, equal = network(norm=True), []

    class Compare(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            one, other = everyones(self.model.get_weights())
            equal.append(furthest(one, other))

    callbacks = [BroadcastCallback(), Compare()]
    fit(model, DistributedOptimizer(sgd()), share_of(data()), 8, callbacks, validation_data=share_of(data(1)))
    assert equal == [0, 0]


@pytest.mark.parametrize("workers", [2])
def test_horovods_own_optimizer_trains_each_worker_alone(workers):
    """Why there is one of ours; should this fail one day, it may go."""
    model = network()
    fit(model, hvd_keras.DistributedOptimizer(sgd()), share_of(data()), 8)
    one, other = everyones(model.get_weights())
    assert furthest(one, other) > 0.01


@pytest.mark.parametrize("workers", [2])
def test_metrics_are_over_the_samples_of_all_workers(workers):
    """With weights that stay as they are, and 30 of 48 samples on one worker: results are those of one process."""
    images, labels = data()
    rows = slice(0, 30) if RANK == 0 else slice(30, None)
    model = network()
    callbacks = [BroadcastCallback(), MetricAverageCallback()]
    frozen = DistributedOptimizer(optimizers.SGD(0.0))
    steps = {"steps_per_epoch": 3}  # of 10 samples, and of 6
    validation = {
        "validation_data": tuple(array[RANK * 7 : 7 + RANK * 9] for array in data(1)),
        "validation_batch_size": 4,
    }
    batch = 10 if RANK == 0 else 6
    history = fit(model, frozen, (images[rows], labels[rows]), batch, callbacks, epochs=1, **steps, **validation)
    expected = model.evaluate(images, labels, verbose=0)
    expected += model.evaluate(*(array[:16] for array in data(1)), verbose=0)
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert [history.history[name][0] for name in names] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("workers", [2])
def test_a_gradient_that_is_not_finite_on_one_worker_skips_the_step_on_all(workers):
    images, labels = share_of(data())
    if RANK == 1:
        images = images.copy()
        images[0] = np.inf
    model = network()
    optimizer = optimizers.LossScaleOptimizer(DistributedOptimizer(sgd()), initial_scale=64)
    fit(model, optimizer, (images, labels), 8, epochs=1)
    assert float(optimizer.dynamic_scale) == 32
    assert int(optimizer.iterations) == 2  # of three
    one, other = everyones(model.get_weights())
    assert furthest(one, other) == 0 and np.isfinite(one[0]).all()


def policy(**changes):
    """Warmup from 0.05 to 0.4 in one epoch of three steps, a tenth from the second epoch on."""
    rate = LearningRateSettings(
        reference=0.05,
        reference_batch=2,
        warmup=WarmupSettings("gradual", 1),
        schedule=ScheduleSettings("step", [2], 0.1),
    )
    return LargeBatchPolicy(SAMPLES, 3, BatchSettings(**{"global_size": GLOBAL, "micro_size": 8, **changes}), rate)


@pytest.mark.parametrize("accumulation", [None, 2])
@pytest.mark.parametrize("nesterov", [False, True])
def test_rates_and_momentum_correction_make_keras_take_pytorchs_steps(nesterov, accumulation):
    """Keras's velocity absorbs the rate, PyTorch's does not: with the correction, the weights are the same."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((SAMPLES, 5)).astype(np.float32), rng.standard_normal((SAMPLES, 1)).astype(np.float32)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1)])
    twin = torch.nn.Linear(5, 1)
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(model.get_weights()[0].T))
        twin.bias.zero_()
    inner = optimizers.SGD(9.0, momentum=0.9, nesterov=nesterov, gradient_accumulation_steps=accumulation)
    model.compile(DistributedOptimizer(inner), "mse", jit_compile=False)
    batch = GLOBAL // (accumulation or 1)
    model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, verbose=0, callbacks=[LargeBatchCallback(policy())])
    # Gone on with, by another callback, for the third epoch.
    callbacks = [LargeBatchCallback(policy())]
    history = model.fit(x, y, batch_size=batch, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)

    optimizer = torch.optim.SGD(twin.parameters(), lr=9.0, momentum=0.9, nesterov=nesterov)
    scheduler, rates = LargeBatchLR(optimizer, policy()), []
    for step in range(9):
        rows = slice(step % 3 * GLOBAL, (step % 3 + 1) * GLOBAL)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
        optimizer.step()
        rates += scheduler.get_last_lr()
        scheduler.step()
    assert rates == pytest.approx([0.05, 0.05 + 0.35 / 3, 0.05 + 0.7 / 3, 0.4, 0.4, 0.4, 0.04, 0.04, 0.04])
    assert history.history["learning_rate"] == pytest.approx([0.04])
    assert model.get_weights()[0].ravel() == pytest.approx(twin.weight.detach().numpy().ravel(), rel=1e-5, abs=1e-6)


def test_which_optimizers_have_a_velocity():
    variables = network().trainable_variables
    found = {}
    others = optimizers.Adam(), optimizers.Nadam(), optimizers.Lion(), optimizers.Muon()
    for optimizer in (sgd(), optimizers.SGD(0.1), optimizers.RMSprop(momentum=0.9), *others):
        optimizer.build(variables)
        found[type(optimizer).__name__, getattr(optimizer, "momentum", None)] = len(velocities(optimizer))
    none = [("SGD", 0.0), ("Adam", None), ("Nadam", None), ("Lion", None), ("Muon", 0.95)]
    assert found == {("SGD", 0.9): 4, ("RMSprop", 0.9): 4, **dict.fromkeys(none, 0)}


def test_a_scheduler_goes_on_from_its_state():
    def made():
        optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=1.0)
        return optimizer, LargeBatchLR(optimizer, policy())

    (one, ahead), (other, behind) = made(), made()
    for _ in range(5):
        one.step()
        ahead.step()
    behind.load_state_dict(ahead.state_dict())
    assert behind.plan == ahead.plan and other.param_groups[0]["lr"] == one.param_groups[0]["lr"] == 0.4
    for _ in range(9):  # beyond the end of the run, the last rate stays
        one.step()
        ahead.step()
    assert ahead.get_last_lr() == [pytest.approx(0.04)] and ahead.plan.step == 8


def test_an_optimizer_is_saved_and_loaded_with_its_model(tmp_path):
    """In the middle of an accumulation, too: of 4 among 6 batches an epoch."""
    for name, batches in (("loss scale inside", 1), ("accumulation, loss scale outside", 2), ("accumulation", 4)):
        _, wrap, _ = OPTIMIZERS[name]

        def inner(batches=batches):
            return optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=batches if batches > 1 else None)

        whole, first = network(), network()
        batch = 8 if batches > 1 else GLOBAL
        fit(whole, wrap(inner()), data(), batch, epochs=2)
        fit(first, wrap(inner()), data(), batch, epochs=1)
        first.save(tmp_path / "model.keras")
        second = keras.saving.load_model(tmp_path / "model.keras")
        assert type(second.optimizer) is type(first.optimizer)
        second.fit(*data(), batch_size=batch, epochs=1, shuffle=False, verbose=0)
        assert furthest(second.get_weights(), whole.get_weights()) < 1e-6, name


def test_what_would_average_twice_or_never_is_refused():
    for wrapped in (DistributedOptimizer(sgd()), optimizers.LossScaleOptimizer(DistributedOptimizer(sgd()))):
        with pytest.raises(ValueError, match="around another of its kind; gradients would be averaged twice"):
            DistributedOptimizer(wrapped)
    hvd_keras.init()
    with pytest.raises(ValueError, match="around Horovod's own, which does nothing under Keras 3"):
        DistributedOptimizer(hvd_keras.DistributedOptimizer(sgd()))
    with pytest.raises(ValueError, match="Horovod's own DistributedOptimizer around that of hvd_imagenet"):
        hvd_keras.DistributedOptimizer(DistributedOptimizer(sgd()))


def test_what_is_set_on_it_reaches_the_inner_optimizer():
    model = network()
    optimizer = DistributedOptimizer(optimizers.SGD(0.1, weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    inner = optimizer.inner_optimizer
    decayed = [inner._use_weight_decay(variable) for variable in model.trainable_variables]
    assert decayed == ["bias" not in variable.path for variable in model.trainable_variables] and sum(decayed) == 2
    with pytest.raises(ValueError, match="gradient_accumulation_steps: -2; give 1 or more"):
        DistributedOptimizer(sgd(), gradient_accumulation_steps=-2)


def test_what_the_callbacks_cannot_do_is_refused():
    with pytest.raises(ValueError, match="changes the batch size along the run, which model.fit cannot do"):
        LargeBatchCallback(policy(global_size={0: 8, 1: 16}))
    model = network()
    model.compile("sgd", "mse", steps_per_execution=2, jit_compile=False)
    with pytest.raises(ValueError, match="compile with steps_per_execution=1"):
        model.fit(data()[0], np.zeros((SAMPLES, 3)), verbose=0, callbacks=[LargeBatchCallback(policy())])
    unbuilt = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    unbuilt.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(ValueError, match="begin it with a keras.Input, or call its build"):
        unbuilt.fit(data()[0], np.zeros((SAMPLES, 3)), verbose=0, callbacks=[BroadcastCallback()])
    model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(ValueError, match="call compile with jit_compile=False"):
        model.fit(data()[0], np.zeros((SAMPLES, 3)), verbose=0, callbacks=[BroadcastCallback()])
