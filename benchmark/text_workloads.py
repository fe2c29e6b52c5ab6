"""Prompts of real text that share beginnings: RAG, system prompts, growing conversations.

Pure: documents in, requests out, the same for a seed. A document is a list of lines, a line a tuple
of tokens, and what prompts are made of ends where a line ends, not where a page does. Requests come
in the order in which they are asked.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from benchmark.retrieval import Bm25

Tokens: TypeAlias = tuple[int, ...]
Document: TypeAlias = Sequence[Tokens]
Encode: TypeAlias = Callable[[str], Tokens]
"""A tokenizer."""

RAG, POPULAR_FIRST, SHARED_PREFIX, MULTI_TURN = (
    "RAG",
    "RAG, popular first",
    "shared prefix",
    "multi-turn",
)
_RAG_HEAD = (
    "You answer questions about a code base. Below are passages of sessions in which somebody "
    "worked on it: commands, files and what programs printed. Use nothing else. Quote the lines "
    "that your answer stands on. Where the passages do not say, answer that they do not say; do "
    "not guess at names of functions, of files or of arguments. Answer in at most three "
    "sentences, then list the numbers of the lines you quoted.\n\nPassages:\n\n"
)
_QUESTION = "\n\nWhat is this line for, and what happens without it?\n{}\nAnswer:"
_LEAST_QUESTION_TOKENS = 8


class TooLittleTextError(Exception):
    """The documents are too few or too short for what was asked of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many prompts share how much."""

    num_passages: int
    passage_tokens: int
    """At least; a passage ends with the line that reaches it."""
    passages_per_prompt: int
    num_groups: int
    """System prompts."""
    group_tokens: int
    num_conversations: int
    opening_tokens: int
    turn_tokens: int
    """Each turn adds to its conversation."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What prompts are made of."""

    documents: Sequence[Document]
    encode: Encode


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, as the parts it was put together from."""

    parts: tuple[Tokens, ...]
    after: int | None = None
    """Number of the request that has to be answered before, as this one goes on from it."""

    @property
    def prompt(self) -> Tokens:
        """All parts in a row."""
        return tuple(token for part in self.parts for token in part)


class Offered(NamedTuple):
    """How much of prompts was asked before, in tokens."""

    asked: int
    seen: int
    """In parts that an earlier request had too, at whatever place."""
    shared: int
    """In the beginning that an earlier request had too."""
    whole_pages: int
    """Of that beginning, in whole pages: what a prefix cache without a bound hits."""


def cut(document: Document, least_tokens: int) -> list[tuple[Tokens, ...]]:
    """Cut a document into passages of whole lines; a line longer than that is cut itself.

    What is left at its end is too short and left out.
    """
    passages: list[tuple[Tokens, ...]] = []
    lines: list[Tokens] = []
    for line in document:
        for start in range(0, len(line), least_tokens):
            lines.append(line[start : start + least_tokens])
            if sum(map(len, lines)) >= least_tokens:
                passages.append(tuple(lines))
                lines = []
    return passages


def rag(
    texts: Texts,
    shape: Shape,
    num_requests: int,
    *,
    popular_first: bool = False,
    page_size: int = 0,
    seed: int,
) -> list[Request]:
    """Return instructions, the passages that fit a question best, and the question.

    A question is about a line of one passage; the n-th passage is asked about 1/n as often as the
    first (Zipf). Retrieval goes by the question's words, and the order in the prompt is its order.

    Args:
        texts: what passages are cut from.
        shape: how many passages, how long, and how many a prompt.
        num_requests: how many.
        popular_first: order the passages of each prompt by how many of all requests retrieve them
            instead. The requests, their questions and passages stay the same.
        page_size: cut instructions and passages to whole pages; 0 leaves them as they are.
        seed: of which passages there are, and what is asked.

    Raises:
        TooLittleTextError: there are too few passages in the documents.
    """
    chance = random.Random(seed)
    passages = chance.sample(_distinct(texts.documents, shape), shape.num_passages)
    whole = [_joined(lines) for lines in passages]
    search = Bm25(whole)
    weights = [1 / rank for rank in range(1, len(passages) + 1)]
    questions, found = [], []
    for _ in range(num_requests):
        (about,) = chance.choices(passages, weights)
        questions.append(_line(about, chance))
        found.append(search.best(questions[-1], shape.passages_per_prompt))
    if popular_first:
        times = Counter(index for indices in found for index in indices)
        found = [sorted(indices, key=lambda index: (-times[index], index)) for indices in found]
    head = texts.encode(_RAG_HEAD)
    return [
        Request(
            (
                *(_whole_pages(part, page_size) for part in (head, *(whole[i] for i in indices))),
                _question(texts.encode, line),
            )
        )
        for line, indices in zip(questions, found, strict=True)
    ]


def shared_prefix(texts: Texts, shape: Shape, num_requests: int, *, seed: int) -> list[Request]:
    """Return questions, each below the system prompt of its group.

    A group's system prompt is the beginning of a document. Each group asks once a round, the
    order of the groups is another in each.

    Raises:
        TooLittleTextError: fewer documents than groups are long enough.
    """
    chance = random.Random(seed)
    groups = _beginnings(texts.documents, shape.group_tokens, shape.num_groups)
    requests = []
    for group in _rounds(len(groups), num_requests, chance):
        head = texts.encode(f"You are assistant {group} of those who work on this:\n\n")
        question = _question(texts.encode, _line(groups[group], chance))
        requests.append(Request((head, _joined(groups[group]), question)))
    return requests


def multi_turn(texts: Texts, shape: Shape, num_requests: int, *, seed: int) -> list[Request]:
    """Return turns of conversations, each the one before and some more of its document.

    All conversations go on by a turn before one goes on by two, in another order each time. What
    is added stands for the answer as well, so that every server is asked the same.

    Raises:
        TooLittleTextError: fewer documents than conversations are long enough.
    """
    chance = random.Random(seed)
    num_turns = -(-num_requests // shape.num_conversations)
    # A piece has less than twice the tokens it must have.
    least = 2 * (shape.opening_tokens + num_turns * shape.turn_tokens)
    conversations = []
    for number, lines in enumerate(_beginnings(texts.documents, least, shape.num_conversations)):
        turns = [_joined(piece) for piece in cut(lines, shape.turn_tokens)]
        opening = texts.encode(f"Conversation {number}.\n\n")
        while len(opening) < shape.opening_tokens:
            opening += turns.pop(0)
        conversations.append((opening, *turns))
    latest: dict[int, tuple[int, int]] = {}
    requests = []
    for index, number in enumerate(_rounds(len(conversations), num_requests, chance)):
        num_parts, after = latest.get(number, (0, None))
        requests.append(Request(conversations[number][: num_parts + 1], after))
        latest[number] = (num_parts + 1, index)
    return requests


def offered(requests: Sequence[Request], page_size: int) -> list[Offered]:
    """Return of each request what the ones before it had asked."""
    seen: set[Tokens] = set()
    before: list[Tokens] = []
    found = []
    for request in requests:
        prompt = request.prompt
        shared = max((_common(prompt, earlier) for earlier in before), default=0)
        # The last token is always computed: it gives the first of the answer.
        whole = min(shared, len(prompt) - 1) // page_size * page_size
        known = sum(len(part) for part in request.parts if part in seen)
        found.append(Offered(len(prompt), known, shared, whole))
        seen.update(request.parts)
        before.append(prompt)
    return found


def total(some: Sequence[Offered]) -> Offered:
    """Return the sums."""
    return Offered(*(sum(column) for column in zip((0, 0, 0, 0), *some, strict=True)))


def _distinct(documents: Sequence[Document], shape: Shape) -> list[tuple[Tokens, ...]]:
    found = [passage for document in documents for passage in cut(document, shape.passage_tokens)]
    distinct = list(dict.fromkeys(found))
    if len(distinct) < shape.num_passages:
        raise TooLittleTextError(
            f"too few passages. wanted={shape.num_passages} found={len(distinct)}"
        )
    return distinct


def _beginnings(
    documents: Sequence[Document], least_tokens: int, num: int
) -> list[tuple[Tokens, ...]]:
    found = [pieces[0] for document in documents if (pieces := cut(document, least_tokens))]
    if len(found) < num:
        raise TooLittleTextError(
            f"too few documents of {least_tokens} tokens. wanted={num} found={len(found)}"
        )
    return found[:num]


def _rounds(num: int, num_requests: int, chance: random.Random) -> Iterator[int]:
    """Yield numbers below `num`, each once a round, the rounds in different orders."""
    for start in range(0, num_requests, num):
        order = chance.sample(range(num), num)
        yield from order[: num_requests - start]


def _line(lines: Sequence[Tokens], chance: random.Random) -> Tokens:
    return chance.choice([one for one in lines if len(one) >= _LEAST_QUESTION_TOKENS] or lines)


def _question(encode: Encode, line: Tokens) -> Tokens:
    before, after = _QUESTION.split("{}")
    return encode(before) + line + encode(after)


def _joined(lines: Sequence[Tokens]) -> Tokens:
    return tuple(token for line in lines for token in line)


def _whole_pages(part: Tokens, page_size: int) -> Tokens:
    return part[: len(part) // page_size * page_size] if page_size else part


def _common(one: Tokens, other: Tokens) -> int:
    """Return the length of the longest common beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
