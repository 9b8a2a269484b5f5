"""Which files of a store are one model: tables of names, and what comes of them."""

import pytest

from schemas.library import EntryFormat
from services.downloader.library.grouping import FileGroup, groups_of, shown_name
from services.downloader.library.walk import ScannedFile, ScannedLink, StoreTree


def tree(*paths: str, links: tuple[ScannedLink, ...] = ()) -> StoreTree:
    return StoreTree([ScannedFile(path, 10, 1) for path in paths], list(links), [], [])


def files_by_path(groups: list[FileGroup]) -> dict[str, list[str]]:
    """By path: the files that would be deleted with it."""
    return {group.path: sorted(file.path for file in group.files) for group in groups}


def test_each_quant_is_a_model_and_shared_files_belong_to_none() -> None:
    groups = groups_of(tree("o/r/m-Q4_K_M.gguf", "o/r/m-Q8_0.gguf", "o/r/README.md", "o/r/mmproj-F16.gguf"))
    assert files_by_path(groups) == {
        "o/r/m-Q4_K_M.gguf": ["o/r/m-Q4_K_M.gguf"],
        "o/r/m-Q8_0.gguf": ["o/r/m-Q8_0.gguf"],
    }
    assert {group.mmproj for group in groups} == {"o/r/mmproj-F16.gguf"}


def test_the_only_model_of_a_folder_has_all_its_files() -> None:
    files = ("o/r/m.gguf", "o/r/README.md", "o/r/mmproj.gguf", "o/r/images/a.png", "o/r/description.txt")
    assert files_by_path(groups_of(tree(*files))) == {"o/r/m.gguf": sorted(files)}


def test_shards_are_one_model_and_missing_ones_are_listed() -> None:
    (group,) = groups_of(tree("o/Q4/m-00001-of-00003.gguf", "o/Q4/m-00003-of-00003.gguf"))
    assert (group.path, group.shards) == ("o/Q4/m-00001-of-00003.gguf", 3)
    assert group.missing_shards == ["m-00002-of-00003.gguf"]
    assert shown_name(group) == "o/Q4/m"


def test_a_projector_in_the_folder_above_serves_the_shards_below() -> None:
    (group,) = groups_of(tree("o/r/Q4/m-00001-of-00001.gguf", "o/r/mmproj-F16.gguf"))
    assert group.mmproj == "o/r/mmproj-F16.gguf"
    assert [file.path for file in group.companions] == ["o/r/mmproj-F16.gguf"]


def test_a_projector_without_a_model_is_an_entry_of_its_own() -> None:
    assert list(files_by_path(groups_of(tree("o/r/mmproj-F16.gguf")))) == ["o/r/mmproj-F16.gguf"]
    assert [group.mmproj for group in groups_of(tree("m.gguf", "mmproj.gguf"))] == [None, None]


def test_a_folder_of_safetensors_is_one_model_with_its_subfolders() -> None:
    files = (
        "o/r/config.json",
        "o/r/model-1.safetensors",
        "o/r/model-2.safetensors",
        "o/r/1_Pooling/config.json",
    )
    (group,) = groups_of(tree(*files))
    assert (group.path, group.format) == ("o/r", EntryFormat.SAFETENSORS)
    assert sorted(file.path for file in group.files) == sorted(files)
    assert len(group.weights) == 2


def test_weights_one_level_below_a_configuration_belong_to_it() -> None:
    groups = groups_of(
        tree("o/r/model_index.json", "o/r/unet/a.safetensors", "o/r/vae/config.json", "o/r/vae/b.safetensors")
    )
    assert [group.path for group in groups] == ["o/r"]
    assert len(groups[0].weights) == 2


def test_gguf_and_safetensors_in_one_folder_are_separate_models() -> None:
    groups = groups_of(tree("o/r/config.json", "o/r/model.safetensors", "o/r/m.gguf"))
    assert files_by_path(groups) == {"o/r": ["o/r/model.safetensors"], "o/r/m.gguf": ["o/r/m.gguf"]}


def test_a_folder_with_other_weights_is_a_model_and_one_of_texts_is_not() -> None:
    groups = groups_of(tree("whisper/ggml-base.bin", "whisper/README.md", "notes/a.txt", "loose.bin"))
    assert {group.path: group.format for group in groups} == {
        "whisper": EntryFormat.OTHER,
        "loose.bin": EntryFormat.OTHER,
    }


def test_a_file_at_the_top_of_a_store_has_its_own_description() -> None:
    groups = groups_of(tree("a.gguf", "b.gguf", "a.description.txt", "README.md"))
    assert files_by_path(groups) == {"a.gguf": ["a.description.txt", "a.gguf"], "b.gguf": ["b.gguf"]}


def test_an_imatrix_is_not_a_model() -> None:
    assert files_by_path(groups_of(tree("o/r/m.gguf", "o/r/imatrix.gguf"))) == {
        "o/r/m.gguf": ["o/r/imatrix.gguf", "o/r/m.gguf"]
    }


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("m.gguf", True),
        ("org", True),
        ("org/repo", True),
        ("o/r/w.safetensors", True),
        ("o/r/README.md", False),
    ],
)
def test_links_with_the_name_of_a_model_are_shown(path: str, shown: bool) -> None:
    groups = groups_of(tree(links=(ScannedLink(path, "/elsewhere", 1),)))
    assert [group.path for group in groups] == ([path] if shown else [])
    assert all(group.size_bytes == 0 for group in groups)
