"""The demo fails when it should."""

import dataclasses

import pytest

from benchmark import demo
from benchmark.demo import COLD, DEVICE, FLUSHED, PAGE_SIZE, RESTARTED, Question
from benchmark.serving import Cached, Reply

ASKED = [Question("A", "document", "?")]
PROMPT_TOKENS = 20 * PAGE_SIZE + 1
WHOLE = 20 * PAGE_SIZE


def reply(**cached):
    return Reply(
        text="yes",
        output_ids=(),
        prompt_tokens=PROMPT_TOKENS,
        cached=Cached(**cached),
        ttft_s=1.0,
        total_s=2.0,
    )


def good():
    return {
        COLD: [reply()],
        DEVICE: [reply(device=WHOLE)],
        FLUSHED: [reply(disk=WHOLE)],
        RESTARTED: [reply(disk=WHOLE - PAGE_SIZE)],
    }


def test_good_rounds_pass():
    assert demo.failures(ASKED, good()) == []


@pytest.mark.parametrize("name", [DEVICE, FLUSHED, RESTARTED])
def test_another_answer_fails(name):
    rounds = good()
    rounds[name] = [dataclasses.replace(rounds[name][0], text="no")]
    assert len(demo.failures(ASKED, rounds)) == 1


@pytest.mark.parametrize("name", [FLUSHED, RESTARTED])
def test_two_pages_of_twenty_not_from_disk_fail(name):
    rounds = good() | {name: [reply(device=2 * PAGE_SIZE, disk=WHOLE - 2 * PAGE_SIZE)]}
    assert len(demo.failures(ASKED, rounds)) == 1


def test_a_cold_round_that_was_not_cold_fails():
    assert len(demo.failures(ASKED, good() | {COLD: [reply(disk=PAGE_SIZE)]})) == 1


def test_a_page_that_ends_with_the_prompt_is_not_expected():
    assert demo.full_pages(dataclasses.replace(reply(), prompt_tokens=2 * PAGE_SIZE)) == 1


def test_documents_are_long_enough_to_matter_and_differ_from_their_start():
    documents = [question.document for question in demo.questions()]
    assert all(len(document) > 4000 for document in documents)
    assert len({document[:PAGE_SIZE] for document in documents}) == len(documents)
