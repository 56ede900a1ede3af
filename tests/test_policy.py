"""The policy against values worked out by hand from the paper and the design's formulas."""

import math

import pytest

from hvd_imagenet.policy import (
    BatchSettings,
    GrowSettings,
    LargeBatchPolicy,
    LearningRateSettings,
    ScheduleSettings,
    WarmupSettings,
)
from hvd_imagenet.policy.clock import periods, samples_at

IMAGENET = 1_281_167


def policy(size=1000, epochs=10, global_size=80, micro=10, grow=None, scaling="linear", warmup=("none", 0), **schedule):
    schedule = {"kind": "none", **schedule}
    lr = LearningRateSettings(
        reference=0.1,
        reference_batch=20,
        scaling=scaling,
        warmup=WarmupSettings(*warmup),
        schedule=ScheduleSettings(**schedule),
    )
    return LargeBatchPolicy(size, epochs, BatchSettings(global_size, micro, grow=GrowSettings(grow)), lr)


def rates(made, *samples):
    return [made.learning_rate(s) for s in samples]


@pytest.mark.parametrize(
    ("epoch", "size", "expected"),
    [
        (0, 100, 0),
        (0.29, 100, 29),  # the double 0.29 * 100 is 28.999999999999996, 0.57 * 100 is 56.99999999999999
        (0.57, 100, 57),
        (0.07, 100, 7),  # and 0.07 * 100 is 7.000000000000001
        (0.291, 100, 30),
        (5, IMAGENET, 6_405_835),
        (30, IMAGENET, 38_435_010),
        (1e-05, 100_000, 1),
    ],
)
def test_samples_at_an_epoch_is_decimal(epoch, size, expected):
    assert samples_at(epoch, size) == expected


def test_periods_end_with_the_sample_that_completes_them():
    assert [periods(0.1, s, 100) for s in (0, 9, 10, 19, 20, 29, 30, 100)] == [0, 0, 1, 1, 2, 2, 3, 10]
    assert [periods(2, s, 100) for s in (199, 200, 399, 400)] == [0, 1, 1, 2]
    assert [periods(0.5, s, 5) for s in (2, 3, 4, 5)] == [0, 1, 1, 2]  # S(0.5) of 5 samples is 3


def test_paper_recipe_at_every_boundary():
    """ResNet-50 at 8k: eta = 0.1 * 8192 / 256 = 3.2; gradual warmup over S(5) = 6,405,835 samples (section 5.1)."""
    made = LargeBatchPolicy(IMAGENET, 90, BatchSettings(8192, 32), LearningRateSettings())
    plans = {plan.step: plan for plan in made.steps()}

    assert plans[0].learning_rate == 0.1
    assert plans[0].momentum_correction == 1.0
    assert plans[0].micro_batches == 256
    # Mid-warmup, step 391: 391 * 8192 = 3,203,072 samples; 0.1 + 3.1 * 3203072 / 6405835.
    assert plans[391].samples_seen == 3_203_072
    assert plans[391].learning_rate == pytest.approx(1.6500747677703218, abs=1e-12)
    # The warmup adds the same amount each step: 3.1 * 8192 / 6405835 = 0.003964385595320517.
    steps = [plans[k + 1].learning_rate - plans[k].learning_rate for k in range(781)]
    assert steps == pytest.approx([0.003964385595320517] * 781, abs=1e-12)
    # Epoch 5: 6405835 / 8192 = 781.96, so step 781 starts before it and step 782 after.
    assert plans[781].learning_rate == pytest.approx(0.1 + 781 * 0.003964385595320517, abs=1e-12)
    assert plans[782].learning_rate == 3.2
    # Epochs 30, 60, 80 at 38,435,010, 76,870,020 and 102,493,360 samples: 4691.77, 9383.55 and 12511.40 steps.
    for last, before, after in ((4691, 3.2, 0.32), (9383, 0.32, 0.032), (12511, 0.032, 0.0032)):
        assert plans[last].learning_rate == before
        assert plans[last + 1].learning_rate == after
        assert plans[last].momentum_correction == 1.0
        assert plans[last + 1].momentum_correction == pytest.approx(0.1, abs=1e-15)
    # The end: 90 * 1281167 = 115,305,030 samples = 14075.32 steps; step 14075 starts before, the run ends after it.
    assert max(plans) == 14075
    assert plans[14075].learning_rate == 0.0032
    assert made.total_steps == 14076
    assert made.last_sample == 14076 * 8192


def test_scaling_rules():
    # A batch of 80 is 4 times the reference of 20.
    assert rates(policy(scaling="linear"), 0) == [0.4]
    assert rates(policy(scaling="sqrt"), 0) == [0.2]
    assert rates(policy(scaling="none"), 0) == [0.1]
    assert rates(policy(global_size=10), 0) == [0.05]


def test_gradual_warmup_starts_at_the_reference_and_ends_at_the_target():
    made = policy(warmup=("gradual", 2))  # to 2,000 samples
    assert rates(made, 0, 1000, 1999, 2000) == pytest.approx([0.1, 0.25, 0.39985, 0.4], abs=1e-15)


