"""What every test shares: how Hypothesis behaves on a busy machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast a machine draws examples is no property of the code. A failing run prints the seed that repeats it.
settings.register_profile("checkvalve", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("checkvalve")
