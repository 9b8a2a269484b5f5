"""Offers of the hub and the nodes that fit them, queried over the wire."""

from collections.abc import AsyncIterator

import pytest

from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Format
from schemas.errors import YardError
from schemas.hub import GetOffer, Offer, OfferedChoice, SearchHub
from schemas.models import Mode, ModelSource
from schemas.registry import PutModel
from tests.gguf_bytes import head, text
from tests.hub import About, Hub
from tests.hub_files import HubRepo
from tests.integration.hub_yard import GIB, hub_yard, node, point_at
from tests.models_8b import front_8b, front_8b_f16
from tests.support import Yard

REPO = "org/big-GGUF"
MIB = 1024 * 1024
NODES = (
    node("giant", ("GPU-1", 80 * GIB), ("cpu", 256 * GIB), engines=("llama.cpp", "sentence-transformers")),
    node("small", ("GPU-2", 8 * GIB), ("cpu", 64 * GIB)),
    node("tiny", ("cpu", 2 * GIB), engines=("embedded",)),
)


def add(hub: Hub, repo: str, files: dict[str, tuple[bytes, int]], **more: object) -> HubRepo:
    """Files of which the hub has the first bytes only, listed with the given size."""
    fronts = {path: front + bytes(len(front) + 2 * MIB) for path, (front, _) in files.items()}
    added = hub.add_repo(repo, fronts, **more)  # type: ignore[arg-type]
    for path, (_, size_bytes) in files.items():
        added.files[path].size_bytes = size_bytes
    return added


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(token="hf_good") as hub:
        yield hub


@pytest.fixture
async def asking(
    yard: Yard, settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bus]:
    point_at(monkeypatch, hub)
    async with hub_yard(yard, settings, *NODES):
        yield await yard.bus()


async def offer(bus: Bus, reference: str = REPO, n_ctx: int | None = None) -> Offer:
    return await bus.call(subjects.HUB_OFFER, GetOffer(reference=reference, n_ctx=n_ctx))


def sentences(offered: OfferedChoice) -> dict[str, str]:
    return {fit.node: fit.sentence for fit in offered.fits}


async def test_quants_are_offered_with_sizes_and_fits(asking: Bus, hub: Hub) -> None:
    front, size = front_8b()
    repo = add(
        hub,
        REPO,
        {
            "m-Q4_K_M.gguf": (front, size),
            "m-BF16-00001-of-00002.gguf": front_8b_f16(),
            "m-BF16-00002-of-00002.gguf": (b"", 3 * GIB),
            "mmproj-F32.gguf": (b"x", 2 * GIB),
            "mmproj-F16.gguf": (b"x", GIB),
            "README.md": (b"#", 1),
        },
        about=About(task="image-text-to-text", tags=("gguf", "license:mit"), downloads=7, likes=3),
    )
    offered = await offer(asking)
    assert offered.choices[0].size_bytes == size
    assert [choice.label for choice in offered.choices] == ["Q4_K_M", "BF16"]
    assert [choice.is_default for choice in offered.choices] == [True, False]
    assert len(offered.choices[1].files) == 2
    assert [file.path for file in offered.mmprojs] == ["mmproj-F16.gguf", "mmproj-F32.gguf"]
    assert (offered.architecture, offered.mode, offered.n_ctx_train) == ("llama", Mode.CHAT, 131_072)
    assert (offered.license, offered.likes, offered.revision) == ("mit", 3, repo.sha)
    assert offered.problem is None
    fitting = sentences(offered.choices[0])
    assert fitting["giant"] == "fits on GPU-1 of node giant with 32k tokens of context"
    assert fitting["small"] == "fits on GPU-2 of node small with 8k tokens of context"
    assert fitting["tiny"].startswith("needs at least 6.")
    assert fitting["tiny"].endswith("node tiny has 2.0 GiB for models: it does not fit")
    assert offered.choices[0].fits[0].node == "giant"
    large = sentences(offered.choices[1])
    assert large["small"].startswith("needs ")
    assert "the largest GPU of node small has 8.0 GiB; would run on the CPU with" in large["small"]


async def test_only_the_header_of_a_large_file_is_read(asking: Bus, hub: Hub) -> None:
    front, size = front_8b()
    add(hub, REPO, {"m-Q4_K_M.gguf": (front, size), "m-Q8_0.gguf": (b"GGUF", 8 * GIB)})
    assert (await offer(asking)).choices[0].fits
    read, other = hub.file(REPO, "m-Q4_K_M.gguf"), hub.file(REPO, "m-Q8_0.gguf")
    assert size > 4 * GIB
    assert len(front) <= read.bytes_sent <= 2 * len(front) + MIB
    assert other.requests == 0
    # A commit never changes, so neither does a header.
    requests = read.requests
    await offer(asking)
    assert read.requests == requests


async def test_the_requested_context_is_estimated(asking: Bus, hub: Hub) -> None:
    add(hub, REPO, {"m-Q4_K_M.gguf": front_8b()})
    (choice,) = (await offer(asking, n_ctx=131_072)).choices
    assert sentences(choice)["giant"] == "fits on GPU-1 of node giant with 128k tokens of context"
    assert "would run on the CPU with 128k" in sentences(choice)["small"]


