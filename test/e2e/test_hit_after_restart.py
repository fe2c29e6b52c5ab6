"""The disk tier is warm after the server ended, however it ended."""

from launches import ask, ask_and_store

from benchmark.serving import Cached


def test_hit_after_a_clean_end(launcher, model, directory, new_prompt, check_answer):
    """By default pages are written when they leave the host tier, and at the latest now."""
    server = launcher.serve(model, directory, "--kv-storage-write", "evict")
    prompt = new_prompt(1000)
    before = ask(server, prompt)
    launcher.stop()
    after = ask(launcher.serve(model, directory), prompt)

    assert before.cached == Cached()
    assert after.cached == Cached(disk=960)
    assert after.output_ids == before.output_ids
    check_answer(after, prompt)


def test_hit_after_kill_9(launcher, server, model, directory, new_prompt, check_answer):
    """The second prompt is still being written when the server dies; any part may be lost."""
    written, in_flight = new_prompt(1000), new_prompt(3000)
    before = ask_and_store(server, written)
    ask(server, in_flight)
    launcher.kill9()
    server = launcher.serve(model, directory)
    after, cut_off = ask(server, written), ask(server, in_flight)

    assert after.cached == Cached(disk=960)
    assert after.output_ids == before.output_ids
    assert cut_off.cached == Cached(disk=cut_off.cached.disk)
    check_answer(after, written)
    check_answer(cut_off, in_flight)
