"""Each class of a split in an evaluation: how many of its images are recognised, and what the others are taken for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ANSWERS = 3  # of a class at most, the most frequent ones


class Counts(NamedTuple):
    """What one worker has counted.

    Attributes:
        pairs: class times number of classes plus first answer, each once, int64.
        images: how many images there are of each pair, int64.
        top5: how many images of each class have it among their first five answers, int64, shape (classes,).
    """

    pairs: np.ndarray
    images: np.ndarray
    top5: np.ndarray


class Answers:
    """Counts the answers to one worker's images, batch by batch.

    Args:
        labels: of these images, in their order.
        classes: how many there are.
    """

    def __init__(self, labels: np.ndarray, classes: int):
        self._labels, self._classes = labels, classes
        self._seen = 0
        self._pairs = [np.zeros(0, np.int64)]
        self._top5 = np.zeros(classes, np.int64)

    def add(self, best: np.ndarray) -> None:
        """Count the answers to the next images: class numbers, the best first, shape (n, 5) or fewer."""
        labels = self._labels[self._seen : self._seen + len(best)].astype(np.int64)
        self._seen += len(best)
        self._pairs.append(labels * self._classes + best[:, 0])
        found = (best == labels[:, None]).any(1)
        self._top5 += np.bincount(labels[found], minlength=self._classes)

    def counts(self) -> Counts:
        """Of all that was added."""
        return Counts(*np.unique(np.concatenate(self._pairs), return_counts=True), self._top5)


class ClassResult(NamedTuple):
    """One class; of so many images, how many are right, and right among the first five answers."""

    name: str
    count: int
    right: int
    top5: int


class Confusion(NamedTuple):
    """So many images of a class, its share of all of that class, taken for another."""

    name: str
    taken_for: str
    count: int
    share: float


class Classes:
    """All classes, over all workers.

    Args:
        names: of the classes, in the order of the labels.
        parts: what each worker has counted.
    """

    def __init__(self, names: list[str], parts: list[Counts]):
        pairs, places = np.unique(np.concatenate([part.pairs for part in parts]), return_inverse=True)
        self._names = names
        self._of, self._answer = np.divmod(pairs, len(names))
        self._images = _summed(places, np.concatenate([part.images for part in parts]), len(pairs))
        self._count = _summed(self._of, self._images, len(names))
        self._right = _summed(self._of, self._images * (self._of == self._answer), len(names))
        self._top5 = np.sum([part.top5 for part in parts], 0)

    def __iter__(self) -> Iterator[ClassResult]:
        """Those with an image in the split, in the order of the labels."""
        return (self._result(label) for label in np.flatnonzero(self._count))

    def worst(self, limit: int) -> list[tuple[ClassResult, list[Confusion]]]:
        """The classes of which the smallest part is recognised, and what they are taken for most; no class that is
        always recognised.

        Of classes with the same part, those with more images come first, then those with a smaller number.
        """
        labels = np.flatnonzero(self._count > self._right)
        order = np.lexsort((labels, -self._count[labels], self._right[labels] / self._count[labels]))
        return [(self._result(label), self._confusions(label)) for label in labels[order[:limit]]]

    def _result(self, label: int) -> ClassResult:
        counts = (int(counted[label]) for counted in (self._count, self._right, self._top5))
        return ClassResult(self._names[label], *counts)

    def _confusions(self, label: int) -> list[Confusion]:
        places = np.flatnonzero((self._of == label) & (self._answer != label))
        places = places[np.argsort(-self._images[places], kind="stable")[:ANSWERS]]
        return [
            Confusion(
                self._names[label],
                self._names[self._answer[place]],
                int(self._images[place]),
                float(self._images[place] / self._count[label]),
            )
            for place in places
        ]


def _summed(places: np.ndarray, numbers: np.ndarray, length: int) -> np.ndarray:
    """The numbers summed by their places, int64, shape (length,)."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, places, numbers)
    return sums
