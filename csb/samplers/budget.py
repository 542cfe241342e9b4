"""How many steps of a method a budget of network passes pays for."""

from collections.abc import Callable, Sequence
from functools import cache


def steps_within(cost: Callable[[int], float], budget: float, most: int) -> int | None:
    """The largest T in 1..most with cost(T) ≤ budget, None where one step costs more.

    Asks for few values where the cost is affine in T, as network passes are: at 1, 2, the guess from them and the next.

    Args:
        cost: of T steps; never less for more of them.
        budget: in the unit of cost.
        most: the largest T.
    """
    cost = cache(cost)
    if cost(1) > budget:
        return None
    low, high = 1, most + 1  # cost(low) fits; high does not, or is beyond the last
    slope = cost(2) - cost(1) if most > 1 else 0
    guess = 1 + int((budget - cost(1)) / slope) if slope > 0 else most
    for T in (guess, guess + 1):
        if low < T < high:
            low, high = (T, high) if cost(T) <= budget else (low, T)
    while high - low > 1:
        T = (low + high) // 2
        low, high = (T, high) if cost(T) <= budget else (low, T)
    return low


def among(steps: Sequence[int], cost: Callable[[int], float], budget: float) -> int | None:
    """The largest of a few numbers of steps whose cost fits; None where none does."""
    return max((T for T in steps if cost(T) <= budget), default=None)


__all__ = ["among", "steps_within"]
