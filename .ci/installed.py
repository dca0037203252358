"""Say whether an installed hybridopt, its wheel and its sdist have what the checkout has; run by .ci/wheel."""

import importlib
import pkgutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

root, dist = Path(sys.argv[1]), Path(sys.argv[2])
tracked = subprocess.run(
    ["git", "-C", root, "ls-tree", "-r", "--name-only", "HEAD"], capture_output=True, text=True, check=True
).stdout.split()
own = [name for name in tracked if name.startswith(("hybridopt/", "integrations/"))]

with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
    names = {name.partition("/")[2] for name in sdist.getnames()}
lacking = sorted(set(tracked) - names - {".gitignore"})
assert not lacking, f"the sdist lacks {lacking[:5]} of {len(lacking)} files"

with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
wanted = {name.replace("integrations/", "hybridopt/integrations/", 1) for name in own}
assert packed == wanted, f"lacking in the wheel, or too much: {sorted(packed ^ wanted)[:5]}"

package = importlib.import_module("hybridopt")
assert root not in Path(package.__file__).parents, package.__file__
modules = [module.name for module in pkgutil.walk_packages(package.__path__, "hybridopt.")]
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # which only a torch for GPUs brings
            raise
print(f"{len(modules)} modules imported from {Path(package.__file__).parent}, {len(names)} files in the sdist")
