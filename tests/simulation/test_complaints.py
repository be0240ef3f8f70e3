"""Members that complain falsely, and dealers that deal garbage, until a refresh commits in spite of them."""

import pytest
from tests.simulation.command import TESTING, simulate

pytestmark = pytest.mark.skipif(not TESTING, reason="needs a core with its `testing` feature")


@pytest.mark.parametrize(("kind", "reason"), [("accusers", "false_complaint"), ("cheats", "wrong_sub_share")])
def test_n95_changes_go_on_in_spite_of_liars_in_disputes_and_no_honest_node_is_convicted(
    kind: str, reason: str
) -> None:
    """A refresh commits in each schedule, so k dealers were left; the reference looks at every verdict."""
    ran = simulate("--seed", "1", "--schedules", "8", "--also", kind, "--verbose")
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr
    assert f"is convicted: {reason}" in ran.stdout
