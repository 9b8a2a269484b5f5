"""Checks of a model's files before its engine starts."""

from pathlib import Path

import pytest

from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from modelyard.plugins import Engine, EngineProblem
from schemas.models import ModelSpec
from schemas.profiles import Lora
from services.supervisor.engines.command import CommandEngine
from services.supervisor.engines.llama_cpp import LlamaCppEngine
from services.supervisor.engines.selection import check_files, size_bytes
from services.supervisor.engines.vllm import VllmEngine
from services.supervisor.runner.start import start_budget_s


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A GGUF model, a folder of safetensors with 30 bytes of weights, a folder of pickles, and a template."""
    write_reciter(tmp_path / "demo.gguf", DEMO_SENTENCE)
    for folder in ("good", "good/2_Dense", "pickled", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("good/config.json", "pickled/config.json", "t.jinja"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "good/model.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "good/2_Dense/model.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"x")
    return tmp_path


def spec(path: str, **more: object) -> ModelSpec:
    return ModelSpec(name="m", path=path, **more)  # type: ignore[arg-type]  # fields by name


def test_files_are_resolved(store: Path) -> None:
    wanted = spec("demo.gguf", chat_template="t.jinja", loras=(Lora(path="demo.gguf"),))
    files = check_files(wanted, store, LlamaCppEngine())
    assert files.model == store / "demo.gguf"
    assert files.chat_template == store / "t.jinja"
    assert files.loras == (store / "demo.gguf",)


def test_the_size_of_a_folder_is_that_of_all_its_weights(store: Path) -> None:
    files = check_files(spec("good"), store, VllmEngine())
    assert size_bytes(files.model) == 30
    assert size_bytes(store / "nothing") == 0


@pytest.mark.parametrize(
    ("unusable", "reason"),
    [
        (spec("nothing.gguf"), "nothing.gguf of model m is not in the store"),
        (spec("t.jinja"), "too short"),
        (spec("../demo.gguf"), "unsafe path"),
        (spec("demo.gguf", mmproj="nothing"), "nothing of model m is not in the store"),
        (spec("demo.gguf", chat_template="/etc/passwd"), "absolute path"),
        (spec("demo.gguf", loras=(Lora(path="good"),)), "good of model m is not in the store"),
        (spec("empty"), "no config.json"),
        (spec("pickled"), "no .safetensors"),
    ],
    ids=str,
)
def test_an_unusable_file_is_a_sentence(store: Path, unusable: ModelSpec, reason: str) -> None:
    with pytest.raises(EngineProblem, match=reason):
        check_files(unusable, store, LlamaCppEngine())


@pytest.mark.parametrize("engine", [CommandEngine()])
def test_a_command_needs_no_file(store: Path, engine: Engine) -> None:
    assert check_files(spec("nothing"), store, engine).model == store / "nothing"
    with pytest.raises(EngineProblem, match="unsafe path"):
        check_files(spec("../x"), store, engine)


def test_the_start_budget_is_the_models_or_that_of_engine_and_disk() -> None:
    assert start_budget_s(spec("m"), 60, 100_000_000) == 62
    assert start_budget_s(spec("m", start_budget_s=5.0), 60, 100_000_000) == 5


def test_the_size_of_shards_is_their_sum_and_a_missing_one_is_named(store: Path) -> None:
    """The start budget was that of the first shard."""
    names = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for name in names:
        write_reciter(store / name, DEMO_SENTENCE)
    one = (store / names[0]).stat().st_size
    assert size_bytes(check_files(spec(names[0]), store, LlamaCppEngine()).model) == 2 * one
    (store / names[1]).unlink()
    with pytest.raises(EngineProblem, match=f"{names[1]} is missing"):
        check_files(spec(names[0]), store, LlamaCppEngine())