def test_constant_warmup():
    assert rates(policy(warmup=("constant", 2)), 0, 1999, 2000) == [0.1, 0.1, 0.4]


@pytest.mark.parametrize("kind", ["gradual", "constant"])
@pytest.mark.parametrize(("global_size", "rate"), [(20, 0.1), (10, 0.05)])
def test_no_warmup_at_or_below_the_reference_batch(kind, global_size, rate):
    assert rates(policy(global_size=global_size, warmup=(kind, 2)), 0, 1000, 2000) == [rate] * 3


def test_no_warmup():
    assert rates(policy(warmup=("none", 2)), 0, 1999, 2000) == [0.4] * 3


def test_step_schedule_on_both_sides_of_a_milestone():
    made = policy(kind="step", milestones=[3, 6.5], factor=0.1)
    assert rates(made, 2999, 3000, 6499, 6500, 9999) == [0.4, 0.04, 0.04, 0.004, 0.004]


def test_a_milestone_takes_effect_at_the_first_step_that_starts_after_it():
    made = policy(size=100, epochs=2, global_size=40, kind="step", milestones=[1], factor=0.5)
    # Steps start at 0, 40, 80, 120, 160; epoch 1 is at 100 samples.
    assert [(p.samples_seen, p.learning_rate) for p in made.steps()] == [
        (0, 0.2),
        (40, 0.2),
        (80, 0.2),
        (120, 0.1),
        (160, 0.1),
    ]


def test_cosine_schedule():
    made = policy(kind="cosine")
    expected = [0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))]
    assert rates(made, 0, 2500, 5000, 7500) == pytest.approx(expected, abs=1e-15)


def test_polynomial_schedule():
    assert rates(policy(kind="polynomial", power=2), 0, 5000, 7500) == pytest.approx([0.4, 0.1, 0.025], abs=1e-15)
    assert rates(policy(kind="polynomial", power=1), 5000) == pytest.approx([0.2], abs=1e-15)


def test_batch_ramp_by_a_table_follows_the_scaling_rule():
    made = policy(size=100, epochs=3, global_size={0: 20, 1: 80})
    # Five steps of 20, then 80: at 100, 180, 260.
    assert [(p.step, p.samples_seen, p.global_batch, p.learning_rate) for p in made.steps()] == [
        (0, 0, 20, 0.1),
        (1, 20, 20, 0.1),
        (2, 40, 20, 0.1),
        (3, 60, 20, 0.1),
        (4, 80, 20, 0.1),
        (5, 100, 80, 0.4),
        (6, 180, 80, 0.4),
        (7, 260, 80, 0.4),
    ]
    assert [p.momentum_correction for p in made.steps()] == [1, 1, 1, 1, 1, 4, 1, 1]


def test_a_ramp_reached_during_warmup_warms_up_from_the_reference():
    made = policy(global_size={0: 20, 1: 80}, warmup=("gradual", 4))
    # At the reference batch the target is the reference; from 1,000 samples on it is 0.4: 0.1 + 0.3 * s / 4000.
    assert rates(made, 0, 999, 1000, 2000, 4000) == pytest.approx([0.1, 0.1, 0.175, 0.25, 0.4], abs=1e-15)


def test_growing_the_batch_instead_of_dividing_the_rate():
    made = policy(global_size=80, grow=800, kind="step", milestones=[3, 6, 8], factor=0.2)
    # 80 / 0.2 = 400; 400 / 0.2 = 2000, limited to 800; then 800 again. Rate / batch falls by 0.2 each time.
    assert [made.global_batch(s) for s in (0, 2999, 3000, 5999, 6000, 8000)] == [80, 80, 400, 400, 800, 800]
    expected = [0.4, 0.4, 0.4, 0.4, 0.16, 0.032]
    assert rates(made, 0, 2999, 3000, 5999, 6000, 8000) == pytest.approx(expected, rel=1e-15)


def test_growth_is_rounded_down_to_whole_micro_batches():
    made = policy(global_size=80, micro=10, grow=1000, kind="step", milestones=[3, 6], factor=0.3)
    # 80 / 0.3 = 266.7 -> 260; 260 / 0.3 = 866.7 -> 860 (80 / 0.09 would have given 880).
    assert [made.global_batch(s) for s in (0, 3000, 6000)] == [80, 260, 860]
    per_sample = [made.learning_rate(s) / made.global_batch(s) for s in (0, 3000, 6000)]
    assert per_sample == pytest.approx([0.005, 0.0015, 0.00045], rel=1e-15)


def test_growth_under_root_scaling_keeps_the_ratio_of_rate_to_batch():
    made = policy(global_size=80, grow=1600, scaling="sqrt", kind="step", milestones=[3], factor=0.1)
    assert made.global_batch(3000) == 800
    assert rates(made, 0, 3000) == pytest.approx([0.2, 0.2], rel=1e-15)  # 0.2 / 80 / 10 * 800


