"""Builds gradwire._native with CMake, and the CUDA plug-in if nvcc is found; all else is in pyproject.toml.

GRADWIRE_CUDA: "auto" (the default), "on" (an error without nvcc) or "off" (the default of editable installs,
as all architectures take a while). GRADWIRE_CUDA_ARCHS: as CMake spells them, such as "90" or
"80-real;90-virtual"; all if not set.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
JOBS = min(2, os.cpu_count() or 1)  # a compile job takes up to 1 GB


class CMakeBuild(build_ext):
    def run(self) -> None:
        self.editable = bool(self.inplace)  # setuptools clears inplace while it builds, and copies afterwards
        super().run()

    def copy_extensions_to_source(self) -> None:
        """Nothing to do: CMake wrote into src itself, and will again when `make dev` runs it directly."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11  # a build requirement: present by now

        header = Path(sysconfig.get_path("include")) / "Python.h"
        if not header.exists():
            raise SystemExit(
                f"gradwire needs {header} to build, and it is not there. Install Python's headers, "
                "for example: apt-get install python3-dev"
            )
        # An editable install keeps its build directory: a changed file costs one compile and one link.
        if self.editable:
            output, build = ROOT / "src" / "gradwire", ROOT / "build" / "dev"
        else:
            output, build = (
                Path(self.get_ext_fullpath(ext.name)).resolve().parent,
                Path(self.build_temp).resolve(),
            )
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DGW_OUTPUT_DIR={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        ninja = shutil.which("ninja")
        if ninja:
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        if not _made_by_this_python(build, bool(ninja)):
            configure.append("--fresh")
        configure += self.cuda_choices()
        configure += shlex.split(os.environ.get("GRADWIRE_CMAKE_ARGS", ""))
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "gradwire", f"-j{JOBS}"], check=True)

    def cuda_choices(self) -> list[str]:
        choice = os.environ.get("GRADWIRE_CUDA", "off" if self.editable else "auto").upper()
        if choice not in ("AUTO", "ON", "OFF"):
            raise SystemExit(f"GRADWIRE_CUDA must be auto, on or off, got {choice.lower()}")
        archs = os.environ.get("GRADWIRE_CUDA_ARCHS")
        return [f"-DGW_CUDA={choice}", *([f"-DGW_CUDA_ARCHS={archs}"] if archs else [])]


def _made_by_this_python(build: Path, ninja: bool) -> bool:
    """A cache made by another Python, or in a build environment since removed, names files that are gone."""
    cache = build / "CMakeCache.txt"
    if not cache.exists():
        return True
    text = cache.read_text(errors="replace")
    generator = "CMAKE_GENERATOR:INTERNAL=Ninja" in text
    return f"Python_EXECUTABLE:UNINITIALIZED={sys.executable}\n" in text and generator == ninja


setup(ext_modules=[Extension("gradwire._native", [])], cmdclass={"build_ext": CMakeBuild})
