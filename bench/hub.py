"""`python -m bench.hub FILE SHA256`: a hub with one repository of one file, sent by the kernel."""

import asyncio
import sys
from pathlib import Path

from aiohttp import web

REPO = "org/large-GGUF"
FILE = "large-Q4_0.gguf"
_COMMIT = "a" * 40


def main(path: Path, sha256: str) -> None:
    """Serve until killed; the first line is the address."""
    asyncio.run(_serve(_app(path, sha256)))


async def _serve(app: web.Application) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def _app(path: Path, sha256: str) -> web.Application:
    size, etag = path.stat().st_size, f'"{sha256}"'
    lfs = {"size": size, "pointerSize": 134}
    sibling = {"rfilename": FILE, "size": size, "blobId": _COMMIT, "lfs": {"sha256": sha256, **lfs}}
    entry = {"type": "file", "path": FILE, "size": size, "oid": _COMMIT, "lfs": {"oid": sha256, **lfs}}
    about = {"id": REPO, "sha": _COMMIT, "siblings": [sibling], "private": False, "gated": False}
    headers = {"X-Repo-Commit": _COMMIT, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(size)}

    async def info(_request: web.Request) -> web.Response:
        return web.json_response({**about, "tags": ["gguf"], "downloads": 0, "likes": 0, "disabled": False})

    async def tree(_request: web.Request) -> web.Response:
        return web.json_response([entry])

    async def file(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(path, chunk_size=2**20, headers=headers)

    app = web.Application()
    app.router.add_get(f"/api/models/{REPO}", info)
    app.router.add_get(f"/api/models/{REPO}/revision/{{revision}}", info)
    app.router.add_get(f"/api/models/{REPO}/tree/{{revision}}", tree)
    app.router.add_get(f"/{REPO}/resolve/{{revision}}/{FILE}", file)
    return app


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
