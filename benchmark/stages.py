"""The synthetic workload of the paper: stages of requests with a target share of reused prefix."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

TARGETS = (0.1, 0.3, 0.5, 0.7, 0.5, 0.3, 0.1)
"""Share of a prompt that an earlier prompt began with, stage by stage."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The prompts of one stage."""

    target: float
    prompts: tuple[tuple[int, ...], ...]
    reused_tokens: int
    """Leading tokens, in whole pieces, that an earlier prompt had: what no cache can exceed."""

    @property
    def offered(self) -> float:
        """Reused tokens over prompt tokens."""
        return self.reused_tokens / sum(map(len, self.prompts))


class Stages:
    """Makes prompts of `num_pieces` equal pieces and one token. Deterministic.

    A prompt keeps a leading part of an earlier one, drawn from all but the last few (those may be
    on their way still), and goes on with random tokens, so that nothing else is shared.
    """

    def __init__(
        self, *, prompt_tokens: int, piece_tokens: int, vocabulary: int, in_flight: int, seed: int
    ) -> None:
        """Take the shape of all prompts.

        Args:
            prompt_tokens: of whole pieces; the prompts have one more.
            piece_tokens: the unit of sharing, a multiple of the page size.
            vocabulary: token ids are drawn below it.
            in_flight: how many of the latest prompts are not reused.
        """
        self._num_pieces = prompt_tokens // piece_tokens
        self._piece_tokens = piece_tokens
        self._vocabulary = vocabulary
        self._in_flight = in_flight
        self._random = random.Random(seed)
        self._made: list[tuple[int, ...]] = []

    def stage(self, target: float, num_requests: int) -> Stage:
        """Return the next stage; the first prompts of all have nothing to reuse."""
        prompts, reused_tokens = [], 0
        for _ in range(num_requests):
            known = self._made[: -self._in_flight] if self._in_flight else self._made
            num_reused = self._num_reused(target) if known else 0
            kept = self._random.choice(known)[: num_reused * self._piece_tokens] if known else ()
            length = self._num_pieces * self._piece_tokens + 1
            fresh = [self._random.randrange(3, self._vocabulary) for _ in range(length - len(kept))]
            prompts.append((*kept, *fresh))
            self._made.append(prompts[-1])
            reused_tokens += len(kept)
        return Stage(target, tuple(prompts), reused_tokens)

    def _num_reused(self, target: float) -> int:
        """Return whole pieces, so that the mean over many prompts is the target."""
        exact = target * self._num_pieces
        return int(exact) + (self._random.random() < exact - int(exact))


def distinct_tokens(stages: Sequence[Stage]) -> int:
    """Return the tokens that a cache of everything would hold, whole pieces."""
    return sum(
        sum(len(prompt) - 1 for prompt in stage.prompts) - stage.reused_tokens for stage in stages
    )
