"""Settings: defaults, wrong values, and the table that everything derives from."""

from pathlib import Path

import pytest

from modelyard.cli.setup import settings_rows
from modelyard.host.settings import KNOWN, TABLE, Settings, SettingsError, load, unknown


def test_defaults(tmp_path: Path) -> None:
    settings = load({"YARD_HOME": str(tmp_path)})
    assert (settings.host, settings.port, settings.nats_port) == ("127.0.0.1", 8080, 4222)
    assert settings.nats_url is None
    assert settings.models == tmp_path / "models"


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load({"YARD_HOME": str(tmp_path), "YARD_PORT": " "}).port == 8080


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("YARD_PORT", "web"),
        ("YARD_PORT", "-1"),
        ("YARD_PORT", "65536"),
        ("YARD_NATS_PORT", "4222.5"),
        ("YARD_NATS_URL", "localhost:4222"),
        ("YARD_NATS_URL", "http://localhost"),
        ("YARD_LLAMA_SERVER", "/nowhere"),
        ("YARD_LLAMA_SERVER", "/etc/passwd"),
        ("YARD_VLLM", "/nowhere"),
        ("YARD_RPC_SERVER", "/nowhere"),
        ("YARD_RPC_HOST", "0.0.0.0"),
        ("YARD_RPC_HOST", "::"),
        ("YARD_RPC_HOST", "my-machine"),
        ("YARD_NODE", "a.b"),
        ("YARD_STORES", "models"),
        ("YARD_STORES", "a=relative"),
        ("YARD_STORES", "a=/x,a=/y"),
        ("YARD_STORES", "a=/x,b=/x/below"),
        ("YARD_STORES", "a=/x,b=/x"),
        ("YARD_STORES", "a.b=/x"),
        ("YARD_STORES", "a=/etc/passwd"),
        ("YARD_NATS_HOST", "everywhere"),
        ("YARD_JOINED", "perhaps"),
        ("YARD_LOG_LEVEL", "loud"),
        ("YARD_HOME", "/etc/passwd"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"YARD_HOME": str(tmp_path), name: value})
    assert str(caught.value).startswith(f"{name}={value}")
    assert "\n" not in str(caught.value)


def test_settings_are_equal_in_a_child_process(tmp_path: Path) -> None:
    settings = load(
        {
            "YARD_HOME": str(tmp_path),
            "YARD_PORT": "1",
            "YARD_NATS_URL": "nats://broker:4222",
            "YARD_NODE": "n1",
            "YARD_ALLOWED_HOSTS": "a.example, b.example,",
            "YARD_LLAMA_SERVER": "/bin/sh",
            "YARD_VLLM": "/bin/sh",
            "YARD_RPC_SERVER": "/bin/sh",
            "YARD_RPC_HOST": "192.168.1.20",
            "YARD_LOG_LEVEL": "DEBUG",
        }
    )
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert load(settings.as_environment()) == settings


def test_misspelt_settings_are_found() -> None:
    assert unknown({"YARD_PROT": "1", "YARD_PORT": "1", "PATH": "x"}) == ["YARD_PROT"]


def test_the_first_of_several_stores_takes_downloads(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    given = {"YARD_HOME": str(tmp_path / "home"), "YARD_STORES": f"ssd={one}, disk={other}"}
    settings = load(given)
    assert (settings.all_stores, settings.models) == ({"ssd": one, "disk": other}, one)
    assert load(settings.as_environment()).all_stores == settings.all_stores
    (other / "org").mkdir(parents=True)
    (other / "org/m.gguf").touch()
    assert settings.store_of("org/m.gguf") == other
    assert settings.store_of("org/unknown.gguf") == settings.store_of("../m.gguf") == one


def test_a_size_is_written_in_the_largest_unit_that_divides_it(tmp_path: Path) -> None:
    given = {
        "YARD_HOME": str(tmp_path),
        "YARD_DISK_MARGIN": "3072MiB",
        "YARD_MEMORY_LIMITS": "cpu=1000,g=8GiB",
    }
    environment = load(given).as_environment()
    assert environment["YARD_DISK_MARGIN"] == "3GiB"
    assert environment["YARD_MEMORY_LIMITS"] == "cpu=1000,g=8GiB"


def test_every_field_has_a_meaning_and_a_variable() -> None:
    assert [entry.field for entry in TABLE] == list(Settings.__struct_fields__)
    assert len(KNOWN) == len(TABLE)
    assert all(entry.meaning.endswith(".") for entry in TABLE)


def test_settings_are_listed_with_value_source_and_default_and_secrets_masked(tmp_path: Path) -> None:
    environment = {
        "YARD_HOME": str(tmp_path),
        "YARD_PORT": "1",
        "YARD_NATS_URL": "nats://me:secret@broker:4222",
        "HF_TOKEN": "secret",
    }
    rows = {row["name"]: row for row in settings_rows(load(environment), environment)}
    assert (rows["YARD_PORT"]["value"], rows["YARD_PORT"]["source"]) == ("1", "environment")
    assert (rows["YARD_HOST"]["value"], rows["YARD_HOST"]["source"]) == ("127.0.0.1", "default")
    assert rows["YARD_DISK_MARGIN"]["default"] == "512MiB"
    assert "secret" not in str(rows)
    assert rows["YARD_NATS_URL"]["value"] == "nats://***@broker:4222"
