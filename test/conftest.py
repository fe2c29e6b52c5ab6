"""Makes `support` importable from every test file, and every Hypothesis failure repeatable."""

import os
import sys

from hypothesis import HealthCheck, settings

# A busy machine makes an example slow, never wrong. The blob printed with a failure replays it.
settings.register_profile(
    "default",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("deep", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


_EXIT_STATUS: list[int] = []


def pytest_sessionfinish(session, exitstatus):
    _EXIT_STATUS.append(int(exitstatus))


def pytest_unconfigure(config):
    """End with the run's own status where sentencepiece is loaded.

    Its extension crashes while the interpreter goes away (test_models.py alone shows it), after
    everything has been reported, and would turn a run that passed into a failure.
    """
    if _EXIT_STATUS and "sentencepiece" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_STATUS[-1])
