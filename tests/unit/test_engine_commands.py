"""The command and environment of each engine, for every placement."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from modelyard.host.settings import Settings, load
from modelyard.plugins import (
    EngineProblem,
    ModelFiles,
    ServerCommand,
    engine_environment,
    minimal_environment,
)
from schemas.base import Format
from schemas.instances import PlacedDevice, Placement
from schemas.models import Mode, ModelSpec
from schemas.placement import WorkerPlacement
from schemas.profiles import EmbeddingOptions, Lora
from services.supervisor.engines.command import CommandEngine
from services.supervisor.engines.embedded import EmbeddedEngine, EmbeddedServerOptions
from services.supervisor.engines.llama_cpp import LlamaCppEngine, listening_port
from services.supervisor.engines.sentence_transformers import (
    SentenceServerOptions,
    SentenceTransformersEngine,
)
from services.supervisor.engines.vllm import VllmEngine, memory_share

FILES = ModelFiles(model=Path("/store/m.gguf"))
ANYWHERE = Placement()
ON_CPU = Placement(devices=(PlacedDevice(device="cpu", memory_mib=100),))
ONE_GPU = Placement(devices=(PlacedDevice(device="GPU-b", memory_mib=6000, total_mib=24000),))
TWO_GPUS = Placement(
    devices=(
        PlacedDevice(device="GPU-b", memory_mib=6000, total_mib=24000),
        PlacedDevice(device="GPU-a", memory_mib=18000, total_mib=24000),
    )
)
SHARED = Placement(devices=(PlacedDevice(device="GPU-b"), PlacedDevice(device="cpu")))
WORKERS = (
    WorkerPlacement(node="b", device="cpu", memory_bytes=1),
    WorkerPlacement(node="c", device="cpu", memory_bytes=1),
)
SPREAD_CPU = Placement(
    devices=(PlacedDevice(device="cpu"),),
    workers=WORKERS,
    split=(3, 2, 4),
    rpc=("127.0.0.1:1", "127.0.0.1:2"),
)
SPREAD_GPU = msgspec.structs.replace(SPREAD_CPU, devices=(PlacedDevice(device="GPU-b"),))
UNSHARED = Placement(devices=(PlacedDevice(device="GPU-b"), PlacedDevice(device="GPU-a")))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """`/bin/sh` in place of programs that are only looked up."""
    return load({"YARD_HOME": str(tmp_path), "YARD_LLAMA_SERVER": "/bin/sh", "YARD_VLLM": "/bin/sh"})


def after(argv: tuple[str, ...], flag: str) -> str | None:
    return argv[argv.index(flag) + 1] if flag in argv else None


@pytest.mark.parametrize(
    ("placement", "visible", "layers", "split"),
    [
        (ANYWHERE, None, None, None),
        (ON_CPU, "", "0", None),
        (ONE_GPU, "GPU-b", "999", None),
        (TWO_GPUS, "GPU-b,GPU-a", "999", "6000,18000"),
        (UNSHARED, "GPU-b,GPU-a", "999", None),
        (SHARED, "GPU-b", None, None),
        (SPREAD_CPU, "", "5", "3,2"),
        (SPREAD_GPU, "GPU-b", "999", "3,2,4"),
    ],
    ids=[
        "anywhere",
        "cpu",
        "gpu",
        "two gpus",
        "two gpus without shares",
        "gpu and cpu",
        "cpu and workers",
        "gpu and workers",
    ],
)
def test_llama_cpp_gets_its_devices_by_uuid(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    placement: Placement,
    visible: str | None,
    layers: str | None,
    split: str | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = LlamaCppEngine().command(ModelSpec(name="m", path="m.gguf"), FILES, placement, 0, settings)
    assert command.env.get("CUDA_VISIBLE_DEVICES") == visible
    assert command.env.get("CUDA_DEVICE_ORDER") == (None if visible is None else "PCI_BUS_ID")
    assert after(command.argv, "--n-gpu-layers") == layers
    assert after(command.argv, "--tensor-split") == split
    assert (after(command.argv, "--host"), after(command.argv, "--port")) == ("127.0.0.1", "0")


def test_llama_cpp_finds_its_workers_on_loopback(settings: Settings) -> None:
    spec = ModelSpec(name="m", path="m.gguf")
    spread = LlamaCppEngine().command(spec, FILES, SPREAD_CPU, 0, settings).argv
    assert after(spread, "--rpc") == "127.0.0.1:1,127.0.0.1:2"
    assert after(spread, "--fit") == "off", "it would query the memory of each worker"
    unspread = LlamaCppEngine().command(spec, FILES, ON_CPU, 0, settings).argv
    assert {"--rpc", "--fit"}.isdisjoint(unspread)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": Mode.EMBEDDING}, ["--embedding"]),
        ({"mode": Mode.RERANK}, ["--reranking"]),
        ({"cache_type": "q8_0"}, ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]),
        ({"args": ("--flash-attn", "on")}, ["--flash-attn", "on"]),
        ({"mmproj": "p"}, ["--mmproj", "/store/p"]),
        ({"chat_template": "t"}, ["--chat-template-file", "/store/t"]),
        ({"loras": (Lora(path="a"), Lora(path="b"))}, ["--lora", "/store/a,/store/b"]),
        (
            {"loras": (Lora(path="a"), Lora(path="b", scale=0.5))},
            ["--lora-scaled", "/store/a:1.0,/store/b:0.5"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_llama_cpp_gets_the_options_of_the_model(
    settings: Settings, changes: dict[str, object], expected: list[str]
) -> None:
    spec = msgspec.structs.replace(ModelSpec(name="m", path="m.gguf"), **changes)
    plain = LlamaCppEngine().command(ModelSpec(name="m", path="m.gguf"), FILES, ANYWHERE, 0, settings).argv
    files = ModelFiles(
        model=FILES.model,
        mmproj=Path("/store/p") if spec.mmproj else None,
        chat_template=Path("/store/t") if spec.chat_template else None,
        loras=tuple(Path("/store") / lora.path for lora in spec.loras),
    )
    argv = LlamaCppEngine().command(spec, files, ANYWHERE, 0, settings).argv
    at = argv.index(expected[0])
    assert list(argv[at : at + 2]) == expected[:2]
    assert sorted(argv) == sorted([*plain, *expected])


def test_llama_cpp_refuses_an_adapter_with_a_separator_in_its_name(settings: Settings) -> None:
    spec = ModelSpec(name="m", path="m.gguf", loras=(Lora(path="a,b"),))
    files = ModelFiles(model=FILES.model, loras=(Path("/store/a,b"),))
    with pytest.raises(EngineProblem, match="rename it"):
        LlamaCppEngine().command(spec, files, ANYWHERE, 0, settings)


def test_the_port_of_llama_cpp_is_in_its_log() -> None:
    assert listening_port("main: server is listening on http://127.0.0.1:41233 - starting") == 41233
    assert listening_port("main: loading") is None


def test_the_embedded_engine_gets_the_same_options(settings: Settings) -> None:
    spec = ModelSpec(name="m", path="m.gguf", cache_type="q8_0", loras=(Lora(path="a", scale=0.5),))
    files = ModelFiles(model=FILES.model, chat_template=Path("/store/t"), loras=(Path("/store/a"),))
    argv = EmbeddedEngine().command(spec, files, TWO_GPUS, 0, settings).argv
    assert argv[:3] == (sys.executable, "-m", "services.supervisor.engines.embedded")
    assert msgspec.json.decode(argv[3], type=EmbeddedServerOptions) == EmbeddedServerOptions(
        model="/store/m.gguf",
        alias="m",
        mode=Mode.CHAT,
        n_parallel=4,
        n_ctx=8192,
        chat_template="/store/t",
        loras=(("/store/a", 0.5),),
        cache_type="q8_0",
        n_gpu_layers=999,
        tensor_split=(6000, 18000),
    )


@pytest.mark.parametrize(
    ("placement", "visible", "tensors", "share"),
    [
        (ANYWHERE, None, None, None),
        (ONE_GPU, "GPU-b", None, "0.25"),
        (TWO_GPUS, "GPU-b,GPU-a", "2", "0.25"),
        (UNSHARED, "GPU-b,GPU-a", "2", None),
    ],
    ids=["anywhere", "gpu", "two gpus", "two gpus without memory"],
)
def test_vllm_gets_its_devices_and_limits_from_the_placement(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    placement: Placement,
    visible: str | None,
    tensors: str | None,
    share: str | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = ModelSpec(name="org/m", path="m", aliases=("first",), n_parallel=8, args=("--dtype", "half"))
    command = VllmEngine().command(spec, ModelFiles(model=settings.models / "m"), placement, 21234, settings)
    argv = command.argv
    assert argv[:3] == ("/bin/sh", "serve", str(settings.models / "m"))
    assert argv[argv.index("--served-model-name") + 1 :][:2] == ("org/m", "first")
    assert (after(argv, "--host"), after(argv, "--port")) == ("127.0.0.1", "21234")
    assert (after(argv, "--max-num-seqs"), after(argv, "--max-model-len")) == ("8", "8192")
    assert after(argv, "--tensor-parallel-size") == tensors
    assert after(argv, "--gpu-memory-utilization") == share
    assert "--runner" not in argv
    assert "--trust-remote-code" not in argv
    assert argv[-2:] == ("--dtype", "half")
    assert command.env.get("CUDA_VISIBLE_DEVICES") == visible
    assert (command.env["HF_HUB_OFFLINE"], command.env["TRANSFORMERS_OFFLINE"]) == ("1", "1")


@pytest.mark.parametrize("mode", [Mode.EMBEDDING, Mode.RERANK])
def test_vllm_uses_the_pooling_runner_for_embeddings_and_scores(settings: Settings, mode: Mode) -> None:
    spec = ModelSpec(name="m", path="m", mode=mode)
    argv = VllmEngine().command(spec, ModelFiles(model=settings.models / "m"), ONE_GPU, 1, settings).argv
    assert after(argv, "--runner") == "pooling"


@pytest.mark.parametrize(
    ("name", "content", "tokens"),
    [
        ("config.json", {"max_position_embeddings": 512}, "512"),
        ("config.json", {"text_config": {"max_position_embeddings": 1024}}, "1024"),
        ("config.json", {"max_position_embeddings": 131072}, "8192"),
        ("sentence_bert_config.json", {"max_seq_length": 256}, "256"),
        ("tokenizer_config.json", {"model_max_length": 1e30}, "8192"),
        ("config.json", "nonsense", "8192"),
    ],
)
def test_vllm_gets_no_longer_context_than_the_trained_one(
    settings: Settings, tmp_path: Path, name: str, content: object, tokens: str
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    argv = (
        VllmEngine()
        .command(ModelSpec(name="m", path="m"), ModelFiles(model=tmp_path), ONE_GPU, 1, settings)
        .argv
    )
    assert after(argv, "--max-model-len") == tokens


def test_vllm_uses_the_smallest_share_for_all_gpus() -> None:
    two = (
        PlacedDevice(device="a", memory_mib=20000, total_mib=24000),
        PlacedDevice(device="b", memory_mib=8001, total_mib=24000),
    )
    assert memory_share(Placement(devices=two)) == 0.333
    assert memory_share(Placement(devices=(PlacedDevice(device="a", memory_mib=9, total_mib=3),))) == 1.0


@pytest.mark.parametrize(("placement", "device"), [(ON_CPU, "cpu"), (ONE_GPU, None), (ANYWHERE, None)])
def test_sentence_transformers_gets_its_options(
    settings: Settings, placement: Placement, device: str | None
) -> None:
    embedding = EmbeddingOptions(task="query", dimensions=64)
    spec = ModelSpec(name="m", path="m", mode=Mode.EMBEDDING, embedding=embedding)
    command = SentenceTransformersEngine().command(
        spec, ModelFiles(model=Path("/store/m")), placement, 0, settings
    )
    assert msgspec.json.decode(command.argv[3], type=SentenceServerOptions) == SentenceServerOptions(
        model="/store/m", name="m", mode=Mode.EMBEDDING, device=device, embedding=embedding
    )
    assert command.env["HF_HUB_OFFLINE"] == "1"


def started(settings: Settings, *args: str, **env: str) -> ServerCommand:
    spec = ModelSpec(name="org/m", path="m", engine="command", n_ctx=2048, args=args, env=env)
    return CommandEngine().command(spec, ModelFiles(model=Path("/store/m")), ONE_GPU, 21234, settings)


def test_placeholders_of_a_command_are_filled_in_without_a_shell(settings: Settings) -> None:
    command = started(
        settings, "sh", "--port={port}", "{model}", "{name}; rm -rf {n_ctx}", '{"a":{}}', "{{x}}"
    )
    assert Path(command.argv[0]).is_absolute()
    assert command.argv[1:] == ("--port=21234", "/store/m", "org/m; rm -rf 2048", '{"a":{}}', "{x}")
    assert started(settings, "sh", PORT="{port}").env["PORT"] == "21234"
    assert started(settings, "sh", "{devices}").argv[1] == "GPU-b"
    assert started(settings, "sh", CUDA_VISIBLE_DEVICES="7").env["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_a_command_with_an_unknown_placeholder_or_program_is_refused(settings: Settings) -> None:
    with pytest.raises(EngineProblem, match=r"no placeholder \{prot\}; there are \{port\}, \{model\}"):
        started(settings, "sh", "{prot}")
    with pytest.raises(EngineProblem, match="no program surely-not-there"):
        started(settings, "surely-not-there", "{port}")


@pytest.mark.parametrize(("args", "reason"), [((), "give m a program"), (("sh",), r"write \{port\}")])
def test_a_command_without_a_port_placeholder_is_refused(args: tuple[str, ...], reason: str) -> None:
    refusal = CommandEngine().refusal(ModelSpec(name="m", path="m", args=args), Format.GGUF)
    assert refusal is not None
    assert reason.replace("\\", "") in refusal


def test_no_secret_is_passed_to_an_engine() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_TOKEN": "x",
        "YARD_HOME": "/y",
        "LLAMA_API_KEY": "x",
        "VLLM_API_KEY": "x",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }
    assert minimal_environment(environ).keys() == {
        "PATH",
        "LC_ALL",
        "CUDA_VISIBLE_DEVICES",
        "VLLM_LOGGING_LEVEL",
        "GOMP_SPINCOUNT",
        "GGML_NO_BACKTRACE",
    }


def test_engine_threads_spin_briefly_unless_configured() -> None:
    assert minimal_environment({})["GOMP_SPINCOUNT"] == "1000"
    assert minimal_environment({"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"
    assert "GOMP_SPINCOUNT" not in minimal_environment({"OMP_WAIT_POLICY": "active"})


def test_the_environment_of_the_model_overrides_ours_and_the_placement_overrides_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    spec = ModelSpec(name="m", path="m", env={"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "2"})
    assert engine_environment(spec, ANYWHERE)["CUDA_VISIBLE_DEVICES"] == "3"
    assert engine_environment(spec, ON_CPU)["CUDA_VISIBLE_DEVICES"] == ""
    assert engine_environment(spec, ON_CPU)["OMP_NUM_THREADS"] == "2"


def test_a_placement_is_applied_to_the_model() -> None:
    spec = ModelSpec(name="m", path="m", args=("-a",), env={"A": "1", "B": "1"}, n_ctx=4096)
    small = Placement(n_ctx=1024, n_parallel=1, args=("-b",), env={"B": "2"})
    placed = small.applied_to(spec)
    assert (placed.n_ctx, placed.n_parallel, placed.args) == (1024, 1, ("-a", "-b"))
    assert placed.env == {"A": "1", "B": "2"}
    assert ANYWHERE.applied_to(spec) == spec


def test_a_port_in_doubled_braces_is_literal() -> None:
    """It counted as the port, and the program got the text `{port}`."""
    literal = ModelSpec(name="m", path="none", engine="command", args=("sh", "{{port}}"))
    assert "chooses the port" in (CommandEngine().refusal(literal, Format.GGUF) or "")
