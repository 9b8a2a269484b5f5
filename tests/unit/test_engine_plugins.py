"""Engine plugins: discovered, reloaded, and isolated from the other engines."""

import os
import threading
from pathlib import Path

import pytest

from modelyard.host.settings import Settings, load
from modelyard.plugins import EngineProblem
from modelyard.plugins.engines import ENGINES
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from services.supervisor.engines.selection import choose_engine, engine_offers

BUILT_IN = ENGINES.installed().plugins
GOOD = """
import msgspec

from modelyard.plugins import Engine, ServerCommand


class Extra(msgspec.Struct):
    words: tuple[str, ...] = ()


class Mine(Engine):
    name = "mine"
    automatic = False

    def refusal(self, spec, model_format):
        return None

    def command(self, spec, files, placement, port, settings):
        return ServerCommand(argv=("true", VERSION), env={})


VERSION = "1"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"YARD_HOME": str(tmp_path)})


@pytest.fixture
def folder(settings: Settings) -> Path:
    settings.engine_plugins.mkdir(parents=True, mode=0o700)
    settings.engine_plugins.parent.chmod(0o700)
    return settings.engine_plugins


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def plugins(settings: Settings) -> dict[str, EngineOffer]:
    """The offers after those of the built-in engines."""
    return {offer.engine: offer for offer in engine_offers(settings)[len(BUILT_IN) :]}


def version(settings: Settings) -> str:
    engine = choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings)
    return engine.command(None, None, None, 0, settings).argv[1]  # type: ignore[arg-type]  # it uses none


def test_a_plugin_is_an_engine_like_any_other(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    assert plugins(settings) == {"mine": EngineOffer(engine="mine")}
    assert version(settings) == "1"


def test_the_example_in_the_documentation_is_a_plugin(settings: Settings, folder: Path) -> None:
    documentation = Path(__file__).parents[2] / "docs" / "engines.md"
    write(folder / "text.py", documentation.read_text().split("```python\n")[1].split("```")[0])
    assert plugins(settings) == {"text-server": EngineOffer(engine="text-server")}


def test_a_plugin_may_define_engine(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD + "\nclass Other(Mine):\n    name = 'other'\n\nengine = Other()\n")
    assert list(plugins(settings)) == ["other"]


def test_a_changed_plugin_is_reloaded_and_a_removed_one_is_dropped(settings: Settings, folder: Path) -> None:
    path = folder / "mine.py"
    write(path, GOOD)
    first = choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings)
    assert choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings) is first, (
        "no reload without a change"
    )
    before = path.stat()
    write(path, GOOD.replace('"1"', '"2"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert version(settings) == "2", "same size and time, other content"
    path.unlink()
    assert plugins(settings) == {}
    with pytest.raises(EngineProblem, match="no engine mine"):
        version(settings)


def test_a_plugin_leaves_no_compiled_file(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    assert plugins(settings)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def", "SyntaxError"),
        ("import surely_not_there", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "define `engine`"),
        (GOOD + "\nclass Other(Mine):\n    name = 'other'\n", "it has 2"),
        (GOOD.replace("def refusal", "def other"), "abstract"),
        ("class engine:\n    name = 'mine'\n", "lacks automatic, preference, needs_files"),
        (GOOD.replace('"mine"', '"my engine"'), "no name for an engine"),
        ("engine = None\nprint(undefined)", "NameError"),
        ("\x00", "null bytes"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_work(
    settings: Settings, folder: Path, text: str, reason: str
) -> None:
    write(folder / "broken.py", text)
    write(folder / "mine.py", GOOD)
    assert reason in (plugins(settings)["broken"].problem or "")
    assert str(folder / "broken.py") in (plugins(settings)["broken"].problem or "")
    assert version(settings) == "1"
    with pytest.raises(EngineProblem, match=r"broken\.py"):
        choose_engine(ModelSpec(name="m", path="m", engine="broken"), settings)


def test_a_repaired_plugin_works(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", "def")
    assert plugins(settings)["mine"].problem
    write(folder / "mine.py", GOOD)
    assert plugins(settings)["mine"].problem is None


def test_a_plugin_cannot_take_the_name_of_another_engine(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD.replace('"mine"', '"llama.cpp"'))
    assert "needs another name" in (plugins(settings)["llama.cpp"].problem or "")


def test_a_file_with_a_leading_underscore_is_no_plugin(settings: Settings, folder: Path) -> None:
    write(folder / "_shared.py", "def")
    assert plugins(settings) == {}


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_writable_by_others_is_not_read(settings: Settings, folder: Path, mode: int) -> None:
    write(folder / "mine.py", GOOD)
    for where in (folder, folder.parent):
        where.chmod(mode)
        (offer,) = plugins(settings).values()
        assert (offer.engine, str(where) in (offer.problem or "")) == ("plugins/engines", True)
        assert "can be written by others" in (offer.problem or "")
        where.chmod(0o700)
    assert version(settings) == "1"


def test_a_file_writable_by_others_is_not_run(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    (folder / "mine.py").chmod(0o666)
    assert "can be written by others" in (plugins(settings)["mine"].problem or "")


def test_a_folder_of_another_user_is_not_read(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "mine.py", GOOD)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    (offer,) = plugins(settings).values()
    assert "belongs to another user" in (offer.problem or "")


WAITS = "import os, time\nwhile not os.path.exists({!r}):\n    time.sleep(0.01)\n"


def test_a_plugin_that_hangs_while_loading_is_used_once_it_is_loaded(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    """It blocked the supervisor, which scans the folder every two seconds."""
    released = tmp_path / "go"
    write(folder / "mine.py", WAITS.format(str(released)) + GOOD)
    write(folder / "other.py", GOOD.replace("mine", "other"))
    for _ in range(3):
        offered = plugins(settings)
        assert "still loading" in (offered["mine"].problem or "")
        assert offered["other"].problem is None
    with pytest.raises(EngineProblem, match="still loading"):
        choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings)
    threading.Timer(0.2, released.touch).start()
    assert choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings, timeout_s=30).name == "mine"
    assert version(settings) == "1"


@pytest.mark.parametrize("method", ["offer(self, settings)", "refusal(self, spec, kind)"])
def test_an_engine_that_hangs_does_not_block_the_others(
    settings: Settings, folder: Path, tmp_path: Path, method: str
) -> None:
    body = WAITS.format(str(tmp_path / "go")).replace("\n", "\n        ")
    write(
        folder / "mine.py",
        GOOD + f"\nclass Hangs(Mine):\n    def {method}:\n        {body}\nengine = Hangs()",
    )
    with pytest.raises(EngineProblem, match="does not answer"):
        choose_engine(ModelSpec(name="m", path="m", engine="mine"), settings)
    preferred = sorted(BUILT_IN.values(), key=lambda engine: engine.preference)
    assert [offer.engine for offer in engine_offers(settings)][: len(BUILT_IN)] == [
        engine.name for engine in preferred
    ]
    (tmp_path / "go").touch()
