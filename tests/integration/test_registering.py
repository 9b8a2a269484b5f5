"""Files become models, after a download and on request; fields set before stay."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.files.tinymodels import write_embedder, write_reciter, write_reranker
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download, DownloadState, StartDownload
from schemas.errors import Conflict, ModelNotFound, UnreadableModel, YardError
from schemas.hub import Choice
from schemas.library import FindOnNode
from schemas.models import Mode, ModelRef, ModelSpec
from schemas.registry import ModelOverrides, PatchModel, PutModel, Registered, RegisterFiles, RenameModel
from tests.commands import refusal_code, run_command
from tests.hub import About, Hub
from tests.integration.hub_yard import GIB, hub_yard, node, point_at
from tests.support import Yard

REPO = "tiny/chat-GGUF"
PATH = f"{REPO}/chat-Q8_0.gguf"


@pytest.fixture
async def hub(settings: Settings) -> AsyncIterator[Hub]:
    file = settings.home / "chat.gguf"
    write_reciter(file, "Hello from the hub.")
    async with Hub() as hub:
        files = {"chat-Q8_0.gguf": file, "chat-Q4_0.gguf": file, "mmproj-F16.gguf": b"GGUF" * 20}
        hub.add_repo(REPO, files, about=About(task="text-generation"))
        hub.add_repo("other/chat-GGUF", {"chat-Q8_0.gguf": file})
        yield hub


@pytest.fixture
async def asking(
    yard: Yard, settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bus]:
    point_at(monkeypatch, hub)
    async with hub_yard(yard, settings, node("giant", ("GPU-1", 80 * GIB), ("cpu", 256 * GIB))):
        yield await yard.bus()


async def pull(bus: Bus, reference: str, **more: object) -> Download:
    """A download to its end."""
    ended: asyncio.Future[Download] = asyncio.get_running_loop().create_future()

    async def on_change(_: dict[str, str], download: Download) -> None:
        if download.state in ENDED and not ended.done():
            ended.set_result(download)

    subscription = await bus.subscribe(subjects.DOWNLOAD_CHANGED, on_change)
    await bus.flush_subscriptions()
    await bus.call(subjects.DOWNLOAD_START, StartDownload(reference=reference, **more))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        done = await ended
    await subscription.unsubscribe()
    return done


async def spec(bus: Bus, name: str) -> ModelSpec:
    return (await bus.call(subjects.MODEL_GET, ModelRef(model=name))).spec


async def register(bus: Bus, path: str, **more: object) -> Registered:
    return await bus.call(subjects.FILES_REGISTER, RegisterFiles(path=path, **more))  # type: ignore[arg-type]


async def test_a_download_is_registered_with_guessed_fields(asking: Bus, hub: Hub) -> None:
    done = await pull(asking, f"{REPO}:Q8_0")
    assert (done.state, done.model) == (DownloadState.FINISHED, f"{REPO}:Q8_0")
    model = await spec(asking, f"{REPO}:Q8_0")
    assert (model.path, model.mmproj) == (PATH, f"{REPO}/mmproj-F16.gguf")
    assert (model.mode, model.n_ctx) == (Mode.CHAT, 32_768)
    assert model.source is not None
    assert (model.source.repo, model.source.revision) == (REPO, hub.repos[REPO].sha)


async def test_a_download_follows_its_choice_and_overrides(asking: Bus, settings: Settings) -> None:
    overrides = ModelOverrides(aliases=("small",), mode=Mode.COMPLETION, n_ctx=1024)
    await pull(asking, f"{REPO}:Q8_0", name="mine", choice=Choice(mmproj="none"), overrides=overrides)
    model = await spec(asking, "small")
    assert (model.name, model.mmproj, model.n_ctx, model.mode) == ("mine", None, 1024, Mode.COMPLETION)
    assert not (settings.models / REPO / "mmproj-F16.gguf").exists()
    done = await pull(asking, REPO, register=False, choice=Choice(include=("mmproj*",)))
    assert (done.state, done.files) == (DownloadState.FINISHED, ("mmproj-F16.gguf",))
    with pytest.raises(ModelNotFound):
        await spec(asking, REPO)


async def test_a_repeated_download_retains_fields_set_by_a_person(asking: Bus) -> None:
    await pull(asking, f"{REPO}:Q8_0", name="mine")
    patch = {"n_ctx": 512, "aliases": ["a"], "mode": "completion", "pinned": True, "mmproj": None}
    await asking.call(subjects.MODEL_PATCH, PatchModel(model="mine", patch=patch))
    before = await spec(asking, "mine")
    await pull(asking, f"{REPO}:Q8_0", name="mine")
    assert await spec(asking, "mine") == before
    # Another quant under the same name: its file changes, and nothing else.
    await pull(asking, f"{REPO}:Q4_0", name="mine", overrides=ModelOverrides(n_ctx=2048))
    after = await spec(asking, "mine")
    assert (after.path, after.n_ctx) == (f"{REPO}/chat-Q4_0.gguf", 2048)
    assert (after.aliases, after.pinned, after.mmproj) == (("a",), True, None)


async def test_a_taken_name_is_refused_before_the_download(asking: Bus, hub: Hub) -> None:
    await asking.call(subjects.MODEL_PUT, PutModel(name="mine", path="by/hand.gguf", aliases=("other",)))
    with pytest.raises(Conflict, match=r"by/hand\.gguf"):
        await pull(asking, f"{REPO}:Q8_0", name="mine")
    for more in ({"name": "other"}, {"name": "free", "overrides": ModelOverrides(aliases=("mine",))}):
        with pytest.raises(Conflict, match="belongs to the model mine"):
            await pull(asking, f"{REPO}:Q8_0", **more)
    assert hub.file(REPO, "chat-Q8_0.gguf").requests == 0


async def test_a_name_taken_during_the_download_fails_with_a_remedy(asking: Bus, hub: Hub) -> None:
    """The name is free when the download begins: the hub holds the file back until the name is taken."""
    file = hub.file(REPO, "chat-Q8_0.gguf")
    file.faults.bytes_per_s = 200_000
    running = asyncio.create_task(pull(asking, f"{REPO}:Q8_0", name="mine"))
    await hub.wait_until(lambda: file.bytes_sent > 0)
    await asking.call(subjects.MODEL_PUT, PutModel(name="theirs", path="by/hand.gguf", aliases=("mine",)))
    done = await running
    assert done.state is DownloadState.FAILED
    assert done.error is not None
    assert done.error.code == "conflict"
    assert f"yard register {PATH} --name NAME" in done.error.message
    assert (await register(asking, PATH, name="free")).revision is not None


async def test_a_renamed_model_is_unchanged_by_a_download(asking: Bus) -> None:
    await pull(asking, f"{REPO}:Q8_0", name="mine")
    await asking.call(subjects.MODEL_RENAME, RenameModel(model="mine", name="yours"))
    before = await spec(asking, "yours")
    await pull(asking, f"{REPO}:Q8_0", name="mine")
    assert await spec(asking, "yours") == before
    assert (await spec(asking, "mine")).path == PATH


async def test_a_folder_of_safetensors_is_registered(asking: Bus, hub: Hub, settings: Settings) -> None:
    files = {
        "config.json": b'{"architectures":["BertModel"],"max_position_embeddings":512}',
        "modules.json": b'[{"type":"sentence_transformers.models.Transformer"}]',
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens":true}',
        "model.safetensors": b"x" * 1000,
        "pytorch_model.bin": b"x" * 1000,
    }
    hub.add_repo("org/vectors", files, about=About(task="sentence-similarity"))
    assert (await pull(asking, "org/vectors")).state is DownloadState.FINISHED
    model = await spec(asking, "org/vectors")
    assert (model.path, model.mode, model.engine) == ("org/vectors", Mode.EMBEDDING, "sentence-transformers")
    there = {
        str(path.relative_to(settings.models / "org/vectors"))
        for path in (settings.models / "org/vectors").rglob("*")
    }
    assert "pytorch_model.bin" not in there
    assert {"model.safetensors", "1_Pooling/config.json"} <= there


async def test_pickles_alone_are_refused_unless_requested(asking: Bus, hub: Hub) -> None:
    hub.add_repo("org/old", {"config.json": b"{}", "pytorch_model.bin": b"x" * 10})
    failed = await pull(asking, "org/old")
    assert failed.error is not None
    assert failed.error.code == "pickle_only"
    done = await pull(asking, "org/old", choice=Choice(include=("*.bin", "config.json")))
    assert (done.state, done.files) == (DownloadState.FINISHED, ("config.json", "pytorch_model.bin"))


async def test_files_added_by_hand_are_registered(yard: Yard, asking: Bus, settings: Settings) -> None:
    folder = settings.models / "by-hand"
    folder.mkdir()
    write_embedder(folder / "vectors.gguf")
    write_reranker(folder / "scores.gguf")
    shown = await run_command(yard, "register", "by-hand/vectors.gguf", "--dry-run")
    assert shown.code == 0, shown.err
    assert "turns text into vectors" in shown.out
    assert "Nothing was changed" in shown.out
    with pytest.raises(ModelNotFound):
        await spec(asking, "vectors")
    done = (
        await run_command(yard, "register", "by-hand/vectors.gguf", "--name", "v", "--alias", "w", "--json")
    ).document
    assert done["spec"]["mode"] == "embedding"
    assert (await spec(asking, "w")).n_ctx == 512
    assert (await spec(asking, "w")).source is None
    again = await run_command(yard, "register", "by-hand/vectors.gguf", "--name", "v", "--ctx", "256")
    assert "it keeps its own aliases" in again.out
    assert (await spec(asking, "v")).n_ctx == 256
    await asking.call(subjects.LIBRARY_SCAN, FindOnNode())
    entries = await read_bucket(asking, buckets.LIBRARY)
    key = next(entry.key for entry in entries.values() if entry.path == "by-hand/scores.gguf")
    scores = await register(asking, key)
    assert (scores.spec.name, scores.spec.mode) == ("scores", Mode.RERANK)


async def test_a_path_without_a_model_is_refused(yard: Yard, asking: Bus, settings: Settings) -> None:
    (settings.models / "notes.txt").write_text("hello")
    (settings.models / "empty").mkdir()
    for path in ("nowhere.gguf", "notes.txt", "empty", "../../etc/passwd", "/etc/passwd", "", "modelyard/.."):
        with pytest.raises(UnreadableModel) as caught:
            await register(asking, path)
        assert caught.value.message.endswith(".")
    assert await refusal_code(yard, "register", "nowhere.gguf") == "unreadable_model"
    assert await refusal_code(yard, "register", "x.gguf", "--name", "no spaces here") == "bad_request"


async def test_the_command_line_searches_and_offers(yard: Yard, asking: Bus) -> None:
    result = await run_command(yard, "search", "chat", "--sort", "likes", "--max-params", "8B")
    assert (result.code, result.out) == (0, "The hub has nothing like that.\n")
    result = await run_command(yard, "search", "tiny", "chat-", "--json")
    assert result.document == []
    result = await run_command(yard, "search", "tiny/chat")
    assert REPO in result.out
    assert "text-generation" in result.out
    offer = await run_command(yard, "offer", REPO)
    assert offer.code == 0, offer.err
    assert "fits on GPU-1 of node giant with 32k tokens of context" in offer.out
    assert f"yard pull {REPO}:Q4_0" in offer.out
    assert (await run_command(yard, "offer", f"{REPO}:Q8_0", "--json")).document["choices"][0][
        "label"
    ] == "Q8_0"
    assert await refusal_code(yard, "offer", "tiny/nowhere") == "repo_not_found"
    assert await refusal_code(yard, "search", "x", "--limit", "1000") == "bad_request"


async def test_a_refusal_of_the_hub_keeps_its_code_over_the_wire(asking: Bus, hub: Hub) -> None:
    hub.add_repo("org/gated", {"m-Q4_0.gguf": b"GGUF"}, gated=True)
    done = await pull(asking, "org/gated")
    assert done.error is not None
    assert done.error.code == "gated_repo"
    with pytest.raises(YardError):
        await pull(asking, "org/gated:")
