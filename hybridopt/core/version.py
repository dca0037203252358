"""Which version of hybridopt this is, and which of other packages there are."""

import platform
from collections.abc import Iterable
from importlib import metadata

__all__ = ["__version__", "installed", "versions"]

__version__ = "0.1.0"  # pyproject.toml reads it here, so that it is known where nothing is installed, too


def installed(package: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of hybridopt, and of those of some packages that are installed, by name."""
    found = {name: text for name in packages if (text := installed(name))}
    return {"python": platform.python_version(), "hybridopt": __version__} | found
