"""So that tests in this folder and below can import ``contract``, with pytest's explanations of its asserts."""

import pytest

pytest.register_assert_rewrite("contract")
