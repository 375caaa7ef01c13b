"""Jobs in processes: all of them, in order, and the progress of each."""

import math

from paceline.latency_models.leaderboard.parallel import each


def test_jobs_in_order() -> None:
    told: list[tuple[int, int]] = []
    assert each(math.factorial, list(range(6)), lambda done, total, note="": told.append((done, total))) == [1, 1, 2, 6, 24, 120]
    assert told == [(i, 6) for i in range(1, 7)]
    assert each(math.factorial, [], lambda done, total, note="": None) == []
