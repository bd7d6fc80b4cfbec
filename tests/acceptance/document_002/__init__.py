"""The scenarios of document 002's code blocks; see ``test_document_002.py`` beside this folder."""

import pytest

# Scenarios assert; their modules are none that pytest would take for tests.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("failures", "machines", "performance", "running", "sharing", "watching")
    )
)
