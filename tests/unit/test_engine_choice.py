"""Which engine a model gets, and why not."""

import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.host.settings import Settings, load
from schemas.instances import EngineOffer
from schemas.models import Mode, ModelSpec
from services.supervisor import engines
from services.supervisor.engines import choose, offers
from services.supervisor.engines.base import EngineProblem
from services.supervisor.engines.embedded import Embedded
from services.supervisor.engines.find import BUILT_IN, GROUP
from services.supervisor.engines.sentences import SentenceTransformers


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Every engine can be used, and the store has a folder `folder`."""
    monkeypatch.setattr(SentenceTransformers, "offer", usable("sentence-transformers"))
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
def test_auto_takes_the_first_that_serves_such_a_model(
    settings: Settings, path: str, mode: Mode, engine: str
) -> None:
    assert choose(ModelSpec(name="m", path=path, mode=mode), settings).name == engine


def test_auto_takes_the_next_where_the_first_cannot_be_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentenceTransformers, "offer", usable("sentence-transformers", "It is missing."))
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    alone = load({"YARD_HOME": str(settings.home)})
    assert choose(ModelSpec(name="m", path="m.gguf"), alone).name == "embedded"
    assert choose(ModelSpec(name="m", path="folder", mode=Mode.RERANK), settings).name == "vllm"
    with pytest.raises(EngineProblem, match=r"sentence-transformers: It is missing\. vllm: .*YARD_VLLM"):
        choose(ModelSpec(name="m", path="folder", mode=Mode.RERANK), alone)


@pytest.mark.parametrize(
    ("spec", "word"),
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
def test_a_model_that_an_engine_cannot_serve_is_refused_with_the_reason(
    settings: Settings, spec: ModelSpec, word: str
) -> None:
    with pytest.raises(EngineProblem, match=word):
        choose(spec, settings)


def test_llama_cpp_transcribes_with_an_audio_projector(settings: Settings) -> None:
    spec = ModelSpec(name="m", path="m.gguf", mode=Mode.TRANSCRIPTION, mmproj="audio.gguf")
    assert choose(spec, settings).name == "llama.cpp"


def test_arguments_are_for_llama_server_not_for_the_embedded_engine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    alone = load({"YARD_HOME": str(settings.home)})
    with pytest.raises(EngineProblem, match="YARD_LLAMA_SERVER"):
        choose(ModelSpec(name="m", path="m.gguf", args=("--flash-attn", "on")), alone)


def test_every_engine_is_offered_with_its_version_or_its_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\necho 'version: 9.8 (abc)' >&2\n")
    server.chmod(0o700)
    monkeypatch.setattr(Embedded, "offer", lambda *_: 1 / 0)
    mine = load({"YARD_HOME": str(tmp_path), "YARD_LLAMA_SERVER": str(server)})
    seen = {offer.engine: offer for offer in offers(mine)}
    assert list(seen) == list(BUILT_IN)
    assert seen["llama.cpp"].version == "9.8"
    assert "cannot be asked: ZeroDivisionError" in (seen["embedded"].problem or "")
    assert seen["command"].problem is None


def test_the_version_of_vllm_is_read_without_starting_it(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "venv/lib/python3.12/site-packages/vllm-0.18.2.dist-info").mkdir(parents=True)
    mine = load({"YARD_HOME": str(tmp_path), "YARD_VLLM": str(program)})
    assert next(offer for offer in offers(mine) if offer.engine == "vllm").version == "0.18.2"


def test_our_engines_are_entry_points_too() -> None:
    root = Path(engines.__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == BUILT_IN
