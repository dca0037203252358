"""A small wheel has one CUDA library, installs, and says rightly what is in it."""

import csv
import io
import subprocess
import sys
import zipfile

import pytest

from benchmarks.gpu import wheel

NAME = "bitsandbytes-0.1-py3-none-any.whl"
FILES = {
    "bitsandbytes/__init__.py": b"there = True\n",
    "bitsandbytes/libbitsandbytes_cpu.so": b"cpu",
    "bitsandbytes/libbitsandbytes_cuda129.so": b"129" * 1000,
    "bitsandbytes/libbitsandbytes_cuda130.so": b"130",
    "bitsandbytes/libbitsandbytes_xpu.so": b"xpu",
    "bitsandbytes-0.1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.1\n",
    "bitsandbytes-0.1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "bitsandbytes-0.1.dist-info/RECORD": b"bitsandbytes/__init__.py,sha256=old,1\n",
}


@pytest.fixture
def published(tmp_path):
    path = tmp_path / NAME
    with zipfile.ZipFile(path, "w") as made:
        for name, content in FILES.items():
            made.writestr(name, content)
    return path


def test_one_library_is_kept_and_recorded(published, tmp_path, capsys):
    wheel.main([str(published), "--cuda", "130", "--to", str(tmp_path / "small")])
    made = tmp_path / "small" / NAME
    assert made.stat().st_size < published.stat().st_size and str(made) in capsys.readouterr().out
    with zipfile.ZipFile(made) as small:
        names = set(small.namelist())
        gone = {"bitsandbytes/libbitsandbytes_cuda129.so", "bitsandbytes/libbitsandbytes_xpu.so"}
        assert names == FILES.keys() - gone and len(small.namelist()) == len(names)
        record = list(csv.reader(io.StringIO(small.read("bitsandbytes-0.1.dist-info/RECORD").decode())))
        assert {line[0] for line in record} == names
        digest = "sha256=aKuE98bQ9XgVhesbUolJn7KQgbkY9x69219yAhye-cU"
        assert ["bitsandbytes/libbitsandbytes_cpu.so", digest, "3"] in record
    folder = tmp_path / "site"
    install = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(folder), str(made)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    assert (folder / "bitsandbytes" / "libbitsandbytes_cuda130.so").read_bytes() == b"130"


def test_a_version_that_is_not_there_is_named(published, tmp_path):
    with pytest.raises(SystemExit, match="no library for CUDA 131, only for cpu, cuda129, cuda130, xpu"):
        wheel.repack(published, "131", tmp_path / "small")
    with pytest.raises(SystemExit, match="would be overwritten"):
        wheel.repack(published, "130", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [NAME]
