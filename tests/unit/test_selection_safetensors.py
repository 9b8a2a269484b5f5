"""Of a repository with safetensors, what the engine needs and nothing else; and files chosen by hand."""

import pytest

from schemas.base import Format
from schemas.hub import Choice
from services.downloader.reference import parse_reference
from services.downloader.selection.choose import select_files
from services.downloader.selection.files import RemoteFile, Selection, SelectionError

MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
INDEX = "model.safetensors.index.json"


def select(reference: str, *paths: str, choice: Choice | None = None) -> Selection:
    files = [RemoteFile(path=path, size_bytes=10) for path in paths]
    return select_files(parse_reference(reference), files, choice)


def picked(*paths: str, **choice: object) -> set[str]:
    chosen = Choice(**choice) if choice else None  # type: ignore[arg-type]
    return {file.path for file in select("o/n", *paths, choice=chosen).files}


@pytest.mark.parametrize(
    ("needed", "left"),
    [
        (MODEL, ("README.md", "LICENSE.txt", ".gitattributes", "modeling_x.py", "training_args.bin")),
        (MODEL, ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin.index.json")),
        (MODEL, ("onnx/model.onnx", "openvino/openvino_model.bin", "coreml/x.json", "gguf/notes.txt")),
        (MODEL, ("original/consolidated.00.pth", "original/params.json", "original/tokenizer.model")),
        (MODEL, ("model.fp16.safetensors", "model.int8.safetensors", "adapter_model.safetensors")),
        (MODEL, (*SHARDS, INDEX)),
        (
            ("config.json", *SHARDS, INDEX),
            ("consolidated.safetensors", "consolidated.safetensors.index.json"),
        ),
        (("config.json", *SHARDS, INDEX, "tekken.json", "chat_template.jinja"), ("example.png",)),
        (("config.json", "model.safetensors", "spiece.model", "vocab.txt", "merges.txt", "x.tiktoken"), ()),
        ((*MODEL, "generation_config.json", "additional_chat_templates/tool.jinja"), ("assets/x.json",)),
        (
            (
                *MODEL,
                "modules.json",
                "1_Pooling/config.json",
                "2_Dense/model.safetensors",
                "2_Dense/config.json",
            ),
            ("2_Dense/pytorch_model.bin", "eval/results.json"),
        ),
        (("config.json", "consolidated.safetensors", "params.json"), ("consolidated.00.pth",)),
        (MODEL, ("description.txt", ".modelyard.json", "1_Pooling/description.txt", ".cache.json")),
    ],
)
def test_only_the_files_that_the_engine_needs_are_selected(
    needed: tuple[str, ...], left: tuple[str, ...]
) -> None:
    assert picked(*left, *needed) == set(needed)


def test_the_engine_loads_the_folder_of_a_safetensors_model() -> None:
    chosen = select("o/n", *MODEL)
    assert (chosen.format, chosen.model_path, chosen.quant) == (Format.SAFETENSORS, ".", None)
    assert chosen.files[0].path == "model.safetensors"


def test_gguf_is_preferred_and_safetensors_can_be_requested() -> None:
    assert select("o/n", *MODEL, "m-Q4_K_M.gguf").format is Format.GGUF
    chosen = select("o/n:safetensors", *MODEL, "m-Q4_K_M.gguf")
    assert {file.path for file in chosen.files} == set(MODEL)


@pytest.mark.parametrize(
    ("paths", "code", "words"),
    [
        (("config.json", "pytorch_model.bin"), "pickle_only", "hold programs"),
        (("config.json", "pytorch_model-00001-of-00002.bin"), "pickle_only", "pattern"),
        ((*MODEL, "modules.json", "2_Dense/pytorch_model.bin"), "pickle_only", "2_Dense"),
        (("config.json", SHARDS[0]), "no_such_model", "lacks 1 of the 2 parts"),
        (("model.safetensors",), "no_such_model", "no config.json"),
        (("adapter_config.json", "x.safetensors"), "no_such_model", "adapter"),
        (("adapter_config.json", "adapter_model.safetensors"), "no_such_model", "adapter"),
        (("model_index.json", "unet/diffusion_pytorch_model.safetensors"), "no_such_model", "images"),
        (("model_index.json", "unet/x.safetensors", "x.safetensors"), "no_such_model", "images"),
        (("README.md",), "no_such_model", "no .gguf and no .safetensors"),
    ],
)
def test_a_repository_without_a_model_is_refused_with_a_code(
    paths: tuple[str, ...], code: str, words: str
) -> None:
    with pytest.raises(SelectionError) as caught:
        select("o/n", *paths)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_patterns_select_exactly_the_matching_files() -> None:
    paths = (*MODEL, "pytorch_model.bin", "a-Q4_0.gguf", "sub/deep/x.json", "mmproj-F16.gguf")
    assert picked(*paths, include=("*.bin", "config.json")) == {"pytorch_model.bin", "config.json"}
    assert picked(*paths, include=("sub/",)) == {"sub/deep/x.json"}
    assert picked(*paths, include=("*.json",), exclude=("*/*", "tok*")) == {"config.json"}
    assert picked(*paths, include=("?-Q4_0.gguf", "config.json")) == {"a-Q4_0.gguf", "config.json"}
    assert picked(*MODEL, "extra.json", exclude=("extra*",)) == set(MODEL)


@pytest.mark.parametrize(
    ("include", "format_", "model_path"),
    [
        (("*.gguf",), Format.GGUF, "a-Q4_0.gguf"),
        (("*.safetensors", "*.json"), Format.SAFETENSORS, "."),
        (("*.bin", "config.json"), None, None),
        (("tokenizer.json",), None, None),
    ],
)
def test_matching_files_are_a_model_or_plain_files(
    include: tuple[str, ...], format_: Format | None, model_path: str | None
) -> None:
    paths = (*MODEL, "pytorch_model.bin", "a-Q4_0.gguf", "mmproj-F16.gguf")
    chosen = select("o/n", *paths, choice=Choice(include=include))
    assert (chosen.format, chosen.model_path) == (format_, model_path)


def test_patterns_that_match_nothing_or_come_with_a_quant_are_refused() -> None:
    with pytest.raises(SelectionError, match="matches the patterns"):
        picked(*MODEL, include=("*.zip",))
    with pytest.raises(SelectionError, match="not both"):
        select("o/n:Q4_0", *MODEL, choice=Choice(include=("*",)))
    with pytest.raises(ValueError, match="at most 64"):
        Choice(include=("a",) * 65)
    with pytest.raises(ValueError, match="between 1 and 200"):
        Choice(exclude=("",))


def test_a_url_selects_one_file() -> None:
    paths = ("a-Q4_0-00001-of-00002.gguf", "a-Q4_0-00002-of-00002.gguf", "b-Q4_0.gguf", "mmproj-F16.gguf")
    both = select("https://huggingface.co/o/n/blob/main/a-Q4_0-00002-of-00002.gguf", *paths)
    assert [file.path for file in both.files] == [*paths[:2], "mmproj-F16.gguf"]
    assert select("o/n/b-Q4_0.gguf", *paths).model_path == "b-Q4_0.gguf"
    alone = select("o/n/mmproj-F16.gguf", *paths)
    assert (alone.format, [file.path for file in alone.files]) == (None, ["mmproj-F16.gguf"])
    with pytest.raises(SelectionError) as caught:
        select("o/n/c.gguf", *paths)
    assert caught.value.code == "entry_not_found"


def test_the_projector_can_be_chosen_or_left_out() -> None:
    paths = ("m-Q4_0.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mmproj-BF16.gguf")

    def mmproj(wanted: str | None) -> str | None:
        part = select("o/n", *paths, choice=Choice(mmproj=wanted)).mmproj
        return part and part.path

    assert [mmproj(wanted) for wanted in (None, "none", "q8_0", "bf16")] == [
        *("mmproj-F16.gguf", None, "mmproj-Q8_0.gguf", "mmproj-BF16.gguf")
    ]
    with pytest.raises(SelectionError, match="there is BF16, F16, Q8_0"):
        mmproj("Q4_0")


def test_each_of_several_models_has_its_own_projector() -> None:
    paths = ("small-Q8_0.gguf", "large-Q8_0.gguf", "mmproj-small-F16.gguf", "mmproj-large-BF16.gguf")
    for size in ("small", "large"):
        part = select(f"o/n:{size}-Q8_0", *paths).mmproj
        assert part is not None
        assert size in part.path
