"""Reasons are counted, those that differ in numbers alone together."""

from bufferlab.experiments.runs.failures import counted


def test_reasons_are_counted_most_frequent_first() -> None:
    assert list(counted({"language0.1 is down": 2, "aborted by the client": 5}).items()) == [
        ("aborted by the client", 5),
        ("language0.1 is down", 2),
    ]


def test_what_differs_in_its_numbers_is_one_reason() -> None:
    reasons = {f"{tokens} tokens do not fit the allocation of 400": 1 for tokens in range(500, 600)}
    reasons["timed out while writing chunk 3"] = 7
    assert counted(reasons) == {
        "… tokens do not fit the allocation of …": 100,
        "timed out while writing chunk 3": 7,
    }


def test_names_of_ranks_are_no_numbers() -> None:
    reasons = {"language0.1 is down": 1, "language0.2 is down": 1, "took 1.5 s": 1, "took 12.25 s": 3}
    assert counted(reasons) == {"took … s": 4, "language0.1 is down": 1, "language0.2 is down": 1}
