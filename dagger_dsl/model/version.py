"""Which version of the library this is."""

from __future__ import annotations

__all__ = ["installed_version"]


def installed_version() -> str:
    """Return the version that is installed; ``0+unknown`` in a checkout that is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dagger_dsl")
    except PackageNotFoundError:
        return "0+unknown"
