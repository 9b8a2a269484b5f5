"""Engines of the user's own: found, read again, and never in the way of the others."""

import os
import threading
from pathlib import Path

import pytest

from modelyard.host.settings import Settings, load
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from services.supervisor.engines import choose, offers
from services.supervisor.engines.base import EngineProblem
from services.supervisor.engines.find import BUILT_IN

GOOD = """
from schemas.base import Record
from services.supervisor.engines.base import Engine, Files, Format, ServerCommand


class Extra(Record):
    words: tuple[str, ...] = ()


class Mine(Engine):
    name = "mine"
    automatic = False

    def refusal(self, spec, kind):
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
    """What is offered beyond our own engines; one that wants one of their names is beyond them too."""
    own = {(name, i) for i, name in enumerate(BUILT_IN)}
    return {one.engine: one for i, one in enumerate(offers(settings)) if (one.engine, i) not in own}


def version(settings: Settings) -> str:
    engine = choose(ModelSpec(name="m", path="m", engine="mine"), settings)
    return engine.command(None, None, None, 0, settings).argv[1]  # type: ignore[arg-type]  # it looks at none


def test_a_plugin_is_an_engine_like_any_other(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    assert plugins(settings) == {"mine": EngineOffer(engine="mine")}
    assert version(settings) == "1"


def test_a_plugin_may_name_its_engine(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD + "\nclass Other(Mine):\n    name = 'other'\n\nengine = Other()\n")
    assert list(plugins(settings)) == ["other"]


def test_a_changed_plugin_is_read_again_and_a_removed_one_is_gone(settings: Settings, folder: Path) -> None:
    path = folder / "mine.py"
    write(path, GOOD)
    first = choose(ModelSpec(name="m", path="m", engine="mine"), settings)
    assert choose(ModelSpec(name="m", path="m", engine="mine"), settings) is first, "not read without need"
    before = path.stat()
    write(path, GOOD.replace('"1"', '"2"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert version(settings) == "2", "neither size nor time changed, but the content did"
    path.unlink()
    assert plugins(settings) == {}
    with pytest.raises(EngineProblem, match="no engine mine"):
        version(settings)


def test_a_plugin_leaves_no_compiled_file(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    assert plugins(settings)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def", "SyntaxError"),
        ("import surely_not_there", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "define `engine`"),
        (GOOD + "\nclass Other(Mine):\n    name = 'other'\n", "it has 2"),
        (GOOD.replace("def refusal", "def other"), "abstract"),
        ("class engine:\n    name = 'mine'\n", "lacks automatic, needs_files"),
        (GOOD.replace('"mine"', '"my engine"'), "no name for an engine"),
        ("engine = None\nprint(undefined)", "NameError"),
        ("\x00", "null bytes"),
    ],
)
def test_a_broken_plugin_is_shown_with_its_reason_and_harms_no_other(
    settings: Settings, folder: Path, text: str, word: str
) -> None:
    write(folder / "broken.py", text)
    write(folder / "mine.py", GOOD)
    assert word in (plugins(settings)["broken"].problem or "")
    assert str(folder / "broken.py") in (plugins(settings)["broken"].problem or "")
    assert version(settings) == "1"
    with pytest.raises(EngineProblem, match=r"broken\.py"):
        choose(ModelSpec(name="m", path="m", engine="broken"), settings)


def test_a_broken_plugin_that_is_mended_works(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", "def")
    assert plugins(settings)["mine"].problem
    write(folder / "mine.py", GOOD)
    assert plugins(settings)["mine"].problem is None


def test_no_plugin_takes_the_name_of_another_engine(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD.replace('"mine"', '"llama.cpp"'))
    assert "needs another name" in (plugins(settings)["llama.cpp"].problem or "")


def test_what_begins_with_an_underscore_is_no_plugin(settings: Settings, folder: Path) -> None:
    write(folder / "_shared.py", "def")
    assert plugins(settings) == {}


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_is_not_read(settings: Settings, folder: Path, mode: int) -> None:
    write(folder / "mine.py", GOOD)
    for where in (folder, folder.parent):
        where.chmod(mode)
        (offer,) = plugins(settings).values()
        assert (offer.engine, str(where) in (offer.problem or "")) == ("plugins/engines", True)
        assert "can be written by others" in (offer.problem or "")
        where.chmod(0o700)
    assert version(settings) == "1"


def test_a_file_that_others_may_write_is_not_run(settings: Settings, folder: Path) -> None:
    write(folder / "mine.py", GOOD)
    (folder / "mine.py").chmod(0o666)
    assert "can be written by others" in (plugins(settings)["mine"].problem or "")


def test_what_belongs_to_somebody_else_is_not_read(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "mine.py", GOOD)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    (offer,) = plugins(settings).values()
    assert "belongs to another user" in (offer.problem or "")


WAITS = "import os, time\nwhile not os.path.exists({!r}):\n    time.sleep(0.01)\n"


def test_a_plugin_that_never_ends_stops_nobody_and_is_taken_when_it_does(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    """It hung the whole supervisor, which looks at the folder every two seconds."""
    may_go = tmp_path / "go"
    write(folder / "mine.py", WAITS.format(str(may_go)) + GOOD)
    write(folder / "other.py", GOOD.replace("mine", "other"))
    for _ in range(3):
        found = plugins(settings)
        assert "not come to its end" in (found["mine"].problem or "")
        assert found["other"].problem is None
    with pytest.raises(EngineProblem, match="not come to its end"):
        choose(ModelSpec(name="m", path="m", engine="mine"), settings)
    threading.Timer(0.2, may_go.touch).start()
    assert choose(ModelSpec(name="m", path="m", engine="mine"), settings, timeout_s=30).name == "mine"
    assert version(settings) == "1"


@pytest.mark.parametrize("method", ["offer(self, settings)", "refusal(self, spec, kind)"])
def test_an_engine_that_does_not_answer_stops_nobody(
    settings: Settings, folder: Path, tmp_path: Path, method: str
) -> None:
    body = WAITS.format(str(tmp_path / "go")).replace("\n", "\n        ")
    write(
        folder / "mine.py",
        GOOD + f"\nclass Hangs(Mine):\n    def {method}:\n        {body}\nengine = Hangs()",
    )
    with pytest.raises(EngineProblem, match="does not answer"):
        choose(ModelSpec(name="m", path="m", engine="mine"), settings)
    assert [one.engine for one in offers(settings)][: len(BUILT_IN)] == list(BUILT_IN)
    (tmp_path / "go").touch()
