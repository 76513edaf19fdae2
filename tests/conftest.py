"""Hypothesis profiles. Examples derive from the test itself, so that a commit is either green or red."""

import os

from hypothesis import HealthCheck, settings

# Time is not under test, and a loaded machine may not turn a test red.
settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# For hunting: HYPOTHESIS_PROFILE=hunt pytest tests/...
settings.register_profile("hunt", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
