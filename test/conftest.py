"""Makes `support` importable from every test file, and every Hypothesis failure repeatable."""

import os

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
