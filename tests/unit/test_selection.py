"""Which files a reference stands for."""

import pytest

from services.downloader.reference import Reference, make_reference, parse_reference
from services.downloader.selection.choose import select_files
from services.downloader.selection.files import RemoteFile, Selection
from services.downloader.selection.gguf import group_models, label_of_file


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path=path, size_bytes=10) for path in paths]


def select(reference: str, *paths: str) -> Selection:
    return select_files(parse_reference(reference), files(*paths))


def picked(reference: str, *paths: str) -> list[str]:
    return [file.path for file in select(reference, *paths).model_files]


@pytest.mark.parametrize(
    ("text", "repo", "quant", "revision"),
    [
        ("org/name", "org/name", None, None),
        ("  org/name\n", "org/name", None, None),
        ("org/name:Q4_K_M", "org/name", "Q4_K_M", None),
        ("org/name@refs/pr/1", "org/name", None, "refs/pr/1"),
        ("org/name:UD-Q4_K_XL@v1.0", "org/name", "UD-Q4_K_XL", "v1.0"),
        ("hf.co/org/name:Q8_0", "org/name", "Q8_0", None),
        ("https://huggingface.co/org/name", "org/name", None, None),
        ("https://huggingface.co/org/name/", "org/name", None, None),
        ("https://hf.co/org/name/tree/main", "org/name", None, "main"),
        ("https://huggingface.co/org/name/tree/main/Q4_K_M", "org/name", "Q4_K_M", "main"),
        ("https://hf.co/org/name:Q8_0", "org/name", "Q8_0", None),
        ("huggingface.co/org/name/tree/v1", "org/name", None, "v1"),
        ("huggingface.co/org/name/", "org/name", None, None),
        ("hf.co/org/name?library=transformers#usage", "org/name", None, None),
        ("https://huggingface.co/org/name/commit/0123abc", "org/name", None, "0123abc"),
        ("org/name@v1.0:Q4_K_M", "org/name", "Q4_K_M", "v1.0"),
    ],
)
def test_references_and_urls_are_parsed(
    text: str, repo: str, quant: str | None, revision: str | None
) -> None:
    assert parse_reference(text) == Reference(repo=repo, quant=quant, revision=revision)


@pytest.mark.parametrize(
    ("text", "file", "revision"),
    [
        ("https://huggingface.co/o/n/blob/main/a-Q4_0.gguf", "a-Q4_0.gguf", "main"),
        ("https://huggingface.co/o/n/resolve/main/a-Q4_0.gguf?download=true", "a-Q4_0.gguf", "main"),
        ("https://huggingface.co/o/n/raw/v1/sub/config.json", "sub/config.json", "v1"),
        ("https://huggingface.co/o/n/blob/main/a%20b.gguf", "a b.gguf", "main"),
        ("hf.co/o/n/resolve/main/a.gguf", "a.gguf", "main"),
        ("hf.co/o/n/sub/a.gguf", "sub/a.gguf", None),
        ("o/n/sub/a.gguf@v2", "sub/a.gguf", "v2"),
        ("https://huggingface.co/o/n?show_file_info=sub%2Fa.gguf", "sub/a.gguf", None),
    ],
)
def test_a_file_is_named_by_its_address_or_after_its_repository(
    text: str, file: str, revision: str | None
) -> None:
    reference = parse_reference(text)
    assert reference == Reference(repo="o/n", file=file, revision=revision)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("o/n/../x.gguf", "o/n//x.gguf", "o/n/a\\b.gguf", "https://hf.co/o/n/blob/main/%2e%2e/x.gguf"),
        *("https://hf.co/o/n/blob/main", "o/n/x\n.gguf"),
        *("", "name", "org/", "/name", "org/name/more", "../name", "org/..", "org/a..b", "-org/name"),
        *("org/name.git", "org/name-", "org/na me", "org/name:", "org/name@", "org/name:Q4:Q5", "org/ä"),
        *("org/name:../x", "org/name@../x", "org/name@a/../b", "org/name\0", "org/" + "n" * 97),
        *("https://huggingface.co/name", "https://huggingface.co/datasets/org/name"),
        *("https://huggingface.co/org/name/discussions", "https://huggingface.co/%2e%2e/name"),
    ],
)
def test_an_invalid_reference_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]+ .*\.$"):
        parse_reference(text)


@pytest.mark.parametrize("text", ["x" * 5000, "o/n:" + "x" * 5000, "https://hf.co/" + "x" * 5000])
def test_a_refusal_truncates_a_long_reference(text: str) -> None:
    with pytest.raises(ValueError, match="xxx") as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 300


def test_a_reference_prints_as_it_is_typed() -> None:
    assert str(make_reference("o/n", "Q4_0", "main")) == "o/n:Q4_0@main"
    assert str(make_reference("o/n")) == "o/n"


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-3.2-1b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Model.IQ3_XXS.gguf", "IQ3_XXS"),
        ("Model.i1-IQ2_M.gguf", "IQ2_M"),
        ("Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("model-f16.gguf", "F16"),
        ("model-fp16.gguf", "F16"),
        ("model-BF16-00002-of-00003.gguf", "BF16"),
        ("model_Q8_0.gguf", "Q8_0"),
        ("model-Q4_0_8_8.gguf", "Q4_0_8_8"),
        ("bitnet-TQ2_0.gguf", "TQ2_0"),
        ("IQ4_NL/model-00001-of-00002.gguf", "IQ4_NL"),
        ("F16-source/model-Q5_K_S.gguf", "Q5_K_S"),
        ("Qwen2.5-7B.gguf", "Qwen2.5-7B"),
        ("README.md", None),
        ("model.imatrix.gguf", None),
    ],
)
def test_the_quant_is_read_from_the_file_name(path: str, label: str | None) -> None:
    assert label_of_file(path) == label


