"""Where a model fits by the devices and engines of each node, and the sentence about it."""

import pytest

from schemas.base import Format
from schemas.hub import Fit
from schemas.instances import EngineOffer, Node
from schemas.models import Mode
from schemas.placement import NodeDevice
from services.downloader.register.fit import FitQuery, fits

GIB = 1024**3
MUCH, SOME = "32k tokens of context", "16k tokens of context"
IN_MEMORY = f"fits in the main memory of node a with {SOME}, on the CPU"
NOT = "node a has 64.0 GiB for models: it does not fit"
CPU, GPU, BOTH = ("cpu",), ("g1",), ("g1", "g2")


def node(engines: str = "llama.cpp", name: str = "a", **memory_gib: int) -> Node:
    devices = tuple(
        NodeDevice(device=device, name="Card" if device != "cpu" else "main memory", memory_bytes=size * GIB)
        for device, size in memory_gib.items()
    )
    usable = engines.split()
    offers = tuple(
        EngineOffer(engine=engine, problem=None if engine in usable else f"No {engine}.")
        for engine in ("llama.cpp", "embedded", "vllm", "sentence-transformers")
    )
    return Node(node=name, version="1", started_at=0.0, engines=offers, devices=devices)


def wanted(gib: float, format_: Format = Format.GGUF, mode: Mode = Mode.CHAT) -> FitQuery:
    """A model that takes so much, whatever the context, shared evenly by its devices."""
    size = int(gib * GIB)
    return FitQuery(format_, mode, lambda _, devices: dict.fromkeys(devices, size // len(devices)), 131_072)


def fit(gib: float, one: Node, format_: Format = Format.GGUF, mode: Mode = Mode.CHAT) -> Fit:
    return fits(wanted(gib, format_, mode), [one])[0]


@pytest.mark.parametrize(
    ("gib", "one", "devices", "sentence"),
    [
        (4, node(g1=8, cpu=64), GPU, "fits on Card of node a with 32k tokens of context"),
        (4, node(g1=8, g2=2, cpu=64), GPU, "fits on Card (g1) of node a with 32k tokens of context"),
        (10, node(g1=8, g2=8, cpu=64), BOTH, f"fits on the 2 GPUs of node a together with {MUCH}"),
        (
            *(20, node(g1=8, g2=8, cpu=64), CPU),
            f"needs 20.0 GiB, the largest GPU of node a has 8.0 GiB; would run on the CPU with {SOME}",
        ),
        (4, node(cpu=64), CPU, IN_MEMORY),
        (4, node("embedded", g1=8, cpu=64), CPU, IN_MEMORY),
        (90, node(g1=8, cpu=64), (), f"needs at least 90.0 GiB, and {NOT}"),
        (
            4,
            node("vllm", cpu=64),
            (),
            "cannot run on node a: llama.cpp: No llama.cpp. embedded: No embedded.",
        ),
        (4, node(), (), "cannot run on node a: it has not reported its memory yet"),
    ],
)
def test_where_a_gguf_model_fits(gib: float, one: Node, devices: tuple[str, ...], sentence: str) -> None:
    result = fit(gib, one)
    assert (result.devices, result.sentence) == (devices, sentence)


@pytest.mark.parametrize(
    ("mode", "one", "devices", "words"),
    [
        (Mode.CHAT, node("vllm", g1=8, cpu=64), GPU, "fits on Card"),
        (Mode.CHAT, node("vllm", cpu=64), (), "no GPU for vLLM"),
        (Mode.CHAT, node("sentence-transformers", g1=8, cpu=64), (), "No vllm."),
        (Mode.EMBEDDING, node("sentence-transformers", cpu=64), CPU, "with 8k tokens"),
        (Mode.EMBEDDING, node("sentence-transformers", g1=2, g2=2, cpu=64), CPU, "would run on the CPU"),
        (Mode.RERANK, node("vllm", g1=8, cpu=64), GPU, "fits on Card"),
        (Mode.RERANK, node("llama.cpp", cpu=64), (), "No vllm. sentence-transformers: No"),
    ],
)
def test_where_a_safetensors_model_fits(mode: Mode, one: Node, devices: tuple[str, ...], words: str) -> None:
    result = fit(4, one, Format.SAFETENSORS, mode)
    assert result.devices == devices
    assert words in result.sentence


def test_the_best_node_comes_first() -> None:
    nodes = [
        node(name="full", cpu=2),
        node(name="cpu", cpu=64),
        node(name="pair", g1=3, g2=3, cpu=64),
        node(name="gpu", g1=8, cpu=64),
    ]
    assert [fitting.node for fitting in fits(wanted(4), nodes)] == ["gpu", "pair", "cpu", "full"]
    assert fits(wanted(4), []) == ()


def test_less_room_means_less_context() -> None:
    def requirements(n_ctx: int, devices: object) -> dict[str, int]:
        return {"g1": n_ctx * GIB // 4096, "cpu": GIB}

    def n_ctx(requested: int | None, gpu: int) -> int | None:
        one = FitQuery(Format.GGUF, Mode.CHAT, requirements, 131_072, requested)
        return fits(one, [node(g1=gpu, cpu=1)])[0].n_ctx

    assert [n_ctx(None, gpu) for gpu in (9, 8, 3, 1)] == [32_768, 32_768, 8_192, 4_096]
    assert [n_ctx(2_048, gpu) for gpu in (9, 1)] == [2_048, 2_048]
