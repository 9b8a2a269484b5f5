"""A home of the previous version starts under this one without a loss."""

import json
import tarfile
from pathlib import Path
from typing import Any

from modelyard.bus.reads import read_bucket
from schemas import buckets
from schemas.downloads import DownloadState
from tests.e2e.chat_client import chat
from tests.e2e.yard_process import running_yard, yard_command

RECORDED = Path(__file__).parents[1] / "data" / "home-0.1.tar.xz"
COMMANDS = {
    "models": ("list",),
    "downloads": ("downloads",),
    "usage": ("usage",),
    "prices": ("price", "list"),
    "budgets": ("budget", "list"),
    "groups": ("groups",),
    "reports": ("report", "list"),
    "history": ("history", "small"),
}
"""Commands whose JSON output before the upgrade is in `before.json`."""


def comparable(name: str, text: str) -> Any:
    """The document without time-dependent fields, with the current field names."""
    if name == "downloads":
        text = text.replace('"wishes":', '"overrides":').replace('"trouble":', '"problem":')
    document = json.loads(text)
    if name == "budgets":
        return [budget["budget"] for budget in document["budgets"]]
    return document


async def test_a_home_of_the_previous_version_retains_its_models_usage_prices_and_downloads(
    tmp_path: Path,
) -> None:
    with tarfile.open(RECORDED) as archive:
        archive.extractall(tmp_path, filter="data")
    before = json.loads((tmp_path / "before.json").read_text())
    async with running_yard(tmp_path / "home") as yard:
        for name, arguments in COMMANDS.items():
            code, out, err = await yard_command(yard, *arguments, "--json")
            assert code == 0, err
            assert comparable(name, out) == comparable(name, before[name]), name
        downloads = {
            download.model: download for download in (await read_bucket(yard.bus, buckets.DOWNLOADS)).values()
        }
        assert downloads["small"].state is DownloadState.FINISHED
        assert downloads["small"].overrides.n_ctx == 4096
        assert downloads["small"].overrides.aliases == ("tiny",)
        assert downloads["tiny/page-GGUF"].overrides.aliases == ("page",)
        status, answer = await chat(yard.url, "tiny")
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == "These words came from a hub."
        code, out, _ = await yard_command(yard, "usage", "--json")
        assert json.loads(out)["total"]["requests"] == json.loads(before["usage"])["total"]["requests"] + 1
        streams = {path.name for path in (yard.home / "nats").glob("jetstream/*/streams/*")}
        assert buckets.WAITING.stream in streams
        assert not set(buckets.RETIRED_STREAMS) & streams