def test_a_named_quant_is_found_in_any_case_and_in_sub_folders() -> None:
    paths = ("m-Q4_K_M.gguf", "Q8_0/m-Q8_0.gguf", "m-F16.gguf")
    assert picked("o/n:q8_0", *paths) == ["Q8_0/m-Q8_0.gguf"]
    assert picked("o/n:FP16", *paths) == ["m-F16.gguf"]


def test_shards_come_in_order_and_together() -> None:
    shards = [f"Q8_0/m-Q8_0-0000{shard}-of-00003.gguf" for shard in (1, 2, 3)]
    assert picked("o/n:Q8_0", shards[2], "m-Q4_0.gguf", shards[0], shards[1]) == shards


def test_a_missing_shard_is_reported() -> None:
    with pytest.raises(ValueError, match="lacks 1 of the 2 parts of Q8_0"):
        select("o/n:Q8_0", "m-Q8_0-00002-of-00002.gguf")


def test_a_quant_with_missing_shards_is_not_suggested_instead() -> None:
    with pytest.raises(ValueError, match="choose another quant: Q4_0"):
        select("o/n:Q8_0", "m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf")
    with pytest.raises(ValueError, match="and has no other"):
        select("o/n:Q8_0", "m-Q8_0-00001-of-00002.gguf")


def test_an_absurd_shard_number_is_a_plain_name() -> None:
    assert picked("o/n:Q8_0", "m-Q8_0-00000-of-00000.gguf") == ["m-Q8_0-00000-of-00000.gguf"]


def test_a_whole_file_wins_over_the_same_model_in_shards() -> None:
    shards = ("m-q4_0-00001-of-00002.gguf", "m-q4_0-00002-of-00002.gguf")
    assert picked("o/n:Q4_0", *shards, "m-q4_0.gguf") == ["m-q4_0.gguf"]


@pytest.mark.parametrize(
    ("quants", "chosen"),
    [
        (("Q8_0", "Q4_K_S", "Q4_K_M", "F16"), "Q4_K_M"),
        (("Q8_0", "Q4_K_S", "F16"), "Q4_K_S"),
        (("Q8_0", "F16", "Q2_K"), "Q8_0"),
        (("IQ1_S",), "IQ1_S"),
    ],
)
def test_the_default_quant_is_the_first_in_order_of_preference(quants: tuple[str, ...], chosen: str) -> None:
    assert select("o/n", *(f"m-{quant}.gguf" for quant in quants)).quant == chosen


def test_a_single_file_without_a_quant_is_selected_by_its_name() -> None:
    assert select("o/n", "tiny.gguf").quant == "tiny"
    assert picked("o/n:tiny", "tiny.gguf", "m-Q4_K_M.gguf") == ["tiny.gguf"]


def test_the_refusal_of_an_unknown_quant_lists_the_available_ones() -> None:
    with pytest.raises(ValueError, match=r"no quant Q5_K_M; it has Q4_0, Q8_0\."):
        select("o/n:Q5_K_M", "m-Q8_0.gguf", "m-Q4_0.gguf")


def test_a_repository_without_a_default_quant_requires_a_choice() -> None:
    with pytest.raises(ValueError, match="name one of these: IQ1_S, IQ2_XXS"):
        select("o/n", "m-IQ1_S.gguf", "m-IQ2_XXS.gguf")


def test_two_models_of_one_quant_require_a_name() -> None:
    paths = ("big-Q4_0.gguf", "small-Q4_0.gguf")
    with pytest.raises(ValueError, match="big-Q4_0, small-Q4_0"):
        select("o/n:Q4_0", *paths)
    assert picked("o/n:small-q4_0", *paths) == ["small-Q4_0.gguf"]


def test_a_copy_in_a_sub_folder_is_no_second_model() -> None:
    assert picked("o/n", "copy/m-Q4_0.gguf", "m-Q4_0.gguf") == ["m-Q4_0.gguf"]


def test_a_repository_without_gguf_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no \.gguf and no \.safetensors"):
        select("o/n", "README.md", "mmproj-F16.gguf")
    with pytest.raises(ValueError, match=r"no \.gguf model files"):
        select("o/n:Q4_0", "model.safetensors", "config.json")


def test_the_projector_is_selected_with_the_model_and_f16_is_preferred() -> None:
    mmprojs = ("mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf")
    selection = select("o/n", *mmprojs, "m-Q4_K_M.gguf")
    assert selection.mmproj is not None
    assert selection.mmproj.path == "mmproj-F16.gguf"
    assert select("o/n", "m-mmproj-q8_0.gguf", "m-Q4_0.gguf").mmproj is not None
    assert select("o/n", "m-Q4_0.gguf").mmproj is None


def test_files_of_one_quant_are_one_group() -> None:
    listed = files("m-Q8_0.gguf", "m-Q4_0-00001-of-00001.gguf", "mmproj-F16.gguf", "imatrix.gguf")
    assert {group.label for group in group_models(listed)} == {"Q4_0", "Q8_0"}
