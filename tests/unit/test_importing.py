"""Other programs' files as specs, and what cannot be imported."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.cli.importing.llama_server import read_command, words_of
from modelyard.cli.importing.registry_file import read_foreign
from modelyard.cli.importing.result import CannotImport, StorePaths
from schemas.errors import BadRequest
from schemas.models import Mode, ModelSpec, ParameterPolicy
from schemas.profiles import DeviceNeed, EmbeddingOptions, Profile

PATHS = StorePaths(Path("/etc/swap"), Path("/srv/models"))


def command(text: str) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    return read_command(words_of(text), PATHS, notes.append), notes


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("llama-server -m /srv/models/a/b.gguf", {"path": "a/b.gguf"}),
        ("/usr/bin/llama-server --model /srv/models/a.gguf -c 4096 -np 2", {"n_ctx": 4096, "n_parallel": 2}),
        (
            "llama-server -m /srv/models/a.gguf --host 0.0.0.0 --port 9 --jinja -ngl 99",
            {"args": ["-ngl", "99"]},
        ),
        ("llama-server -m /srv/models/a.gguf --mmproj /srv/models/p.gguf", {"mmproj": "p.gguf"}),
        ("llama-server -m /srv/models/a.gguf -ctk q8_0 -ctv q8_0", {"cache_type": "q8_0"}),
        ("llama-server -m /srv/models/a.gguf -ctk q8_0", {"args": ["-ctk", "q8_0"]}),
        ("llama-server -m /srv/models/a.gguf --embedding -a one,two", {"mode": "embedding"}),
        ("llama-server -m /srv/models/a.gguf --rerank", {"mode": "rerank"}),
        ("A=1 B='x y' llama-server -m /srv/models/a.gguf", {"env": {"A": "1", "B": "x y"}}),
        (
            "llama-server -m /srv/models/a --lora /srv/models/l.gguf --lora-scaled /srv/models/m.gguf 0.5",
            {"loras": [{"path": "l.gguf", "scale": 1.0}, {"path": "m.gguf", "scale": 0.5}]},
        ),
        (
            "llama-server -m /srv/models/a.gguf --lora-scaled /srv/models/l.gguf:0.5,/srv/models/m.gguf:2",
            {"loras": [{"path": "l.gguf", "scale": 0.5}, {"path": "m.gguf", "scale": 2.0}]},
        ),
        (
            "llama-server \\\n  # a note\n  -m '/srv/models/with space.gguf' \\\n -fa",
            {"path": "with space.gguf"},
        ),
        ("llama-server -m ../../srv/models/a.gguf", {"path": "a.gguf"}),
    ],
)
def test_a_command_line_becomes_fields(text: str, fields: dict[str, Any]) -> None:
    read, notes = command(text)
    assert {**read, **fields} == read
    assert notes == []


def test_a_changed_meaning_is_noted() -> None:
    read, notes = command(r'"C:\llama\llama-server.exe" -m D:\gguf\a.gguf -c 0 --api-key secret')
    assert read == {"path": "a.gguf"}
    assert notes == [
        "put D:\\gguf\\a.gguf into the store as a.gguf, or give the folder of the store with --root",
        "-c 0 is left out; n_ctx keeps its default",
        "--api-key is left out: engines listen on loopback, and the gateway checks keys",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vllm serve org/model", "it runs vllm"),
        ("", "it runs nothing"),
        ("docker run llama-server", "it runs docker"),
        ("llama-server -hf org/model", "`yard pull`"),
        ("llama-server -c 5", "names no model file"),
        ("llama-server -m", "has no value"),
        ("llama-server -m a -c many", "is not a number"),
        ("llama-server -m 'a", "cannot be read"),
    ],
)
def test_an_unsupported_command_line_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(CannotImport, match=sentence):
        command(text)


SWAP = """
healthCheckTimeout: 300
globalTTL: 60
macros:
  server: llama-server --port ${PORT}
  ctx: 16384
models:
  qwen:
    cmd: |
      ${server}
      # a comment
      --model /srv/models/qwen.gguf -c ${ctx} -a ${MODEL_ID}
    aliases: [gpt-4o]
    env: ["CUDA_VISIBLE_DEVICES=0"]
    ttl: 0
    checkEndpoint: /health
    concurrencyLimit: 5
    filters: {stripParams: "temperature, top_p", setParams: {seed: 1}}
  plain:
    cmd: llama-server -m /srv/models/plain.gguf ${extra} --port ${PORT}
    macros: {extra: [-ngl, 99]}
  elsewhere:
    cmd: docker run --rm vllm
  lost:
    cmd: llama-server -m ${nowhere}
  round:
    cmd: llama-server ${a}
    macros: {a: "${b}", b: "${a}"}
  wrong: [1]
groups:
  big: {swap: true, members: [qwen]}
hooks:
  on_startup: {preload: [plain]}
