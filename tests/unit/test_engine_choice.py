"""Which engine a model gets, and why not."""

import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.host.settings import Settings, load
from modelyard.plugins import EngineProblem
from schemas.instances import EngineOffer
from schemas.models import Mode, ModelSpec
from services.supervisor import engines
from services.supervisor.engines.embedded import EmbeddedEngine
from services.supervisor.engines.selection import choose_engine, engine_offers
from services.supervisor.engines.sentence_transformers import SentenceTransformersEngine

BUILT_IN = ["llama.cpp", "embedded", "sentence-transformers", "vllm", "command"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Every engine is usable, and the store has a folder `folder`."""
    monkeypatch.setattr(SentenceTransformersEngine, "offer", usable("sentence-transformers"))
    (tmp_path / "models" / "folder").mkdir(parents=True)
    return load({"YARD_HOME": str(tmp_path), "YARD_LLAMA_SERVER": "/bin/sh", "YARD_VLLM": "/bin/sh"})


def usable(name: str, problem: str | None = None) -> Callable[..., EngineOffer]:
    return lambda _self, _settings: EngineOffer(engine=name, problem=problem)


@pytest.mark.parametrize(
    ("path", "mode", "engine"),
    [
        ("m.gguf", Mode.CHAT, "llama.cpp"),
        ("m.gguf", Mode.EMBEDDING, "llama.cpp"),
        ("folder", Mode.CHAT, "vllm"),
        ("folder", Mode.COMPLETION, "vllm"),
        ("folder", Mode.TRANSCRIPTION, "vllm"),
        ("folder", Mode.EMBEDDING, "sentence-transformers"),
        ("folder", Mode.RERANK, "sentence-transformers"),
    ],
)
def test_auto_chooses_the_first_engine_that_serves_the_model(
    settings: Settings, path: str, mode: Mode, engine: str
) -> None:
    assert choose_engine(ModelSpec(name="m", path=path, mode=mode), settings).name == engine


def test_auto_chooses_the_next_engine_if_the_first_is_unusable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SentenceTransformersEngine, "offer", usable("sentence-transformers", "It is missing.")
    )
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    own = load({"YARD_HOME": str(settings.home)})
    assert choose_engine(ModelSpec(name="m", path="m.gguf"), own).name == "embedded"
    assert choose_engine(ModelSpec(name="m", path="folder", mode=Mode.RERANK), settings).name == "vllm"
    with pytest.raises(EngineProblem, match=r"sentence-transformers: It is missing\. vllm: .*YARD_VLLM"):
        choose_engine(ModelSpec(name="m", path="folder", mode=Mode.RERANK), own)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ModelSpec(name="m", path="folder", engine="llama.cpp"), "serves GGUF files"),
        (ModelSpec(name="m", path="m.gguf", engine="vllm"), "serves folders of safetensors"),
        (ModelSpec(name="m", path="folder", engine="sentence-transformers"), "m is for chat"),
        (ModelSpec(name="m", path="m.gguf", engine="nothing"), "no engine nothing; there are llama.cpp, "),
        (ModelSpec(name="m", path="m.gguf", engine="command"), "a program and its arguments"),
        (ModelSpec(name="m", path="m.gguf", engine="embedded", args=("-x",)), "no further arguments"),
        (ModelSpec(name="m", path="m.gguf", mode=Mode.TRANSCRIPTION), "name the engine of m"),
    ],
)
def test_an_unsuitable_model_is_refused_with_the_reason(
    settings: Settings, spec: ModelSpec, reason: str
) -> None:
    with pytest.raises(EngineProblem, match=reason):
        choose_engine(spec, settings)


def test_llama_cpp_transcribes_with_an_audio_projector(settings: Settings) -> None:
    spec = ModelSpec(name="m", path="m.gguf", mode=Mode.TRANSCRIPTION, mmproj="audio.gguf")
    assert choose_engine(spec, settings).name == "llama.cpp"


def test_auto_does_not_choose_the_embedded_engine_for_a_model_with_arguments(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    own = load({"YARD_HOME": str(settings.home)})
    with pytest.raises(EngineProblem, match="YARD_LLAMA_SERVER"):
        choose_engine(ModelSpec(name="m", path="m.gguf", args=("--flash-attn", "on")), own)


def test_every_engine_is_offered_with_its_version_or_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\necho 'version: 9.8 (abc)' >&2\n")
    server.chmod(0o700)
    monkeypatch.setattr(EmbeddedEngine, "offer", lambda *_: 1 / 0)
    mine = load({"YARD_HOME": str(tmp_path), "YARD_LLAMA_SERVER": str(server)})
    offered = {offer.engine: offer for offer in engine_offers(mine)}
    assert list(offered) == BUILT_IN
    assert offered["llama.cpp"].version == "9.8"
    assert "cannot be used: ZeroDivisionError" in (offered["embedded"].problem or "")
    assert offered["command"].problem is None


def test_the_version_of_vllm_is_read_without_starting_it(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "venv/lib/python3.12/site-packages/vllm-0.18.2.dist-info").mkdir(parents=True)
    mine = load({"YARD_HOME": str(tmp_path), "YARD_VLLM": str(program)})
    assert next(offer for offer in engine_offers(mine) if offer.engine == "vllm").version == "0.18.2"


def test_the_built_in_engines_are_the_entry_points_in_order_of_preference(settings: Settings) -> None:
    root = Path(engines.__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert sorted(project["entry-points"]["modelyard.engines"]) == sorted(BUILT_IN)
    assert [offer.engine for offer in engine_offers(settings)] == BUILT_IN
