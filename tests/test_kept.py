import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from wsiseg.kept import Kept


def test_handles_are_shared_and_closed_when_others_take_their_place() -> None:
    closed: list[int] = []

    @dataclass
    class Handle:
        number: int

        def close(self) -> None:
            closed.append(self.number)

    @dataclass(frozen=True)
    class Open:
        number: int

        def __call__(self) -> Handle:
            return Handle(self.number)

    kept = Kept(limit=2)
    with kept.use(Open(1)) as first, kept.use(Open(1)) as again:
        assert first is again
        for number in (2, 3, 4):
            with kept.use(Open(number)):
                pass
        assert 1 not in closed
    assert closed == [2, 3]
    kept.clear()
    assert sorted(closed) == [1, 2, 3, 4]


@dataclass(frozen=True)
class Making:
    """A recipe by its name, and what it does."""

    name: str
    do: Callable[[], object]

    def __call__(self) -> object:
        return self.do()


def test_a_slide_that_hangs_while_it_is_opened_holds_up_no_other() -> None:
    kept, never, begun = Kept(limit=2), threading.Event(), threading.Event()

    def hang() -> object:
        begun.set()
        return never.wait(60)

    def wait_for_it() -> None:
        with kept.use(Making("dead disk", hang)):
            pass

    hung = threading.Thread(target=wait_for_it)
    hung.start()
    assert begun.wait(10)
    done = threading.Event()

    def others() -> None:
        with kept.use(Making("sound", object)):
            kept.clear()
        done.set()

    threading.Thread(target=others, daemon=True).start()
    try:
        assert done.wait(10)
    finally:
        never.set()
        hung.join()


def test_what_could_not_be_opened_is_tried_again() -> None:
    kept, tries = Kept(limit=1), []

    def second_time() -> object:
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return "open"

    recipe = Making("slide", second_time)
    with pytest.raises(OSError), kept.use(recipe):  # noqa: PT011 - it has no words
        pass
    with kept.use(recipe) as value, kept.use(recipe) as again:
        assert value == again == "open"
    assert len(tries) == 2


def test_room_is_made_before_another_is_opened() -> None:
    kept, open_now, most = Kept(limit=1), [], []

    class Handle:
        def __init__(self) -> None:
            open_now.append(self)
            most.append(len(open_now))

        def close(self) -> None:
            open_now.remove(self)

    for number in range(3):
        with kept.use(Making(str(number), Handle)):
            pass
    assert most == [1, 1, 1]
