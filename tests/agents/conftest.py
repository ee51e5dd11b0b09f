"""What fails in tests that agents share is told as in the others."""

import pytest

pytest.register_assert_rewrite("agent_checks")
