"""Device and disk only: pages pass through host memory and stay nowhere in it."""

from launches import DEVICE_TOKENS, ask, ask_and_store, evict, full_page_tokens

from benchmark.serving import Cached

FLAGS = (
    *("--kv-storage-host", "off"),
    # Half of the device pool, so less than could ever be a tier.
    *("--hicache-ratio", "0.5"),
)


def test_each_tier_gives_the_same_answer(launcher, model, tmp_path, new_prompt, check_answer):
    launch = (model, tmp_path / "store", *FLAGS)
    server = launcher.serve(*launch)
    prompt = new_prompt(1100)
    in_pages = full_page_tokens(prompt)

    def check(prompt, expected):
        reply = ask(server, prompt)
        check_answer(reply, prompt)
        assert reply.cached == expected

    first = ask_and_store(server, prompt)
    check_answer(first, prompt)
    assert first.cached == Cached()
    check(prompt, Cached(device=in_pages))
    evict(server, new_prompt, num_tokens=DEVICE_TOKENS + 2048, store=True)
    check(prompt, Cached(disk=in_pages))

    # A prefix on the device and the rest on disk.
    longer = [*prompt[:in_pages], *new_prompt(600)]
    ask_and_store(server, longer, num_new=full_page_tokens(longer) - in_pages)
    evict(server, new_prompt, num_tokens=DEVICE_TOKENS + 2048, store=True)
    check(prompt, Cached(disk=in_pages))
    check(longer, Cached(device=in_pages, disk=full_page_tokens(longer) - in_pages))

    launcher.stop()
    server = launcher.serve(*launch)
    check(longer, Cached(disk=full_page_tokens(longer)))
    launcher.stop()