"""


def test_llama_swap() -> None:
    found = read_foreign(Path("/etc/swap/config.yaml"), SWAP, Path("/srv/models"))
    assert found.specs == [
        ModelSpec(
            name="qwen",
            path="qwen.gguf",
            aliases=("qwen", "gpt-4o"),
            n_ctx=16384,
            env={"CUDA_VISIBLE_DEVICES": "0"},
            start_budget_s=300.0,
            parameters=ParameterPolicy(dropped=("temperature", "top_p"), forced={"seed": 1}),
        ),
        ModelSpec(
            name="plain",
            path="plain.gguf",
            args=("-ngl", "99"),
            ttl_s=60.0,
            start_budget_s=300.0,
            autostart=True,
        ),
    ]
    assert found.notes[0] == "qwen: concurrencyLimit not imported"
    assert found.notes[1].startswith("the group big is not imported")
    reasons = [sentence.split(": ", 1)[1] for sentence in found.refused]
    assert [sentence.split(" ")[0] for sentence in found.refused] == ["elsewhere", "lost", "round", "wrong"]
    assert reasons[0].startswith("it runs docker")
    assert reasons[1:3] == ["there is no macro ${nowhere}.", "its macros use each other in a circle."]


MANAGER: dict[str, Any] = {
    "program": {"host": "0.0.0.0", "port": 8080, "alive_time": 60, "TokenTracker": ["Chat"]},
    "Any-Key": {
        "aliases": ["primary", "other"],
        "mode": "Chat",
        "port": 10001,
        "auto_start": True,
        "RTX4060-V100": {
            "required_devices": ["rtx 4060", "v100"],
            "bat_path": "scripts\\dual.bat",
            "memory_mb": {"rtx 4060": 6144, "v100": 16000},
        },
        "CPU": {"required_devices": ["CPU"], "bat_path": "scripts/single.sh"},
    },
    "Lost": {
        "aliases": ["lost"],
        "mode": "Embedding",
        "p": {"required_devices": ["CPU"], "bat_path": "scripts/nowhere.bat"},
    },
    "Nameless": {"aliases": [], "mode": "Chat"},
    "Odd": {"aliases": ["odd"], "mode": "Song"},
    "Bare": {"aliases": ["bare"], "mode": "Base"},
    "Spaced": {
        "aliases": ["a b"],
        "mode": "Reranker",
        "p": {"required_devices": ["CPU"], "bat_path": "llama-server -m ../models/r.gguf"},
    },
    "Two": {
        "aliases": ["two"],
        "mode": "Base",
        "p": {"required_devices": ["v100"], "bat_path": "llama-server -m a.gguf"},
        "q": {"required_devices": ["CPU"], "bat_path": "llama-server -m b.gguf"},
    },
}


def test_llm_manager(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "dual.bat").write_text(
        "@echo off\ncd C:\\llama\nllama-server.exe -m ../models/big.gguf ^\n -c 32768 --port 10001 -ts 1,3\n"
    )
    (scripts / "single.sh").write_text("#!/bin/sh\nexec ./llama-server -m ../models/big.gguf -c 8192\n")
    text = msgspec.json.encode(MANAGER).decode()
    found = read_foreign(tmp_path / "config.json", text, tmp_path / "models")
    (spec,) = found.specs
    assert spec == ModelSpec(
        name="primary",
        path="big.gguf",
        aliases=("primary", "other"),
        ttl_s=3600.0,
        autostart=True,
        profiles=(
            Profile(
                name="RTX4060-V100",
                devices=(
                    DeviceNeed(device="rtx 4060", memory_mib=6144),
                    DeviceNeed(device="v100", memory_mib=16000),
                ),
                args=("-ts", "1,3"),
                n_ctx=32768,
            ),
            Profile(name="CPU", devices=(DeviceNeed(device="cpu"),), n_ctx=8192),
        ),
    )
    refusals = {sentence.split(" ")[0]: sentence for sentence in found.refused}
    assert refusals.keys() == {"Lost", "Nameless", "Odd", "Bare", "Spaced", "Two"}
    assert "'scripts/nowhere.bat' of its profile p does not exist" in refusals["Lost"]
    assert "no aliases" in refusals["Nameless"]
    assert "'Song' is not one of chat, base" in refusals["Odd"]
    assert "no profile" in refusals["Bare"]
    assert "'a b' is not a model name" in refusals["Spaced"]
    assert "different model files" in refusals["Two"]


DEPLOY: dict[str, Any] = {
    "_note": "mine",
    "qwen3.5": {
        "repo_id": "unsloth/Qwen-GGUF",
        "default_quant": "Q4",
        "chat_template_file": "templates/qwen.jinja",
        "mmproj": "mmproj-F16.gguf",
        "quants": {"Q4": {"pattern": "*Q4*", "size_gb": 214}},
        "alias": "unsloth/Qwen",
        "default_port": 8002,
        "params": {
            "temp": 0.6,
            "n_predict": 32768,
            "ctx_size": 262144,
            "max_concurrent": 2,
            "kv_budget_ratio": 0.5,
            "extra_args": ["--jinja", "--top-k", 20],
        },
    },
    "jina": {
        "type": "embedding",
        "repo_id": "jinaai/jina",
        "alias": "jina-v5",
        "params": {"dimensions": 1024, "default_task": "text-matching"},
    },
    "absent": {"repo_id": "org/absent", "default_quant": "Q8"},
    "other": {"type": "ollama", "repo_id": "x"},
    "speech": {"type": "asr", "repo_id": "x/y"},
    "odd": {"repo_id": "x/y", "params": [1]},
    "outside": {"repo_id": "x/y", "default_quant": "Q", "quants": {"Q": {"pattern": "/etc/*"}}},
}


def test_llm_deploy(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "unsloth-Qwen-GGUF" / "Q4"
    folder.mkdir(parents=True)
    for name in ("x-Q4-00002-of-00002.gguf", "x-Q4-00001-of-00002.gguf", "a-Q4-mmproj.gguf", "x-Q4.txt"):
        (folder / name).touch()
    text = msgspec.json.encode(DEPLOY).decode()
    found = read_foreign(tmp_path / "models.json", text, tmp_path / "models")
    assert found.specs == [
        ModelSpec(
            name="qwen3.5",
            path="unsloth-Qwen-GGUF/Q4/x-Q4-00001-of-00002.gguf",
            aliases=("unsloth/Qwen",),
            mmproj="unsloth-Qwen-GGUF/mmproj-F16.gguf",
            chat_template="qwen.jinja",
            n_ctx=262144,
            n_parallel=2,
            args=("--top-k", "20"),
            parameters=ParameterPolicy(defaults={"temperature": 0.6, "max_tokens": 32768}),
        ),
        ModelSpec(
            name="jina",
            path="jinaai-jina",
            aliases=("jina-v5",),
            mode=Mode.EMBEDDING,
            engine="sentence-transformers",
            embedding=EmbeddingOptions(task="text-matching", dimensions=1024),
        ),
    ]
    assert found.notes[0] == "qwen3.5: params kv_budget_ratio not imported"
    assert [sentence.split(" ")[0] for sentence in found.refused] == [
        *("absent", "other", "speech", "odd", "outside")
    ]
    assert "`yard pull org/absent:Q8`" in found.refused[0]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "{", "cannot be understood"),
        ("a.json", "[]", "cannot be understood"),
        ("a.json", '{"a": 1}', "neither"),
        ("a.yaml", "a: [", "cannot be understood"),
        ("a.yml", "Local-Models: {}", "no `models:`"),
        ("a.yml", "models: {}\nhooks: [1]", "not in the format of its program"),
        ("a.json", '{"program": {"alive_time": "long"}}', "not in the format of its program"),
    ],
)
def test_a_file_of_an_unknown_program_is_refused(name: str, text: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        read_foreign(Path(name), text, Path("/srv/models"))


def test_llama_swap_with_other_programs_and_groups() -> None:
    config = """
