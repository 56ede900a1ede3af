"""The report's colours: clear on their ground, and told apart by eyes that lack one of the three kinds of cones."""

import itertools

import numpy as np
import pytest

from hvd_imagenet.report import colours

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
# Machado, Oliveira and Fernandes 2009, at full severity, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
THEMES = {"light": (colours.LIGHT, colours.ARMS_ON_LIGHT), "dark": (colours.DARK, colours.ARMS_ON_DARK)}


def linear(colour):
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Of WCAG 2: from 1 to 21."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb):
    """Ottosson's space, in which equal distances look equal."""
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.4285922, 0.45059371],
        [0.0259040, 0.78277177, -0.8086758],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ np.clip(rgb, 0, 1))


def nearest(palette):
    """The distance of the two colours of a palette that are hardest to tell apart, for the eyes for which they are."""
    return min(
        np.linalg.norm(oklab(eye @ linear(one)) - oklab(eye @ linear(other)))
        for one, other in itertools.combinations(palette, 2)
        for eye in map(np.array, EYES.values())
    )


@pytest.mark.parametrize("theme", THEMES)
def test_arms_are_told_apart_better_than_okabe_and_itos(theme):
    assert nearest(THEMES[theme][1]) > 1.2 * nearest(OKABE_ITO)


@pytest.mark.parametrize("theme", THEMES)
def test_everything_is_clear_on_its_ground(theme):
    """WCAG's AA: 3 for lines and marks, 4.5 for text."""
    own, arms = THEMES[theme]
    assert all(contrast(colour, own["card"]) >= 3 for colour in arms)
    for ground in ("page", "card"):
        assert all(contrast(own[name], own[ground]) >= 4.5 for name in ("ink", "faint", "accent", "good", "bad"))


def test_56_arms_have_signs_of_their_own():
    assert len({colours.sign(arm) for arm in range(56)}) == 56 and colours.sign(56) == colours.sign(0)


def test_contrast_and_distance_are_known_ones():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )
    np.testing.assert_allclose(oklab(linear("#ffffff")), [1, 0, 0], atol=1e-3)
