"""Wheels of pure Python, made on the spot, and throw-away environments to install them into with pip."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "wl-alpha": (),
    "wl-beta": (),
    "wl-gamma": ("wl-alpha",),
    "wl-delta": ("wl-gamma", "wl-beta"),
    "wl-epsilon": (),
    "wl-zeta": ("wl-beta",),
    "wl-eta": ("wl-zeta", "wl-epsilon"),
    "wl-theta": (),
    "wl-iota": ("wl-theta", "wl-alpha"),
    "wl-kappa": ("wl-delta", "wl-eta"),
}
"""Ten packages, and what each needs: four levels."""
FORMAT = "Wheel-Version: 1.0\nGenerator: workload\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
QUIETLY = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_COMPILE": "1",
    "PIP_NO_INPUT": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What pip is to know, and not to know, of whoever runs this."""


def build(directory: Path, name: str, version: str, needs: tuple[str, ...] = (), body: str = "") -> Path:
    """A wheel of `name`: a module that imports those of what it needs, and then does `body`."""
    directory.mkdir(exist_ok=True)
    module, info = module_of(name), f"{module_of(name)}-{version}.dist-info"
    imports = "".join(f"import {module_of(need)}\n" for need in needs)
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        f"{module}.py": f'{imports}{body}\n__version__ = "{version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": FORMAT,
    }
    rows = [f"{path},{_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    wheel = directory / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def build_all(directory: Path, names: list[str], version: str = "1.0") -> Path:
    """The wheels of these packages; the directory that they are in."""
    for name in names:
        build(directory, name, version, PACKAGES[name])
    return directory


def module_of(name: str) -> str:
    """What is imported of a package."""
    return name.replace("-", "_")


def make_environment(path: str) -> str:
    """For the shell: make an environment without a pip of its own, in 0.1 s. `path` may be "$STAGE"."""
    return f"{shlex.quote(sys.executable)} -m venv --without-pip {path}"


def pip(path: str, *arguments: str) -> str:
    """For the shell: our pip, run by the environment at `path`, and so installing there."""
    return f"{path}/bin/python {shlex.quote(_our_pip())} {shlex.join(arguments)}"


def pip_command(environment: Path, *arguments: str) -> list[str]:
    """The same as a list."""
    return [str(environment / "bin" / "python"), _our_pip(), *arguments]


def _our_pip() -> str:
    """The directory of the package, which can be run as a program."""
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        raise SystemExit(f"{sys.executable} has no pip")
    return os.path.dirname(spec.origin)


def check_of(path: str, name: str) -> str:
    """For the shell: whether the package works."""
    return f"{path}/bin/python -B -c {shlex.quote(f'import {module_of(name)}')}"


def installed(environment: Path) -> dict[str, str]:
    """Our packages in an environment, and their versions, by the directories that pip has made."""
    found = {}
    for path in environment.glob("lib/python*/site-packages/wl_*.dist-info"):
        name, version = path.name.removesuffix(".dist-info").split("-")
        found[name.replace("_", "-")] = version
    return found


def works(environment: Path, name: str) -> bool:
    """Whether the package can be imported there."""
    command = [str(environment / "bin" / "python"), "-B", "-c", f"import {module_of(name)}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def tree(environment: Path) -> str:
    """A checksum of all that is in there: paths, contents, links."""
    found = hashlib.sha256()
    for path in sorted(environment.rglob("*")):
        what = (
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"/"
        )
        found.update(f"{path.relative_to(environment)}\0{len(what)}\0".encode() + what)
    return found.hexdigest()


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