def test_growth_starts_from_the_table():
    made = policy(global_size={0: 20, 1: 80}, grow=400, kind="step", milestones=[2], factor=0.5)
    assert [made.global_batch(s) for s in (0, 1000, 2000)] == [20, 80, 160]
    assert rates(made, 0, 1000, 2000) == [0.1, 0.4, 0.4]


def test_step_numbers_and_resume_in_the_middle():
    made = policy(size=100, epochs=4, global_size={0: 30, 1: 70, 2.5: 20}, warmup=("gradual", 2))
    plans = list(made.steps())
    # 0 30 60 90 | 120 190 | 260 280 ... 380: a change waits for the step that is under way.
    assert [p.samples_seen for p in plans] == [0, 30, 60, 90, 120, 190, 260, 280, 300, 320, 340, 360, 380]
    assert [p.global_batch for p in plans] == [30] * 4 + [70] * 2 + [20] * 7
    assert [p.step for p in plans] == list(range(13))
    assert made.total_steps == 13
    assert made.last_sample == 400
    for plan in plans:  # the same plans, corrections included, from wherever one starts
        assert list(made.steps(from_=plan.samples_seen)) == plans[plan.step :]
    assert list(made.steps(from_=400)) == []


def test_a_stretch_shorter_than_a_step_is_skipped():
    made = policy(size=100, epochs=3, global_size={0: 80, 1: 10, 1.1: 40})
    # Epochs 1 and 1.1 both lie inside the step from 80 to 160.
    assert [(p.samples_seen, p.global_batch) for p in made.steps()] == [
        (0, 80),
        (80, 80),
        (160, 40),
        (200, 40),
        (240, 40),
        (280, 40),
    ]


@pytest.mark.parametrize("samples", [-80, 40, 81, 10_000, 10_080])
def test_no_step_starts_between_steps(samples):
    with pytest.raises(ValueError, match="no step of this run starts after"):
        policy().at(samples)


def test_momentum_correction_is_the_ratio_of_the_rates():
    made = policy(warmup=("gradual", 2), kind="step", milestones=[3], factor=0.1)
    plans = list(made.steps())
    for before, plan in zip(plans, plans[1:], strict=False):
        assert plan.momentum_correction == plan.learning_rate / before.learning_rate


def test_a_rate_below_all_doubles_has_no_ratio():
    made = policy(size=100, epochs=2, global_size=20, kind="polynomial", power=1000)
    plans = list(made.steps())
    assert plans[-1].learning_rate == 0 and plans[-1].momentum_correction == 1.0


def test_the_most_workers_that_can_share_every_step():
    assert policy(global_size={0: 80, 1: 30}).smallest_step() == 3
    assert policy(global_size={0: 80, 50: 30}).smallest_step() == 8  # the run ends at epoch 10


def test_stretches():
    made = policy(size=100, epochs=4, warmup=("gradual", 1), kind="step", milestones=[2], factor=0.1)
    ends = [(first.step, last.step) for first, last in made.stretches()]
    assert ends == [(0, 1), (2, 2), (3, 4)]  # steps at 0 80 | 160 | 240 320
    flat = policy(size=100, epochs=4, global_size=20, warmup=("gradual", 1))
    assert [(first.step, last.step) for first, last in flat.stretches()] == [(0, 19)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchSettings(100, 32), "batch.global_size: 100; .* give 96 or 128"),
        (lambda: BatchSettings(16, 32), "batch.global_size: 16; .* give 32 or more"),
        (lambda: BatchSettings({1: 64}, 32), "must start at epoch 0"),
        (lambda: BatchSettings({}, 32), "must start at epoch 0"),
        (lambda: BatchSettings({0: 64, -1: 64}, 32), "must start at epoch 0"),
        (lambda: BatchSettings({0: 64, math.nan: 64}, 32), "is no epoch"),
        (lambda: BatchSettings(64, 0), "batch.micro_size: 0"),
        (lambda: BatchSettings(64, 32, grow=GrowSettings(32)), "batch.grow.limit: 32; must be at least .*64"),
        (lambda: GrowSettings(0), "batch.grow.limit: 0"),
        (lambda: LearningRateSettings(reference=0), "lr.reference: 0"),
        (lambda: LearningRateSettings(reference_batch=0), "lr.reference_batch: 0"),
        (lambda: WarmupSettings("gradual", -1), "lr.warmup.epochs: -1"),
        (lambda: ScheduleSettings(milestones=[30, 30]), "lr.schedule.milestones"),
        (lambda: ScheduleSettings(milestones=[0, 30]), "lr.schedule.milestones"),
        (lambda: ScheduleSettings(factor=1.0), "lr.schedule.factor: 1.0"),
        (lambda: ScheduleSettings(factor=0.0), "lr.schedule.factor: 0.0"),
        (lambda: ScheduleSettings(power=0), "lr.schedule.power: 0"),
        (lambda: policy(grow=800, kind="cosine"), "the batch grows at milestones"),
        (lambda: policy(epochs=0), "epochs: 0"),
        (lambda: policy(size=0), "data.train_samples: 0"),
        (lambda: policy(size=79, epochs=1), r"batch.global_size: 80; the whole run is 79 samples \(1 epochs of 79\)"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
