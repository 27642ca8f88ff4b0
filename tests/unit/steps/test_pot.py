"""steps.pot: which runs a greedy soup is of."""

from finefold.steps.pot import greedy_places


def test_greedy_starts_with_the_best_and_takes_what_does_not_harm():
    """The best run comes first; others join where the soup is not worse with them, whatever the order given."""
    worth = {(0,): 0.5, (1,): 0.7, (2,): 0.6, (1, 2): 0.8, (0, 1, 2): 0.75}
    assert greedy_places(3, worth.__getitem__) == (1, 2)
    assert greedy_places(3, lambda places: {**worth, (0, 1, 2): 0.8}[places]) == (0, 1, 2)
    assert greedy_places(3, lambda places: {**worth, (1, 2): 0.69, (0, 1): 0.6}[places]) == (1,)
