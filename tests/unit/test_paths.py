"""No path of the hub leads out of its folder."""

from pathlib import Path

import pytest

from modelyard.host.paths import check_folder, resolve_all, resolve_inside


@pytest.mark.parametrize("path", ["m.gguf", "Q4/m.gguf", "a b/ä-模型.gguf", "..m/m...gguf", "n" * 250])
def test_ordinary_paths_resolve_inside_the_folder(tmp_path: Path, path: str) -> None:
    assert resolve_inside(tmp_path, path) == tmp_path.resolve() / path


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../m.gguf", "a/../../m.gguf", "a/..", "a//m.gguf", "a/", "./m.gguf", "a/./m.gguf"),
        *("/etc/passwd", "//host/share", "C:/m.gguf", "a\\..\\m.gguf", "..\\m.gguf"),
        *(
            "m\0.gguf",
            "m\n.gguf",
            "\ud800.gguf",
            "m\x7f.gguf",
            "m\x9b.gguf",
            "m\u202e.gguf",
            "n" * 256,
            "n" * 251,
            "ä" * 128,
            "n/" * 600 + "m",
        ),
    ],
)
def test_hostile_paths_are_refused_with_a_sentence(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]+ .*\.$"):
        resolve_inside(tmp_path, path)


def test_a_symlink_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file.gguf").symlink_to(outside / "file.gguf")
    for path in ("link/m.gguf", "file.gguf", "link"):
        with pytest.raises(ValueError, match="leads out of"):
            resolve_inside(root, path)


def test_a_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="cannot be followed"):
        resolve_inside(tmp_path, "loop/m.gguf")


def test_a_symlinked_root_is_accepted(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "store").symlink_to(real)
    assert resolve_inside(tmp_path / "store", "m.gguf") == real.resolve() / "m.gguf"
    assert check_folder(tmp_path / "store", tmp_path / "store" / "a") == real.resolve() / "a"


@pytest.mark.parametrize("folder", ["", "..", "../other", "a/../../other"])
def test_a_job_folder_must_be_inside_the_store(tmp_path: Path, folder: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(ValueError, match=r"leads out of|absolute path"):
        check_folder(store, store / folder)
    with pytest.raises(ValueError, match="absolute path"):
        check_folder(store, Path("store"))


@pytest.mark.parametrize(
    "path",
    ["CON", "nul.gguf", "a/Aux.gguf", "com1.tar.gguf", "m.gguf.", "m.gguf ", "ab:c.gguf", "a?.gguf", "LPT³"],
)
def test_unportable_names_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not every system allows"):
        resolve_all(tmp_path, ["m.gguf", path])


@pytest.mark.parametrize(
    "path", ["description.txt", "a/Description.TXT", ".modelyard.json", "m.gguf.part", "m.jrnl", "a.jrn~/m"]
)
def test_names_reserved_by_the_store_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="keeps for itself"):
        resolve_all(tmp_path, ["m.gguf", path])


@pytest.mark.parametrize(
    "paths", [["m.gguf", "M.gguf"], ["Q4/m.gguf", "q4/M.GGUF"], ["\u00e4.gguf", "a\u0308.gguf"], ["m", "m"]]
)
def test_names_that_collide_on_some_file_systems_are_refused(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(ValueError, match="hold for one"):
        resolve_all(tmp_path, paths)


def test_distinct_files_are_all_placed(tmp_path: Path) -> None:
    paths = ["a/m.gguf", "b/m.gguf", "m-00001-of-00002.gguf", "console.gguf"]
    assert resolve_all(tmp_path, paths) == [tmp_path.resolve() / path for path in paths]
