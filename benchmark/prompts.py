"""Prompts of an exact number of tokens that share no page with each other."""

import random
from pathlib import Path
from pydoc_data.topics import topics


class Prompts:
    """Makes prompts for one model. Deterministic: the same calls give the same prompts."""

    def __init__(self, model: Path, *, real_text: bool) -> None:
        """Load what prompts are cut from.

        Args:
            model: directory of the model.
            real_text: cut from the Python language reference, which is wherever Python is;
                otherwise uniformly random token ids, for a model whose weights are random too.
        """
        self._random = random.Random(20261124)
        self._text: list[int] = []
        if real_text:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(model)
            self._text = tokenizer("\n\n".join(topics[name] for name in sorted(topics)))[
                "input_ids"
            ]

    def next(self, num_tokens: int) -> list[int]:
        """Return a prompt whose first page no other prompt has.

        Eight random tokens come first, so that no two prompts have a prefix in common.
        """
        head = [self._random.randrange(100, 500) for _ in range(8)]
        num_rest = num_tokens - len(head)
        if not self._text:
            return head + [self._random.randrange(3, 400) for _ in range(num_rest)]
        start = self._random.randrange(len(self._text) - num_rest)
        return head + self._text[start : start + num_rest]
