"""The planner against runs on two hosts behind slow links, which it has to predict: see ``planned_links.py``."""

import pytest
from planned_links import CASES, outcome
from test_hosts import some_of_fashion_mnist

pytestmark = [pytest.mark.cluster, pytest.mark.long]

WITHIN = 0.15


@pytest.fixture(scope="session")
def images(session_folder):
    return some_of_fashion_mnist(session_folder / "fashion-mnist-640")


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_predicted(name, two, images, tmp_path):
    found = outcome(two, CASES[name], images, tmp_path)
    print(f"{name}: {found}")
    assert abs(found.error) < WITHIN, found
