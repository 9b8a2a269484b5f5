"""Headers by names: of the tiny models, and the layers of each kind of architecture."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.files.gguf.header import make_header
from modelyard.files.gguf.layers import make_layers
from modelyard.files.gguf.parse import GgufError, parse
from modelyard.files.gguf.reader import read_model
from modelyard.files.tinymodels import write_babbler, write_embedder, write_reranker
from tests.gguf_bytes import Simple, Weight, gguf_bytes
from tests.unit.gguf_headers import MAMBA, MAMBA_STATE, header


def test_the_header_of_the_babbler_has_the_exact_sizes(tmp_path: Path) -> None:
    write_babbler(tmp_path / "model.gguf", n_embd=96, n_layer=3, n_ff=40)
    read = read_model(tmp_path / "model.gguf")
    assert (read.architecture, read.kind, read.name, read.quant) == ("llama", "model", "Tiny Babbler", "F32")
    assert (read.n_layer, read.n_embd, read.n_ff, read.n_ctx_train) == (3, 96, (40,) * 3, 32_768)
    assert (read.attention.n_head, read.attention.n_head_kv) == ((3,) * 3, (3,) * 3)
    assert (read.attention.key_length, read.attention.value_length) == (32, 32)
    assert (read.n_expert, read.pooling, read.has_chat_template, read.is_mmproj) == (0, None, True, False)
    layer = 4 * 96 * 96 + 3 * 96 * 40 + 2 * 96
    assert read.weights.block_bytes == (layer * 4,) * 3
    assert read.weights.input_bytes == read.n_vocab * 96 * 4
    assert read.weights.output_bytes == read.n_vocab * 96 * 4 + 96 * 4
    assert read.weights.tied_bytes == 0
    assert read.n_params == 2 * read.n_vocab * 96 + 96 + 3 * layer
    assert read.weights.total_bytes == read.n_params * 4


def test_headers_of_encoders_have_their_pooling(tmp_path: Path) -> None:
    write_embedder(tmp_path / "embedder.gguf")
    write_reranker(tmp_path / "reranker.gguf")
    embedder, reranker = (read_model(tmp_path / f"{name}.gguf") for name in ("embedder", "reranker"))
    assert (embedder.pooling, reranker.pooling) == ("mean", "rank")
    assert (embedder.n_vocab, embedder.n_ctx_train, embedder.has_chat_template) == (1461, 512, False)
    assert [layer.key_length for layer in make_layers(reranker)] == [0, 0]


@pytest.mark.parametrize(
    ("values", "weights", "quant"),
    [
        ({"general.file_type": 15}, (), "Q4_K_M"),
        ({"general.file_type": 9999}, (Weight("a"),), "F32"),
        ({}, (Weight("small"), Weight("large", (256, 4), 14, 840)), "Q6_K"),
        ({}, (), "unknown"),
    ],
)
def test_the_quant_is_the_file_type_or_the_type_of_most_weights(
    values: dict[str, int], weights: tuple[Weight, ...], quant: str
) -> None:
    raw = gguf_bytes({"general.architecture": "llama", **values}, weights)
    assert make_header(parse(raw, len(raw))).quant == quant


def test_heads_experts_and_widths_may_differ_by_layer() -> None:
    read = header(
        "deci",
        {
            "attention.head_count": [8, 8, 4, 4],
            "attention.head_count_kv": [2, 0, 4, 1],
            "feed_forward_length": [10, 20, 30, 40],
            "expert_count": 8,
            "expert_used_count": [1, 2, 2, 1],
        },
    )
    assert (read.attention.n_head_kv, read.n_ff) == ((2, 0, 4, 1), (10, 20, 30, 40))
    assert (read.n_expert, read.n_expert_used) == (8, 2)
    assert [layer.key_length for layer in make_layers(read)] == [128, 0, 256, 64]


@pytest.mark.parametrize("values", [{"general.type": "mmproj"}, {"general.architecture": "clip"}])
def test_a_projector_is_recognized(values: dict[str, str]) -> None:
    raw = gguf_bytes({"general.architecture": "llama"} | values)
    assert make_header(parse(raw, len(raw))).is_mmproj


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"block_count": 1025}, "1025 layers"),
        ({"block_count": 2**40}, r"block_count is not a plausible whole number"),
        ({"block_count": "many"}, r"block_count is not a plausible whole number"),
        ({"embedding_length": -1}, r"embedding_length is not a plausible whole number"),
        ({"context_length": 0.5}, r"context_length is not a plausible whole number"),
        ({"attention.head_count": [8, 8]}, "has 2 values for 4 layers"),
        ({"attention.head_count_kv": [8.0, 8.0, 8.0, 8.0]}, "not a plausible whole number"),
    ],
)
def test_implausible_numbers_are_refused(values: dict[str, Simple | list[Simple]], words: str) -> None:
    with pytest.raises(GgufError, match=words):
        header("llama", values)


def test_a_model_without_an_architecture_is_refused() -> None:
    raw = gguf_bytes({"general.name": "x"})
    with pytest.raises(GgufError, match="has no architecture"):
        make_header(parse(raw, len(raw)))


@pytest.mark.parametrize(
    ("architecture", "values", "windows"),
    [
        ("llama", {"attention.sliding_window": 512}, [0] * 8),
        ("phi3", {"attention.sliding_window": 512}, [0] * 8),
        ("gemma3", {}, [0] * 8),
        ("gemma3", {"attention.sliding_window": 512}, [512] * 5 + [0, 512, 512]),
        ("gemma3", {"attention.sliding_window": 512, "attention.sliding_window_pattern": 2}, [512, 0] * 4),
        ("gemma2", {}, [4096, 0] * 4),
        ("gpt-oss", {"attention.sliding_window": 128}, [128, 0] * 4),
        ("llama4", {}, [8192, 8192, 8192, 0] * 2),
        ("smallthinker", {"attention.sliding_window": 512}, [0, 512, 512, 512] * 2),
        (
            "gemma4",
            {
                "attention.sliding_window": 512,
                "attention.sliding_window_pattern": [True, True, False, True] * 2,
            },
            [512, 512, 0, 512] * 2,
        ),
    ],
)
def test_sliding_windows_by_architecture(
    architecture: str, values: dict[str, Simple | list[Simple]], windows: list[int]
) -> None:
    layers = make_layers(header(architecture, values, n_layer=8))
    assert [layer.window for layer in layers] == windows


def test_layers_with_a_window_may_have_heads_of_another_size() -> None:
    values: dict[str, Simple | list[Simple]] = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False, True, False],
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.key_length_swa": 128,
        "attention.value_length_swa": 64,
        "attention.shared_kv_layers": 2,
    }
    layers = make_layers(header("gemma4", values))
    assert [(layer.key_length, layer.value_length) for layer in layers] == [
        (256, 128),
        (512, 512),
        (0, 0),
        (0, 0),
    ]


def test_latent_attention_caches_keys_only() -> None:
    values: dict[str, Simple | list[Simple]] = {
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.kv_lora_rank": 512,
        "attention.indexer.key_length": 128,
    }
    layer = make_layers(header("deepseek2", values))[0]
    assert (layer.key_length, layer.value_length, layer.indexer_length) == (576, 0, 128)


def test_multi_token_prediction_layers_have_no_cache() -> None:
    layers = make_layers(header("glm4moe", {"nextn_predict_layers": 1}))
    assert [layer.key_length for layer in layers] == [128, 128, 128, 0]


@pytest.mark.parametrize(
    ("architecture", "values", "caches", "states"),
    [
        ("mamba2", MAMBA, [0] * 4, [MAMBA_STATE] * 4),
        ("rwkv7", {"wkv.head_size": 64}, [0] * 4, [512 * (2 + 64)] * 4),
        ("falcon-h1", MAMBA, [128] * 4, [MAMBA_STATE] * 4),
        ("qwen3next", MAMBA, [0, 0, 0, 128], [MAMBA_STATE] * 3 + [0]),
        ("qwen35", MAMBA | {"full_attention_interval": 2}, [0, 128] * 2, [MAMBA_STATE, 0] * 2),
        (
            "jamba",
            MAMBA | {"attention.head_count_kv": [0, 2, 0, 0]},
            [0, 128, 0, 0],
            [MAMBA_STATE, 0, MAMBA_STATE, MAMBA_STATE],
        ),
        (
            "nemotron_h",
            MAMBA | {"attention.head_count_kv": [0, 2, 0, 0], "feed_forward_length": [0, 0, 64, 0]},
            [0, 128, 0, 0],
            [MAMBA_STATE, 0, 0, MAMBA_STATE],
        ),
        (
            "lfm2",
            {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 0, 2]},
            [0, 128] * 2,
            [1024, 0] * 2,
        ),
        (
            "kimi-linear",
            {"kda.head_dim": 128, "ssm.conv_kernel": 4, "attention.head_count_kv": [0, 0, 0, 1]},
            [0, 0, 0, 64],
            [8 * 128 * (9 + 128)] * 3 + [0],
        ),
        ("minimax-01", {"full_attention_interval": 4}, [0, 0, 0, 128], [8 * 64 * 64] * 3 + [0]),
    ],
)
def test_states_and_caches_by_architecture(
    architecture: str, values: dict[str, Simple | list[Simple]], caches: list[int], states: list[int]
) -> None:
    layers = make_layers(header(architecture, values))
    assert [layer.key_length for layer in layers] == caches
    assert [layer.state_length for layer in layers] == states


NUMBERS = (
    st.integers(0, 2**32 - 1)
    | st.integers(0, 4)
    | st.booleans()
    | st.floats(width=32)
    | st.sampled_from(["", "x"])
)


@given(
    architecture=st.sampled_from(["llama", "gemma3", "jamba", "nemotron_h", "lfm2", "rwkv7", "qwen3next"]),
    values=st.dictionaries(
        st.sampled_from(
            [
                "block_count",
                "attention.head_count",
                "attention.head_count_kv",
                "attention.sliding_window_pattern",
                "attention.sliding_window",
                "feed_forward_length",
                "nextn_predict_layers",
                "full_attention_interval",
                "pooling_type",
                "expert_used_count",
            ]
        ),
        NUMBERS | st.lists(st.integers(0, 9), max_size=6) | st.lists(st.booleans(), max_size=6),
    ),
)
def test_any_values_raise_only_gguf_errors(
    architecture: str, values: dict[str, Simple | list[Simple]]
) -> None:
    try:
        layers = make_layers(header(architecture, values))
    except GgufError as error:
        assert str(error).endswith(".")
    else:
        assert all(min(layer.key_length, layer.window, layer.state_length) >= 0 for layer in layers)
