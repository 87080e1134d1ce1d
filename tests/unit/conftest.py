"""Properties are checked without a clock: a slow computer is no failure."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("zdlab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zdlab")
