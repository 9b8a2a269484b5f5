"""vLLM: `vllm serve` for folders of safetensors, on GPUs."""

import math
import re
import shutil
from pathlib import Path

from modelyard.files.safetensors import trained_context
from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineApi, EngineProblem, ModelFiles, ServerCommand, engine_environment
from schemas.base import Format
from schemas.instances import EngineOffer, Placement
from schemas.models import Mode, ModelSpec

_MISSING = "There is no vllm on PATH; set YARD_VLLM to one."
_DIST_INFO = re.compile(r"vllm-([^-]+)\.dist-info")
_SHARDS = re.compile(r"checkpoint shards: +(\d+)% Completed")
_POOLING = frozenset({Mode.EMBEDDING, Mode.RERANK})
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Only files of the store are served; nothing is downloaded, no telemetry is sent."""
_OWN = {
    **OFFLINE,
    "VLLM_NO_USAGE_STATS": "1",
    # Its processes connect to each other on this machine only.
    "VLLM_HOST_IP": "127.0.0.1",
}
_LACKS = frozenset({"/apply-template", "/infill"})


class VllmEngine(Engine):
    """vllm from YARD_VLLM or PATH, which may be in a virtual environment of its own."""

    name = "vllm"
    preference = 40
    start_timeout_s = 900.0
    """vLLM compiles a model at its first start."""

    def offer(self, settings: Settings) -> EngineOffer:
        if (program := _find(settings)) is None:
            return EngineOffer(engine=self.name, problem=_MISSING)
        return EngineOffer(engine=self.name, version=_version(program))

    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        if model_format is not Format.SAFETENSORS:
            return f"vLLM serves folders of safetensors, and {spec.path} is none."
        if spec.mmproj:
            return f"vLLM takes no mmproj: what {spec.name} needs is in its folder."
        if spec.loras:
            return (
                "vLLM serves adapters under their own names: give --enable-lora and --lora-modules as args."
            )
        return None

    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        if (program := _find(settings)) is None:
            raise EngineProblem(_MISSING)
        chosen = _arguments(spec, files, placement, port)
        argv = (str(program), "serve", str(files.model), *chosen, *spec.args)
        return ServerCommand(argv=argv, env=engine_environment(spec, placement, _OWN))

    def api(self, spec: ModelSpec) -> EngineApi:
        return EngineApi(metrics_path="/metrics", missing_paths=_LACKS)

    def parse_progress(self, line: str) -> float | None:
        percents = _SHARDS.findall(line)
        return int(percents[-1]) / 100 if percents else None


def _find(settings: Settings) -> Path | None:
    on_path = shutil.which("vllm")
    return settings.vllm or (Path(on_path) if on_path else None)


def _version(program: Path) -> str | None:
    """The version in the program's virtual environment; `vllm --version` takes many seconds."""
    folders = program.resolve().parent.parent.glob("lib/python*/site-packages/vllm-*.dist-info")
    matches = (_DIST_INFO.fullmatch(folder.name) for folder in folders)
    return next((match[1] for match in matches if match), None)


def _arguments(spec: ModelSpec, files: ModelFiles, placement: Placement, port: int) -> list[str]:
    share = memory_share(placement)
    values = {
        "--host": "127.0.0.1",
        "--port": port,
        # vLLM refuses a context longer than the trained one.
        "--max-model-len": min(spec.n_ctx, trained_context(files.model) or spec.n_ctx),
        "--max-num-seqs": spec.n_parallel,
        "--tensor-parallel-size": len(placement.gpus) if len(placement.gpus) > 1 else None,
        "--gpu-memory-utilization": share,
        "--chat-template": files.chat_template,
        "--runner": "pooling" if spec.mode in _POOLING else None,
    }
    pairs = [text for flag, value in values.items() if value is not None for text in (flag, str(value))]
    return ["--served-model-name", spec.name, *spec.aliases, *pairs]


def memory_share(placement: Placement) -> float | None:
    """The part of each GPU that vLLM may use: the smallest, since it takes one for all; None if not given."""
    shares = [gpu.memory_mib / gpu.total_mib for gpu in placement.gpus if gpu.memory_mib and gpu.total_mib]
    if not shares or len(shares) < len(placement.gpus):
        return None
    return min(max(math.floor(min(shares) * 1000) / 1000, 0.001), 1.0)
