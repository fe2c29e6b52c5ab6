"""A stage offers the reuse it names: prompts begin as earlier ones did, and share nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stages import Stages, distinct_tokens

PIECE = 8


def maker(*, in_flight: int = 2, seed: int = 1) -> Stages:
    return Stages(
        prompt_tokens=16 * PIECE,
        piece_tokens=PIECE,
        vocabulary=100_000,
        in_flight=in_flight,
        seed=seed,
    )


def pieces(prompt) -> set[tuple[int, ...]]:
    """Return every prefix of whole pieces."""
    return {tuple(prompt[:end]) for end in range(PIECE, len(prompt), PIECE)}


@given(
    targets=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    in_flight=st.integers(0, 4),
    seed=st.integers(0, 9),
)
def test_reused_tokens_are_the_shared_prefixes(targets, in_flight, seed) -> None:
    stages, seen = maker(in_flight=in_flight, seed=seed), set()
    made = []
    for target in targets:
        stage = stages.stage(target, 6)
        shared = 0
        for prompt in stage.prompts:
            assert len(prompt) == 16 * PIECE + 1
            shared += len(pieces(prompt) & seen) * PIECE
            seen |= pieces(prompt)
        assert shared == stage.reused_tokens
        made.append(stage)
    assert distinct_tokens(made) == len(seen) * PIECE


@pytest.mark.parametrize("target", [0.1, 0.5, 0.7])
def test_the_mean_over_many_prompts_is_the_target(target: float) -> None:
    stages = maker()
    stages.stage(0.0, 10)
    assert stages.stage(target, 400).offered == pytest.approx(target, abs=0.03)


def test_the_same_seed_makes_the_same_prompts() -> None:
    assert maker().stage(0.5, 8) == maker().stage(0.5, 8)
    assert maker().stage(0.5, 8) != maker(seed=2).stage(0.5, 8)


def test_prompts_that_may_be_on_their_way_are_not_reused() -> None:
    stages = maker(in_flight=4)
    first = stages.stage(1.0, 4)
    assert first.reused_tokens == 0
