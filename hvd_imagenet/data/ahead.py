"""Work done ahead on a thread of its own: an iterator that is always some items ahead of who takes them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """The items of a generator, in its order, made on a thread of its own; also a context manager.

    What the generator raises is raised where its next item would have been. The thread ends with the generator, with
    `close`, when nobody refers to this any more, and before the interpreter does.

    Args:
        items: a generator; is used and closed on the thread only.
        limit: how many items are kept that nobody has taken yet.
        name: of the thread.
        hurry: called at the end, from another thread, so that an item which is waited for does not come.
    """

    def __init__(self, items: Iterator[Item], limit: int, name: str, hurry: Callable[[], None] = lambda: None):
        self._shelf = shelf = _Shelf(limit)
        thread = threading.Thread(target=_fill, args=(shelf, items), name=name, daemon=True)
        self._end = weakref.finalize(self, _end, shelf, thread, hurry)  # at the interpreter's exit, too
        thread.start()

    def __iter__(self) -> Ahead[Item]:
        return self

    def __next__(self) -> Item:
        return self._shelf.take()

    def close(self) -> None:
        """Let the item at hand be finished, or fail, and end the thread; what nobody has taken is dropped."""
        self._end()

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Shelf:
    """Where items wait. The thread refers to this, and not to the `Ahead`, which could not end otherwise."""

    def __init__(self, limit: int):
        self._room = threading.Semaphore(limit)
        self._items: SimpleQueue = SimpleQueue()
        self._closed = False

    def has_room(self) -> bool:
        """Wait for room for one more item; False: no more are wanted."""
        self._room.acquire()
        return not self._closed

    def put(self, item: object, error: BaseException | None = None) -> None:
        self._items.put((item, error))

    def take(self) -> object:
        item, error = self._items.get()
        if error is not None:
            self.put(None, error)  # for whoever asks again
            raise error
        self._room.release()
        return item

    def close(self) -> None:
        self._closed = True
        self._room.release()

    def clear(self) -> None:
        self._items = SimpleQueue()
        self.put(None, StopIteration())


def _fill(shelf: _Shelf, items: Iterator) -> None:
    try:
        while shelf.has_room():
            shelf.put(next(items))
    except BaseException as error:  # StopIteration, too, is for whoever takes the items
        shelf.put(None, error)
    finally:
        items.close()


def _end(shelf: _Shelf, thread: threading.Thread, hurry: Callable[[], None]) -> None:
    shelf.close()
    hurry()
    if thread is not threading.current_thread():  # on which the garbage may have been collected
        thread.join()
    shelf.clear()
