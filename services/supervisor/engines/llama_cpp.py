"""llama.cpp's llama-server, if this machine has one."""

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineApi, EngineProblem, ModelFiles, ServerCommand, engine_environment
from schemas.base import Format
from schemas.instances import EngineOffer, Placement
from schemas.models import Mode, ModelSpec

_MISSING = "There is no llama-server on PATH; set YARD_LLAMA_SERVER to one."
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_VERSION = re.compile(r"^version: (\S+)", re.MULTILINE)
_DOTS = re.compile(r"(?:[\d.]+ [A-Z] +)?(\.{1,100})")
_MODE_ARGS = {Mode.EMBEDDING: ("--embedding",), Mode.RERANK: ("--reranking",)}
ALL_LAYERS = 999
LLAMA_API = EngineApi(slots_path="/slots", metrics_path="/metrics", probe_fields={"cache_prompt": False})


def listening_port(line: str) -> int | None:
    """The port in llama.cpp's log line about it."""
    match = _LISTENING.search(line)
    return int(match[1]) if match else None


def gpu_layers(placement: Placement) -> int | None:
    """The number of layers on GPUs; None if llama.cpp or the profile's arguments decide."""
    if placement.on_cpu:
        # The workers hold what is not in main memory, and count as GPUs.
        return sum(placement.split[: len(placement.workers)])
    return ALL_LAYERS if placement.gpus and placement.gpus == placement.devices else None


def tensor_split(placement: Placement) -> list[int]:
    """The shares of several devices, workers first; empty if none are given."""
    if placement.split:
        own = placement.split[len(placement.workers) :] if placement.gpus else ()
        return [*placement.split[: len(placement.workers)], *own]
    shares = [gpu.memory_mib for gpu in placement.gpus if gpu.memory_mib]
    return shares if len(shares) == len(placement.gpus) > 1 else []


class LlamaServerEngine(Engine):
    """The common part of both packages of llama.cpp's server."""

    reports_port = True

    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        if model_format is not Format.GGUF:
            return f"llama.cpp serves GGUF files, and {spec.path} is a folder."
        if spec.mode is Mode.TRANSCRIPTION and spec.mmproj is None:
            return f"To transcribe, llama.cpp needs an audio projector: give {spec.name} an mmproj."
        return None

    def parse_port(self, line: str) -> int | None:
        return listening_port(line)

    def parse_progress(self, line: str) -> float | None:
        """llama.cpp prints one dot a percent while it loads; not every build does."""
        match = _DOTS.fullmatch(line)
        return len(match[1]) / 100 if match else None

    def api(self, spec: ModelSpec) -> EngineApi:
        return LLAMA_API


class LlamaCppEngine(LlamaServerEngine):
    """llama-server from YARD_LLAMA_SERVER or PATH."""

    name = "llama.cpp"
    preference = 10
    supports_workers = True

    def offer(self, settings: Settings) -> EngineOffer:
        if (program := find_server(settings)) is None:
            return EngineOffer(engine=self.name, problem=_MISSING)
        return EngineOffer(engine=self.name, version=server_version(program, program.stat().st_mtime))

    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        if (program := find_server(settings)) is None:
            raise EngineProblem(_MISSING)
        chosen = (*_arguments(spec, files, placement), *_lora_arguments(spec, files))
        argv = (str(program), *chosen, *_MODE_ARGS.get(spec.mode, ()), *spec.args)
        return ServerCommand(argv=argv, env=engine_environment(spec, placement))


def find_server(settings: Settings) -> Path | None:
    on_path = shutil.which("llama-server")
    return settings.llama_server or (Path(on_path) if on_path else None)


@lru_cache(maxsize=8)
def server_version(program: Path, _changed_at: float) -> str | None:
    """The version that the program prints; cached, since reading it starts the program."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout + done.stderr)
    return match[1] if match else None


def _arguments(spec: ModelSpec, files: ModelFiles, placement: Placement) -> list[str]:
    cache_type = spec.cache_type if spec.cache_type != "f16" else None
    values = {
        "--model": files.model,
        "--mmproj": files.mmproj,
        "--chat-template-file": files.chat_template,
        "--alias": spec.name,
        "--host": "127.0.0.1",
        "--port": 0,
        "--parallel": spec.n_parallel,
        "--ctx-size": spec.n_ctx,
        "--cache-type-k": cache_type,
        "--cache-type-v": cache_type,
        "--n-gpu-layers": gpu_layers(placement),
        "--tensor-split": ",".join(map(str, tensor_split(placement))) or None,
        "--rpc": ",".join(placement.rpc) or None,
        # The split is decided; with `--fit` llama.cpp would first query the memory of every worker.
        "--fit": "off" if placement.rpc else None,
    }
    pairs = [text for flag, value in values.items() if value is not None for text in (flag, str(value))]
    return [*pairs, "--kv-unified", "--metrics", "--slots", "--jinja"]


def _lora_arguments(spec: ModelSpec, files: ModelFiles) -> list[str]:
    """One flag for all adapters: llama-server uses only the last of a repeated flag."""
    if not files.loras:
        return []
    for path in files.loras:
        if set(str(path)) & set(',:"'):
            raise EngineProblem(
                f"llama-server cannot take the adapter {path}: rename it without , : and quotes."
            )
    if all(lora.scale == 1 for lora in spec.loras):
        return ["--lora", ",".join(map(str, files.loras))]
    scaled = zip(files.loras, spec.loras, strict=True)
    return ["--lora-scaled", ",".join(f"{path}:{lora.scale}" for path, lora in scaled)]
