"""Proposed models of files, from their facts."""

import pytest

from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import parse
from modelyard.files.safetensors import ModelCard, parse_card
from schemas.base import Format
from schemas.errors import UnreadableModel
from schemas.instances import EngineOffer, Node
from schemas.models import Mode, ModelSource
from schemas.placement import NodeDevice
from schemas.registry import ModelOverrides
from services.downloader.reference import parse_reference
from services.downloader.register.facts import ModelFacts
from services.downloader.register.fit import contexts
from services.downloader.register.proposal import ModelProposal, name_of_path, name_of_reference, propose
from tests.gguf_bytes import Weight, gguf_bytes

GIB = 1024**3
ST = "sentence-transformers"
TEMPLATE = {"tokenizer.chat_template": "{{ messages }}"}


def header(architecture: str = "llama", n_ctx: int = 32_768, **values: str | int) -> Header:
    """A small header; keys of the architecture are written without it."""
    own = {"block_count": 2, "embedding_length": 64, "attention.head_count": 2, "context_length": n_ctx}
    general = {name: value for name, value in values.items() if "." in name}
    inner = own | {name: value for name, value in values.items() if "." not in name}
    entries = {f"{architecture}.{name}": value for name, value in inner.items()}
    data = gguf_bytes(
        {"general.architecture": architecture, **entries, **general}, [Weight("token_embd.weight")]
    )
    return make_header(parse(data, len(data)))


def facts(path: str = "o/n/m-Q4_K_M.gguf", **more: object) -> ModelFacts:
    given = {"path": path, "format": Format.GGUF, "header": header(**TEMPLATE), **more}
    return ModelFacts(**given)  # type: ignore[arg-type]


def proposed(given: ModelFacts, overrides: ModelOverrides | None = None, *nodes: Node) -> ModelProposal:
    return propose(given, "m", overrides or ModelOverrides(), nodes)


def reason(proposal: ModelProposal, field: str) -> str:
    return next(each.reason for each in proposal.reasons if each.field == field)


@pytest.mark.parametrize(
    ("architecture", "values", "path", "more", "mode"),
    [
        ("llama", TEMPLATE, "o/llama-3-8b-Q4_K_M.gguf", {}, Mode.CHAT),
        ("qwen2", TEMPLATE, "o/qwen2.5-7b-instruct.gguf", {}, Mode.CHAT),
        ("gemma3", TEMPLATE, "o/gemma-3-4b-it.gguf", {"mmproj": "o/mmproj-F16.gguf"}, Mode.CHAT),
        ("phi3", TEMPLATE, "o/phi-4-mini.gguf", {}, Mode.CHAT),
        ("gpt-oss", TEMPLATE, "o/gpt-oss-20b.gguf", {"task": "text-generation"}, Mode.CHAT),
        ("llama", {}, "o/llama-2-7b.gguf", {}, Mode.COMPLETION),
        ("llama", {}, "o/llama-2-7b-chat.Q4_0.gguf", {}, Mode.CHAT),
        ("qwen2", {}, "o/base.gguf", {"template": "o/chat_template.jinja"}, Mode.CHAT),
        ("starcoder2", {}, "o/starcoder2-3b.gguf", {"task": "text-generation"}, Mode.COMPLETION),
        ("bert", {"pooling_type": 1}, "o/all-minilm.gguf", {}, Mode.EMBEDDING),
        ("bert", {"pooling_type": 2}, "o/bge-small-en.gguf", {}, Mode.EMBEDDING),
        ("bert", {"pooling_type": 4}, "o/bge-small.gguf", {}, Mode.RERANK),
        ("bert", {}, "o/bge-reranker-v2-m3-Q8_0.gguf", {}, Mode.RERANK),
        ("nomic-bert", {"pooling_type": 1}, "o/nomic-embed-text.gguf", {}, Mode.EMBEDDING),
        ("nomic-bert-moe", {}, "o/nomic-v2.gguf", {}, Mode.EMBEDDING),
        ("jina-bert-v2", {"pooling_type": 1}, "o/jina-v2-base.gguf", {}, Mode.EMBEDDING),
        ("jina-bert-v2", {"pooling_type": 4}, "o/jina-reranker-v1.gguf", {}, Mode.RERANK),
        ("gemma-embedding", {}, "o/embeddinggemma-300m.gguf", {}, Mode.EMBEDDING),
        ("qwen3", {**TEMPLATE, "pooling_type": 3}, "o/q.gguf", {}, Mode.EMBEDDING),
        ("qwen3", {**TEMPLATE, "pooling_type": 4}, "o/q.gguf", {}, Mode.RERANK),
        ("qwen3", TEMPLATE, "o/Qwen3-Embedding-0.6B-Q8_0.gguf", {}, Mode.EMBEDDING),
        ("qwen3", TEMPLATE, "o/Qwen3-Reranker-0.6B.gguf", {}, Mode.RERANK),
        ("llama", TEMPLATE, "o/m.gguf", {"task": "sentence-similarity"}, Mode.EMBEDDING),
        ("llama", TEMPLATE, "o/m.gguf", {"task": "text-ranking"}, Mode.RERANK),
        ("llama", TEMPLATE, "o/u.gguf", {"task": "automatic-speech-recognition"}, Mode.CHAT),
        (
            *("qwen2", TEMPLATE, "o/voxtral.gguf"),
            {"task": "automatic-speech-recognition", "mmproj": "o/mmproj.gguf"},
            Mode.TRANSCRIPTION,
        ),
        ("llama", TEMPLATE, "o/embedded-systems-tutor.gguf", {}, Mode.CHAT),
    ],
)
def test_the_mode_of_a_gguf_file(
    architecture: str, values: dict[str, str | int], path: str, more: dict[str, object], mode: Mode
) -> None:
    proposal = proposed(facts(path, header=header(architecture, **values), **more))
    assert proposal.spec.mode is mode
    assert reason(proposal, "mode")
    assert proposal.spec.engine == "auto"


