import pytest

from hypersign._checks import HypersignError, check_int, check_real


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), "1", True, None])
def test_numbers_that_are_none_in_range(value: object) -> None:
    with pytest.raises(HypersignError, match="x must be a number >= 0 and < inf; got"):
        check_real("x", value, min=0, below=float("inf"))


def test_integers_of_any_size() -> None:
    assert check_int("x", 10**400, min=0) == 10**400
    with pytest.raises(HypersignError, match="x must be an integer from 0 to 3; got 1000"):
        check_int("x", 10**400, min=0, max=3)
