"""One real server at a time on the tiny model, prompts nobody asked before, and right answers."""

import random

import pytest
from launches import ANSWER_TOKENS, Launcher
from reference_answers import greedy_answer

from benchmark.models import TINY, random_llama


@pytest.fixture(scope="session")
def model():
    return random_llama(TINY)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    launcher = Launcher(tmp_path_factory.mktemp("server-logs"))
    yield launcher
    launcher.stop()


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The disk tier's directory that most tests share, as servers come and go."""
    return tmp_path_factory.mktemp("tier") / "store"


@pytest.fixture
def server(launcher, model, directory):
    """The shared server, device and host tiers empty."""
    server = launcher.serve(model, directory)
    server.flush_cache()
    return server


@pytest.fixture
def new_prompt(request):
    """Make a prompt of so many tokens; each test has its own, the same in every run."""
    source = random.Random(request.node.nodeid)

    def make(num_tokens):
        return [source.randrange(3, 400) for _ in range(num_tokens)]

    return make


@pytest.fixture
def check_answer(model):
    """Fail unless a reply is what the model computes without any cache."""

    def check(reply, prompt):
        assert reply.output_ids == greedy_answer(model, prompt, ANSWER_TOKENS)

    return check
