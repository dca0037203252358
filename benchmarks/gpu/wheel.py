"""Make a wheel small: of the libraries for many versions of CUDA, keep one, and the one for CPUs.

    pip download bitsandbytes==0.50.2 --no-deps --dest .
    python -m benchmarks.gpu.wheel bitsandbytes-0.50.2-*.whl --cuda 130 --to wheels

The rest of the wheel, and so what it does with that version of CUDA, stays as it is.
"""

import argparse
import base64
import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path

LIBRARY = re.compile(r"libbitsandbytes_(\w+)\.(?:so|dll)$")
CPU = "cpu"


def kept(name: str, cuda: str) -> bool:
    """Return whether a file of the wheel is kept: all but libraries for something else.

    Args:
        name: of the file in the wheel.
        cuda: digits of the version of CUDA: "130".
    """
    found = LIBRARY.search(name)
    return found is None or found[1] in (CPU, f"cuda{cuda}")


def repack(wheel: Path, cuda: str, folder: Path) -> Path:
    """Write the small wheel of the same name, and return its path.

    Args:
        wheel: as it was published.
        cuda: digits of the version of CUDA.
        folder: for the small one; another than that of `wheel`.

    Raises:
        SystemExit: the wheel has no library for that version, or would be overwritten.
    """
    target = folder / wheel.name
    if target.resolve() == wheel.resolve():
        raise SystemExit(f"{wheel} would be overwritten: give another folder with --to")
    with zipfile.ZipFile(wheel) as source:
        versions = sorted(found[1] for name in source.namelist() if (found := LIBRARY.search(name)))
        if f"cuda{cuda}" not in versions:
            raise SystemExit(f"{wheel.name} has no library for CUDA {cuda}, only for {', '.join(versions)}")
        record = next(name for name in source.namelist() if name.endswith(".dist-info/RECORD"))
        files = {
            one: source.read(one) for one in source.infolist() if kept(one.filename, cuda) and one.filename != record
        }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small:
        for one, content in files.items():
            small.writestr(one, content, zipfile.ZIP_DEFLATED)
        small.writestr(record, recorded({one.filename: content for one, content in files.items()}, record))
    return target


def recorded(files: dict[str, bytes], record: str) -> str:
    """Return what RECORD says: of every file its SHA-256 and size, of itself neither.

    Args:
        files: contents by name.
        record: the name of RECORD.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.writerow([name, f"sha256={digest}", len(content)])
    lines.writerow([record, "", ""])
    return out.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu.wheel", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cuda", default="130", help="version of the machine's torch, digits alone (default: 130)")
    parser.add_argument("--to", type=Path, default=Path("wheels"), help="folder (default: wheels)")
    options = parser.parse_args(arguments)
    made = repack(options.wheel, options.cuda, options.to)
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB of {options.wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