macros: {bin: "vllm serve", deep: "${more}${more}", more: "${deep}"}
models:
  docker:
    cmd: |
      A=1 docker run --init --rm -p ${PORT}:8080 img --model /m.gguf
      --json '{"a": {b}}'
    checkEndpoint: /ready
  v: {cmd: "${bin} org/x --port ${PORT}", checkEndpoint: none, ttl: 5}
  fixed: {cmd: vllm serve org/x --port 9000}
  round: {cmd: "${deep}"}
groups:
  my group: {members: [docker, v]}
  "always": {swap: false, persistent: true, members: [docker, v]}
"""
    found = read_foreign(Path("/etc/swap/config.yaml"), config, Path("/srv/models"))
    docker, v = found.specs
    assert (docker.engine, docker.health_path, docker.env) == ("command", "/ready", {"A": "1"})
    assert docker.args[:5] == ("docker", "run", "--init", "--rm", "-p")
    assert docker.args[5:] == ("{port}:8080", "img", "--model", "/m.gguf", "--json", '{"a": {{b}}}')
    assert v.args == ("vllm", "serve", "org/x", "--port", "{port}")
    assert (v.health_path, v.ttl_s) == ("/health", 5.0)
    assert "it runs vllm, and passes it no ${PORT}" in found.refused[0]
    assert "macros" in found.refused[1]
    assert any("`yard group 'my group' --apart docker v`" in note for note in found.notes)
    assert any("the group always is not imported: the yard plans" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"program":' + '{"a":' * 50_000),
        ("a.json", '{"program":{"x":' + "[" * 700 + "]" * 700 + '},"m":1}'),
        ("a.yaml", "models: " + "[" * 3000 + "]" * 3000),
        ("a.yaml", "models: {a: {cmd: x, filters: {setParams: {a: " + "[" * 300 + "]" * 300 + "}}}}"),
    ],
)
def test_a_deeply_nested_file_is_refused_with_a_sentence(name: str, text: str) -> None:
    try:
        found = read_foreign(Path(name), text, Path("/srv/models"))
    except BadRequest:
        return
    assert found.specs == []


def test_exploding_macros_are_refused() -> None:
    macros = {f"m{n}": f"${{m{n + 1}}}" * 10 for n in range(9)} | {"m9": "x" * 1000}
    config = {"macros": macros, "models": {"a": {"cmd": "${m0}"}}}
    text = msgspec.yaml.encode(config).decode()
    found = read_foreign(Path("a.yaml"), text, Path("/srv/models"))
    assert "far too long" in found.refused[0]
