"""What is asked of the servers."""

from benchmark.replay.traces import Turn
from benchmark.writes_servers import PAGE_SIZE, prompts_of, tokens_of


def test_equal_prefixes_of_text_are_equal_prefixes_of_tokens():
    one, other = tokens_of("a" * 800 + "b" * 400), tokens_of("a" * 800 + "c" * 400)
    assert len(one) == 300
    assert one[:200] == other[:200] and one[200:] != other[200:]


def test_turns_are_taken_until_their_pages_are_three_times_device_and_host():
    device = 8 * PAGE_SIZE
    turns = [Turn(i, "s", f"{i:04d}" * 4000) for i in range(100)]
    prompts = prompts_of([Turn(0, "s", "short"), *turns], device)
    assert all(len(prompt) == 6 * PAGE_SIZE for prompt in prompts)
    assert len(prompts) == 3 * 3 * 8 // 6
