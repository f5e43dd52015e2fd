"""Hands the C++ build over to CMake; metadata is in pyproject.toml."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).resolve().parent
# The module _host belongs to one Python: it is built in a checkout, but left out of wheels, so that
# one wheel serves every Python. DPAD_HOST=1 puts it in, for this Python only; 0 leaves it out.
HOST = os.environ.get("DPAD_HOST", "")
ABI3 = HOST in ("", "0")
RUN_TIME = {"DPAD_ISA", "DPAD_DISABLE"}  # environment variables that do not concern the build


def torch_folder():
    """Folder of the user's torch, found without importing it, also under build isolation."""
    if os.environ.get("DPAD_TORCH_DIR"):
        return os.environ["DPAD_TORCH_DIR"]
    spec = importlib.util.find_spec("torch")
    found = [Path(spec.origin).parent] if spec and spec.origin else []
    found.append(Path(sysconfig.get_paths()["purelib"]) / "torch")
    for folder in found:
        if (folder / "include").is_dir():
            return str(folder)
    sys.exit(
        "dpad is built against the torch that you use, and this build finds none:\n"
        f"{sys.executable} has no torch, or the build is isolated from it.\n"
        "No torch was downloaded, nothing compiled. Install torch first (200 MB for the CPU,\n"
        "several GB with CUDA), then build with it:\n"
        '    pip install "torch>=2.11"\n'
        "    pip install -r requirements/build.txt\n"
        "    pip install --no-build-isolation .\n"
        "or name the folder of a torch in DPAD_TORCH_DIR."
    )


def program(name):
    """Path of a program on PATH, or beside this Python, where pip puts it; None without one."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


class Metadata(dist_info):
    """What pip asks for first; without torch it would download that next, and fail afterwards."""

    def run(self):
        torch_folder()
        super().run()


class CMakeBuild(build_ext):
    """Configures, builds and installs into the package; the build folder is kept between runs."""

    def run(self):
        cmake = program("cmake")
        if cmake is None:
            sys.exit("dpad needs CMake to be built. Type:\n    pip install cmake ninja")
        if not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
            sys.exit("dpad needs a C++20 compiler (g++ >= 11 or clang >= 14): set CXX.")
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        checkout = self.inplace or self.editable_mode
        target = ROOT if checkout else Path(self.build_lib).resolve()
        options = {
            "CMAKE_BUILD_TYPE": os.environ.get("DPAD_BUILD_TYPE", "Release"),
            "Python3_EXECUTABLE": sys.executable,
            "DPAD_TORCH_DIR": torch_folder(),
            "DPAD_HOST": "ON" if checkout else "OFF",
            "CMAKE_INSTALL_PREFIX": target,
        }
        skip = {"DPAD_BUILD_TYPE", "DPAD_TORCH_DIR", "DPAD_CUDA_ARCHITECTURES", *RUN_TIME}
        names = [name for name in os.environ if name.startswith("DPAD_") and name not in skip]
        options.update({name: os.environ[name] for name in names})
        if "DPAD_CUDA_ARCHITECTURES" in os.environ:
            options["CMAKE_CUDA_ARCHITECTURES"] = os.environ["DPAD_CUDA_ARCHITECTURES"]
        ninja = program("ninja")
        # Named every time: under build isolation the program of the last build is gone.
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        # Options of an earlier call are forgotten (-U): only this environment counts.
        arguments = ["-UDPAD_*", "-UCMAKE_CUDA_ARCHITECTURES"]
        arguments += [f"-D{name}={value}" for name, value in options.items()]
        jobs = os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0))))
        subprocess.run([cmake, "-S", ROOT, "-B", build, *generator, *arguments], check=True)
        subprocess.run([cmake, "--build", build, "--parallel", jobs], check=True)
        for pattern in ("_C*.so", f"_host.{sys.implementation.cache_tag}*"):
            for stale in (target / "dpad").glob(pattern):
                stale.unlink()
        subprocess.run([cmake, "--install", build], check=True)


setup(
    ext_modules=[Extension("dpad._C", sources=[], py_limited_api=ABI3)],
    cmdclass={"build_ext": CMakeBuild, "dist_info": Metadata},
    options={"bdist_wheel": {"py_limited_api": "cp311" if ABI3 else False}},
)