@pytest.mark.parametrize(
    ("architecture", "values", "words"),
    [
        ("whisper", {}, "whisper.cpp"),
        ("flux", {}, "images"),
        ("wan", {}, "video"),
        ("clip", {}, "vision projector"),
        ("llama", {"general.type": "adapter"}, "LoRA"),
        ("llama", {"general.type": "imatrix"}, "not a model of its own"),
        ("llama", {"general.type": "mmproj"}, "not a model of its own"),
    ],
)
def test_gguf_files_that_llama_cpp_does_not_serve(
    architecture: str, values: dict[str, str | int], words: str
) -> None:
    with pytest.raises(UnreadableModel, match=words):
        proposed(facts(header=header(architecture, **values)))


def test_a_model_with_an_unreadable_header_is_still_proposed() -> None:
    proposal = proposed(facts(header=None, problem="Type 99 is not known."))
    assert proposal.spec.mode is Mode.CHAT
    assert "Type 99" in reason(proposal, "mode")
    assert proposed(facts("o/x-embedding.gguf", header=None)).spec.mode is Mode.EMBEDDING


@pytest.mark.parametrize(
    ("card", "path", "task", "mode", "engine"),
    [
        (ModelCard(architectures=("LlamaForCausalLM",), has_chat_template=True), "o/l", None, "chat", "vllm"),
        (ModelCard(architectures=("LlamaForCausalLM",)), "o/base", None, "completion", "vllm"),
        (ModelCard(architectures=("LlamaForCausalLM",)), "o/x-Instruct", None, "chat", "vllm"),
        (
            ModelCard(architectures=("VForConditionalGeneration",), has_chat_template=True),
            "o/v",
            None,
            "chat",
            "vllm",
        ),
        (ModelCard(architectures=("WhisperForConditionalGeneration",)), "o/w", None, "transcription", "vllm"),
        (
            ModelCard(architectures=("BertModel",), modules=("Transformer", "Pooling")),
            "o/b",
            None,
            "embedding",
            ST,
        ),
        (ModelCard(architectures=("NomicBertModel",)), "o/nomic", None, "embedding", ST),
        (ModelCard(architectures=("XForSequenceClassification",), n_labels=1), "BAAI/x", None, "rerank", ST),
        (ModelCard(architectures=("BertForSequenceClassification",)), "o/ce", "text-ranking", "rerank", ST),
        (
            ModelCard(architectures=("QForCausalLM",), has_chat_template=True),
            "Q/Q3-Embedding",
            None,
            "embedding",
            ST,
        ),
        (
            ModelCard(architectures=("QForCausalLM",), modules=("Transformer",)),
            "o/x",
            "text-generation",
            "embedding",
            ST,
        ),
        (ModelCard(), "o/unknown", "feature-extraction", "embedding", ST),
        (ModelCard(), "o/unknown", None, "completion", "vllm"),
    ],
)
def test_the_mode_and_the_engine_of_a_folder(
    card: ModelCard, path: str, task: str | None, mode: str, engine: str
) -> None:
    given = ModelFacts(path=path, format=Format.SAFETENSORS, card=card, task=task)
    spec = proposed(given).spec
    assert (spec.mode, spec.engine) == (mode, engine)


def test_a_classifier_of_several_classes_is_refused() -> None:
    card = ModelCard(architectures=("BertForSequenceClassification",), n_labels=3)
    with pytest.raises(UnreadableModel, match="3 classes"):
        proposed(ModelFacts(path="o/c", format=Format.SAFETENSORS, card=card))


def node(*memory: tuple[str, int], engines: tuple[str, ...] = ("llama.cpp",)) -> Node:
    devices = tuple(NodeDevice(device=name, name=name, memory_bytes=size) for name, size in memory)
    offers = tuple(EngineOffer(engine=engine) for engine in engines)
    return Node(node="n", version="1", started_at=0.0, engines=offers, devices=devices)


