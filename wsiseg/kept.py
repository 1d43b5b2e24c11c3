"""What a process holds open for its threads: slides and predictors, by the recipe that makes them."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

__all__ = ["Kept", "Recipe"]

T_co = TypeVar("T_co", covariant=True)


class Recipe(Protocol[T_co]):
    """How to get a slide or a predictor: picklable, and equal to others of the same meaning.

    A worker that is handed equal recipes opens once; handles themselves never travel.
    """

    def __call__(self) -> T_co:
        """Open the slide, or load the predictor."""

    def __hash__(self) -> int: ...


class _Place:
    """Where a recipe's value is, or is being made: one that hangs holds up nobody with another recipe."""

    def __init__(self) -> None:
        self.making = threading.Lock()
        self.made = False
        self.value: Any = None
        self.users = 0

    def get(self, recipe: Recipe[Any]) -> Any:
        with self.making:
            if not self.made:
                self.value, self.made = recipe(), True
            return self.value


class Kept:
    """Slides and predictors that a process holds open, shared by its threads.

    The least recently used are closed once more than ``limit`` are open; never one in use. Room is made
    before another is opened.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._places: dict[Hashable, _Place] = {}

    @contextmanager
    def use(self, recipe: Recipe[T_co]) -> Iterator[T_co]:
        """The value of a recipe, made where it is not kept already."""
        with self._lock:
            place = self._places.pop(recipe, None) or _Place()
            self._places[recipe] = place  # now the most recently used
            place.users += 1
        try:
            self._evict(self._limit)
            yield cast("T_co", place.get(recipe))
        finally:
            with self._lock:
                place.users -= 1
                if not (place.made or place.users):
                    del self._places[recipe]
            self._evict(self._limit)

    def clear(self) -> None:
        """Close everything that is not in use."""
        self._evict(0)

    def _evict(self, limit: int) -> None:
        with self._lock:
            idle = [recipe for recipe, place in self._places.items() if not place.users]
            gone = [self._places.pop(recipe) for recipe in idle[: max(0, len(self._places) - limit)]]
        for place in gone:
            if hasattr(place.value, "close"):
                place.value.close()
