"""The ways of using two data sets, as values: what a fold learns from and where it starts.

Galdran 2024 (arXiv 2410.07124), section 2: conventional training, cross-task pretraining,
and training on the union of the data sets.
"""

from dataclasses import dataclass

from wsiseg.errors import UsageError

__all__ = ["STRATEGIES", "Strategy", "find_strategy"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A column of the paper's Table 1.

    Attributes:
        name: what the command line calls it.
        title: the column's head.
        all_tasks: whether a fold learns from the same fold of every other task too.
        from_other: whether a fold starts from the other task's weights of the same fold.
    """

    name: str
    title: str
    all_tasks: bool = False
    from_other: bool = False


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("standard", "Conventional"),
        Strategy("cross-task", "Crossed Pre-Training", from_other=True),
        Strategy("union", "Dataset Union", all_tasks=True),
    )
}


def find_strategy(name: str) -> Strategy:
    """The strategy of a name.

    >>> find_strategy("union").all_tasks
    True

    Raises:
        UsageError: there is none.
    """
    if name not in STRATEGIES:
        msg = f"no strategy {name!r}; there are {', '.join(STRATEGIES)}"
        raise UsageError(msg)
    return STRATEGIES[name]