def test_the_context_fits_a_node_and_is_at_most_the_trained_one() -> None:
    gpu, cpu = node(("GPU", 80 * GIB), ("cpu", 80 * GIB)), node(("cpu", 80 * GIB))

    def n_ctx(trained: int, *nodes: Node) -> int:
        return proposed(facts(header=header(n_ctx=trained, **TEMPLATE)), None, *nodes).spec.n_ctx

    assert [n_ctx(131_072, *nodes) for nodes in ((gpu,), (cpu,), (cpu, gpu), ())] == [
        32_768,
        16_384,
        32_768,
        4096,
    ]
    assert [n_ctx(trained, gpu) for trained in (40_960, 20_000, 2_048, 512)] == [32_768, 20_000, 2_048, 512]
    explained = reason(proposed(facts(), None, gpu), "n_ctx")
    assert explained == "it was trained for 32768; it fits on GPU of node n with 32k tokens of context"


def test_less_memory_means_less_context() -> None:
    wide = header(n_ctx=131_072, embedding_length=4096, **TEMPLATE)
    small = node(("GPU", GIB), ("cpu", 8 * GIB))
    assert proposed(facts(header=wide), None, small).spec.n_ctx == 8_192


@pytest.mark.parametrize(
    ("trained", "mode", "on_cpu", "ladder"),
    [
        (131_072, Mode.CHAT, False, (32_768, 16_384, 8_192, 4_096)),
        (131_072, Mode.CHAT, True, (16_384, 8_192, 4_096)),
        (10_000, Mode.CHAT, False, (10_000, 8_192, 4_096)),
        (131_072, Mode.EMBEDDING, False, (8_192, 4_096)),
        (512, Mode.EMBEDDING, True, (512,)),
        (None, Mode.CHAT, False, (8_192, 4_096)),
        (1, Mode.CHAT, False, (16,)),
    ],
)
def test_contexts_to_try(trained: int | None, mode: Mode, on_cpu: bool, ladder: tuple[int, ...]) -> None:
    assert contexts(trained, mode, on_cpu=on_cpu) == ladder


def test_an_override_takes_precedence_over_every_guess() -> None:
    overrides = ModelOverrides(aliases=("a",), mode=Mode.EMBEDDING, n_ctx=1024, engine="llama.cpp")
    proposal = proposed(facts(), overrides)
    spec = proposal.spec
    assert (spec.aliases, spec.mode, spec.n_ctx, spec.engine) == (("a",), Mode.EMBEDDING, 1024, "llama.cpp")
    assert proposal.chosen == {"aliases", "mode", "n_ctx", "engine"}
    assert reason(proposal, "mode") == "you chose it"


def test_the_proposal_has_companion_files_and_source() -> None:
    source = ModelSource(repo="o/n", revision="0" * 40, quant="Q4_K_M")
    given = facts(
        header=header(), mmproj="o/n/mmproj-F16.gguf", template="o/n/chat_template.jinja", source=source
    )
    spec = proposed(given).spec
    assert (spec.path, spec.mmproj) == ("o/n/m-Q4_K_M.gguf", "o/n/mmproj-F16.gguf")
    assert (spec.chat_template, spec.source) == ("o/n/chat_template.jinja", source)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("o/n", "o/n"),
        ("o/n:Q4_K_M", "o/n:Q4_K_M"),
        ("o/n:Q4_K_M@v1", "o/n:Q4_K_M@v1"),
        ("https://hf.co/o/n/blob/main/m-Q4_K_M.gguf", "o/n:Q4_K_M"),
        ("https://hf.co/o/n/blob/v2/my%20tiny.gguf", "o/n:my-tiny@v2"),
        ("o/n/config.json", "o/n"),
    ],
)
def test_names_of_references(reference: str, name: str) -> None:
    assert name_of_reference(parse_reference(reference)) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("o/n/m-Q4_K_M.gguf", "o/n:Q4_K_M"),
        ("o/n/Q4/m-Q4_K_M-00001-of-00002.gguf", "o/n:Q4_K_M"),
        ("m-Q4_K_M.gguf", "m-Q4_K_M"),
        ("by-hand/some model.gguf", "some-model"),
        ("o/n", "o/n"),
    ],
)
def test_names_of_paths(path: str, name: str) -> None:
    assert name_of_path(path) == name


def test_a_card_is_parsed_from_the_files_there_are() -> None:
    texts = {
        "config.json": b'{"architectures":["A"],"text_config":{"max_position_embeddings":99},"num_labels":1}',
        "tokenizer_config.json": b'{"model_max_length":1e30,"chat_template":[{"name":"default"}]}',
        "1_Pooling/config.json": b'{"pooling_mode_cls_token":true}',
        "modules.json": b'[{"type":"sentence_transformers.models.Pooling"}]',
    }
    assert parse_card(texts) == ModelCard(
        architectures=("A",),
        n_labels=1,
        modules=("Pooling",),
        pooling="cls",
        has_chat_template=True,
        n_ctx_train=99,
    )
    broken = dict.fromkeys(texts, b"[" * 100_000)
    assert parse_card(broken) == parse_card({}) == ModelCard()


def test_a_field_of_another_type_does_not_hide_the_other_fields() -> None:
    card = parse_card({"config.json": b'{"architectures": ["LlamaForCausalLM"], "num_experts": [8]}'})
    assert card.architectures == ("LlamaForCausalLM",)
