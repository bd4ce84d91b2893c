"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# No test is timed: a busy machine is no fault.
settings.register_profile("auditkit", deadline=None)
settings.load_profile("auditkit")