HOSTILE = {
    "no GGUF": b"<html>" * 100,
    "an endless string": head(0, 1) + text("general.architecture") + b"\x08\0\0\0" + b"\xff" * 8,
    "a string beyond every header": head(0, 1) + text("k") + b"\x08\0\0\0" + (GIB).to_bytes(8, "little"),
    "too many tensors": head(2**60, 1) + text("k"),
    "an unknown type": head(0, 1) + text("general.architecture") + b"\x63\0\0\0" * 4,
    "no architecture": head(0, 1) + text("k") + b"\x04\0\0\0" + b"\1\0\0\0",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
async def test_an_invalid_header_costs_few_bytes_and_is_a_problem(
    asking: Bus, hub: Hub, content: bytes
) -> None:
    add(hub, REPO, {"m-Q4_K_M.gguf": (content, 4 * GIB)})
    offered = await offer(asking)
    assert offered.problem is not None
    assert offered.problem.startswith("m-Q4_K_M.gguf cannot be read: ")
    assert offered.choices[0].fits == ()
    assert hub.file(REPO, "m-Q4_K_M.gguf").bytes_sent <= 3 * MIB


async def test_an_offer_marks_stored_files_and_registered_models(
    asking: Bus, hub: Hub, settings: Settings
) -> None:
    front, size = front_8b(n_tokens=10)
    hub.add_repo(REPO, {"m-Q4_K_M.gguf": b"GGUF1"})
    add(hub, "org/other-GGUF", {"m-Q8_0.gguf": (front, size)})
    path = settings.models / REPO / "m-Q4_K_M.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF1")
    source = ModelSource(repo=REPO, revision="0" * 40)
    put = PutModel(name="mine", path=f"{REPO}/m-Q4_K_M.gguf", source=source)
    await asking.call(subjects.MODEL_PUT, put)
    (choice,) = (await offer(asking)).choices
    assert (choice.is_here, choice.models) == (True, ("mine",))
    (other,) = (await offer(asking, "org/other-GGUF")).choices
    assert (other.is_here, other.models) == (False, ())
    offered = await asking.call(subjects.HUB_SEARCH, SearchHub(words="gguf"))
    assert {model.repo: model.models for model in offered.models} == {REPO: ("mine",), "org/other-GGUF": ()}


async def test_a_folder_of_safetensors_is_offered_for_its_engine(asking: Bus, hub: Hub) -> None:
    files = {
        "config.json": b'{"architectures":["BertModel"],"max_position_embeddings":512}',
        "modules.json": b'[{"type":"sentence_transformers.models.Transformer"}]',
        "model.safetensors": b"x" * 1000,
        "pytorch_model.bin": b"x" * 1000,
    }
    hub.add_repo("org/vectors", files, about=About(tags=("safetensors",)))
    offered = await offer(asking, "org/vectors")
    (choice,) = offered.choices
    assert (choice.format, choice.reference, offered.mode) == (
        Format.SAFETENSORS,
        "org/vectors",
        Mode.EMBEDDING,
    )
    assert "pytorch_model.bin" not in [file.path for file in choice.files]
    fitting = sentences(choice)
    assert fitting["giant"] == "fits on GPU-1 of node giant with 512 tokens of context"
    assert fitting["small"] == ("cannot run on node small: it has no engine sentence-transformers or vllm")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"#"}, "no .gguf and no .safetensors"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "pickle"),
        ({"model.safetensors": b"x"}, "no config.json"),
        ({"model_index.json": b"{}", "unet.safetensors": b"x"}, "images"),
        ({"adapter_config.json": b"{}", "model.safetensors": b"x"}, "adapter"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "adapter"),
    ],
)
async def test_an_unusable_repository_is_an_offer_with_a_problem(
    asking: Bus, hub: Hub, files: dict[str, bytes], words: str
) -> None:
    hub.add_repo("org/odd", files)
    offered = await offer(asking, "org/odd")
    assert offered.choices == ()
    assert words in (offered.problem or "")


async def test_a_gated_repository_shows_its_quants_and_how_to_get_access(asking: Bus, hub: Hub) -> None:
    add(hub, REPO, {"m-Q4_K_M.gguf": front_8b(n_tokens=10)}, gated=True)
    offered = await offer(asking)
    assert offered.gated
    assert offered.choices[0].label == "Q4_K_M"
    assert f"accept its terms at {hub.url}/{REPO}" in (offered.problem or "")
    assert "HF_TOKEN" in (offered.problem or "")


async def refused(asking: Bus, reference: str) -> str:
    with pytest.raises(YardError) as caught:
        await offer(asking, reference)
    assert caught.value.message.endswith(".")
    return caught.value.code


async def test_refusals_of_the_hub_have_codes(asking: Bus, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, REPO, {"m-Q4_K_M.gguf": front_8b(n_tokens=10)})
    assert await refused(asking, "nonsense") == "bad_request"
    assert await refused(asking, "org/nowhere") == "repo_not_found"
    assert await refused(asking, f"{REPO}@v9") == "revision_not_found"
    hub.add_repo("org/down", {}, about=About(disabled=True))
    assert await refused(asking, "org/down") == "repo_disabled"
    hub.api_statuses, hub.api_retry_after = [429, 429], "90"
    assert await refused(asking, REPO) == "hub_rate_limited"
    hub.api_statuses = [401]
    hub.api_retry_after = None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert await refused(asking, REPO) == "hub_offline"


async def test_search_results_have_mode_formats_and_counts(asking: Bus, hub: Hub) -> None:
    about = About(task="text-generation", tags=("gguf", "license:mit"), downloads=4, likes=2, n_params=5)
    hub.add_repo("org/llama-GGUF", {}, about=about, gated=True)
    (model,) = (await asking.call(subjects.HUB_SEARCH, SearchHub(words="llama"))).models
    assert (model.mode, model.formats, model.license, model.gated) == (Mode.CHAT, (Format.GGUF,), "mit", True)
    assert (model.downloads, model.likes, model.n_params) == (4, 2, 5)
    assert model.updated_at == model.created_at == 1_767_225_600
