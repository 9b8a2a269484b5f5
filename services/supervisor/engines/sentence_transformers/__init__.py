"""The engine `sentence-transformers`: embeddings and reranking from safetensors, in a server of our own."""

import sys
from importlib.metadata import PackageNotFoundError, version

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineApi, ModelFiles, ServerCommand, engine_environment
from schemas.base import Format, Record
from schemas.instances import EngineOffer, Placement
from schemas.models import Mode, ModelSpec
from schemas.profiles import EmbeddingOptions
from schemas.requests import ENDPOINTS, paths_of
from services.supervisor.engines.llama_cpp import listening_port
from services.supervisor.engines.vllm import OFFLINE

_MISSING = (
    "The Python package sentence-transformers is not installed; `pip install modelyard[sentences]` does it."
)


class SentenceServerOptions(Record):
    """One JSON document in the arguments of the server."""

    model: str
    """Folder of the model."""
    name: str
    mode: Mode
    device: str | None = None
    """`cpu`, or None for a visible GPU."""
    embedding: EmbeddingOptions = EmbeddingOptions()


class SentenceTransformersEngine(Engine):
    """Runs on the first GPU of its placement, else on the CPU."""

    name = "sentence-transformers"
    preference = 30
    reports_port = True
    start_timeout_s = 180.0
    """Importing torch from a slow disk takes long."""

    def offer(self, settings: Settings) -> EngineOffer:
        try:
            return EngineOffer(engine=self.name, version=version("sentence-transformers"))
        except PackageNotFoundError:
            return EngineOffer(engine=self.name, problem=_MISSING)

    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        if model_format is not Format.SAFETENSORS:
            return f"sentence-transformers serves folders of safetensors, and {spec.path} is none."
        if spec.mode not in (Mode.EMBEDDING, Mode.RERANK):
            return f"sentence-transformers serves embeddings and reranking; {spec.name} is for {spec.mode}."
        if spec.args or spec.loras:
            return "The engine sentence-transformers takes no arguments and no adapters."
        return None

    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        options = SentenceServerOptions(
            model=str(files.model),
            name=spec.name,
            mode=spec.mode,
            device="cpu" if placement.on_cpu else None,
            embedding=spec.embedding,
        )
        module = "services.supervisor.engines.sentence_transformers"
        argv = (sys.executable, "-m", module, msgspec.json.encode(options).decode())
        own = {**OFFLINE, "TOKENIZERS_PARALLELISM": "false"}
        return ServerCommand(argv=argv, env=engine_environment(spec, placement, own))

    def parse_port(self, line: str) -> int | None:
        return listening_port(line)

    def api(self, spec: ModelSpec) -> EngineApi:
        all_paths = frozenset(endpoint.path for endpoint in ENDPOINTS)
        return EngineApi(missing_paths=all_paths - set(paths_of(spec.mode)))
