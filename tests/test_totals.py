"""What steps count: the end of the step vector in words, and what the workers' times add up to."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from hvd_imagenet.metrics.spending import Spending
from hvd_imagenet.totals import (
    Awaited,
    Norms,
    StepTotals,
    TakenSteps,
    Times,
    Totals,
    own_tail,
    step_totals,
    tail_length,
)


def test_totals():
    totals = Totals(loss_sum=6.0, top1=1, top5=3, count=4)
    assert totals.loss == 1.5
    assert totals.accuracies() == {"top1": 0.25, "top5": 0.75}
    assert totals + Totals(0.5, 2, 2, 4) == Totals(6.5, 3, 5, 8)


def test_the_sum_of_the_workers_tails_tells_each_ones_times():
    tails = [
        own_tail(0, 3, stop=False, times=Times(0.1, 0.2, 1.0)),
        own_tail(1, 3, stop=True, times=Times(0.3, 0.4, 2.0)),
        own_tail(2, 3, stop=True, times=Times(0.5, 0.6, 3.0)),
    ]
    assert all(len(tail) == tail_length(3) == 14 for tail in tails)
    tail = sum(tails)
    tail[:4] += [9.0, 4, 5, 6]
    totals = step_totals(tail.tolist(), [1.5, 2.5])
    times = [Times(0.1, 0.2, 1.0), Times(0.3, 0.4, 2.0), Times(0.5, 0.6, 3.0)]
    assert totals == StepTotals(9.0, 4, 5, 6, stop=2, times=times, norms=Norms(1.5, 2.5))
    assert step_totals(tail.tolist(), []).norms is None


def test_steps_are_taken_in_order_and_the_last_two_ones_losses_are_kept():
    steps, plans = TakenSteps(late=1), [SimpleNamespace(step=number) for number in range(3)]
    for number, plan in enumerate(plans):
        steps.add(plan, {7: np.float32([number, 10 * number])}, lambda number=number: number)
    assert steps.take(wait=False) == [(plans[0], 0), (plans[1], 1)]
    assert steps.take(wait=False) == []
    assert steps.take(wait=True) == [(plans[2], 2)]
    assert steps.losses(plans[1]) == {7: 1.0, 8: 10.0}
    with pytest.raises(StopIteration):
        steps.losses(plans[0])


def test_waiting_for_an_iterator_is_counted_and_work_in_between_is_not():
    def slow():
        for item in range(3):
            time.sleep(0.02)
            yield item

    items = Awaited(slow())
    for _ in items:
        time.sleep(0.05)
    assert 0.06 <= items.seconds() < 0.15


def totals(*times):
    return StepTotals(0.0, 0, 0, 1, stop=0, times=list(times))


def begun(hosts):
    """After a job's first two steps."""
    spending = Spending(hosts)
    for _ in range(2):
        spending.add(totals(*[Times()] * len(hosts)))
    return spending


def test_what_the_workers_spend_their_time_on():
    spending = begun(["node1", "node1", "node2"])
    # Of 1.0 s, the third worker waits for nobody; the others wait for it: 0.4 and 0.2 s.
    spending.add(totals(Times(0.1, 0.4, 1.0), Times(0.0, 0.2, 1.0), Times(0.2, 0.0, 1.0)))
    spending.add(totals(Times(0.3, 0.4, 1.0), Times(0.0, 0.2, 1.0), Times(0.0, 0.0, 1.0)))
    found = spending.since()
    assert found == pytest.approx(
        {
            "data_seconds": (0.2 + 0.0 + 0.1) / 3,
            "communication_seconds": (0.4 + 0.2 + 0.0) / 3,
            "compute_seconds": 1.0 - 0.1 - 0.2,
            "slowest_rank": 2,
            "slowest_host": "node2",
            "slowest_seconds": 1.0,
            "median_seconds": 0.8,
        }
    )
    spending.add(totals(Times(0.0, 0.0, 2.0), Times(0.0, 0.0, 1.0), Times(0.0, 0.0, 1.0)))
    assert spending.since()["slowest_rank"] == 0  # what was told is over


def test_a_jobs_first_step_is_not_counted():
    spending = Spending(["node1"])
    spending.add(totals(Times()))  # with the first step, of none before it
    assert spending.since() == {}
    spending.add(totals(Times(9.0, 0.0, 9.0)))  # with the second, of the first, which also traces
    assert spending.since() == {}
    spending.add(totals(Times(0.5, 0.0, 1.0)))
    assert spending.since()["data_seconds"] == 0.5
    assert spending.since() == {}


def test_nobody_is_the_slowest_where_there_is_one_worker():
    spending = begun(["node1"])
    spending.add(totals(Times(0.25, 0.0, 1.0)))
    assert spending.since() == {"data_seconds": 0.25, "compute_seconds": 0.75, "communication_seconds": 0.0}
