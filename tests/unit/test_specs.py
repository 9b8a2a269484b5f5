"""Specs as documents: patched, compared, written as TOML and read again."""

from typing import Any

import msgspec
import pytest

from modelyard.bus.reads import Revision
from modelyard.cli.importing.toml import read_toml, write_toml
from modelyard.documents import Difference, differences, merge_patch, patched, without_defaults
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.models import LIVE_FIELDS, Mode, ModelSource, ModelSpec, ParameterPolicy, fingerprint
from schemas.profiles import DeviceNeed, EmbeddingOptions, Lora, Profile, Replicas
from schemas.registry import PutModel
from services.supervisor.changes import check_new_name, earlier, plain, renamed
from services.supervisor.names import clashing

PLAIN = ModelSpec(name="m", path="m.gguf")
FULL = ModelSpec(
    name="org/full:Q4",
    path="org/full.gguf",
    aliases=("full", "org/full:Q4"),
    mode=Mode.EMBEDDING,
    engine="llama.cpp",
    mmproj="org/mmproj.gguf",
    chat_template="org/template.jinja",
    loras=(Lora(path="a.gguf"), Lora(path="b.gguf", scale=0.5)),
    source=ModelSource(repo="org/full", revision="a" * 40),
    n_parallel=2,
    n_ctx=4096,
    health_path="/ready",
    args=("--flash-attn", 'quo"te', "new\nline"),
    env={"A": "1", "odd key": ""},
    cache_type="q8_0",
    profiles=(
        Profile(name="gpu", devices=(DeviceNeed(device="gpu", memory_mib=6000), DeviceNeed(device="cpu"))),
        Profile(name="cpu", args=("-t", "4"), n_ctx=2048),
    ),
    embedding=EmbeddingOptions(task="query", dimensions=256),
    replicas=Replicas(min=1, max=3),
    autostart=True,
    ttl_s=90.5,
    pinned=True,
    priority=-1,
    parameters=ParameterPolicy(
        defaults={"temperature": 0.5, "stop": ["a"], "nested": {"deep": [{"x": 1}]}},
        forced={"seed": 1},
        dropped=("user",),
    ),
    queue_max=5,
    queue_wait_s=2.0,
    start_budget_s=30.0,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    # The examples of RFC 7386, appendix A.
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_the_rfc_says(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


def test_a_patch_leaves_what_it_does_not_name() -> None:
    after = patched(FULL, {"n_ctx": 1024, "mmproj": None, "parameters": {"forced": {"seed": None}}})
    assert after == msgspec.structs.replace(
        FULL,
        n_ctx=1024,
        mmproj=None,
        parameters=msgspec.structs.replace(FULL.parameters, forced={}),
    )


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"n_ctxx": 1}, "no field 'n_ctxx'. Did you mean 'n_ctx'?"),
        ({"zzz": None}, "no field 'zzz'."),
        ({"replicas": {"mx": 2}}, "no field 'replicas.mx'. Did you mean 'max'?"),
        ({"profiles": [{"name": "a"}, {"nmae": "b"}]}, "no field 'profiles[1].nmae'"),
        ({"source": {"repo": "r", "quantum": "q"}}, "no field 'source.quantum'"),
        ({"n_ctx": "many"}, "Expected `int`, got `str` - at `$.n_ctx`"),
        ({"n_ctx": 1}, "n_ctx must be between"),
        ({"path": None}, "required field `path`"),
        ({"name": "other"}, "rename it instead"),
        ({"replicas": {"min": 5}}, "replicas must be"),
    ],
)
def test_a_patch_that_makes_no_spec_is_refused_with_the_place(patch: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        patched(PLAIN, patch)
    assert said in refused.value.message


def test_what_is_free_to_be_anything_is_not_taken_for_a_misspelt_field() -> None:
    after = patched(PLAIN, {"env": {"ANY": "1"}, "parameters": {"defaults": {"any": {"thing": 1}}}})
    assert after.env == {"ANY": "1"}


CHANGED: dict[str, Any] = {
    name: getattr(FULL, name) for name in ModelSpec.__struct_fields__ if name not in ("name", "path")
} | {"name": "n", "path": "n.gguf"}


@pytest.mark.parametrize("field", ModelSpec.__struct_fields__)
def test_a_change_restarts_only_what_it_concerns(field: str) -> None:
    new = msgspec.structs.replace(PLAIN, **{field: CHANGED[field]})
    assert new != PLAIN
    assert (fingerprint(PLAIN) != fingerprint(new)) == (field not in LIVE_FIELDS)


def test_which_fields_restart_is_said_in_full() -> None:
    """A new field is taken for one that needs a restart, until somebody thought about it."""
    assert set(ModelSpec.__struct_fields__) - LIVE_FIELDS == {
        *("name", "path", "mode", "engine", "mmproj", "chat_template", "loras", "n_parallel", "n_ctx"),
        *("args", "env", "cache_type", "profiles", "embedding", "health_path"),
    }


def test_differences_are_named_field_by_field() -> None:
    new = patched(PLAIN, {"n_ctx": 1024, "replicas": {"max": 2}, "aliases": ["a"]})
    assert differences(PLAIN, new) == [
        Difference("aliases", (), ("a",)),
        Difference("n_ctx", 8192, 1024),
        Difference("replicas.max", 1, 2),
    ]
    assert differences(FULL, FULL) == []


def test_a_spec_is_told_without_its_defaults() -> None:
    assert without_defaults(PLAIN) == {"name": "m", "path": "m.gguf"}


def test_what_is_written_as_toml_reads_as_the_same() -> None:
    text = write_toml([FULL, PLAIN])
    assert read_toml(text) == [PLAIN, FULL]
    assert write_toml(read_toml(text)) == text
    assert read_toml("") == []


def test_null_cannot_be_written_as_toml() -> None:
    with pytest.raises(BadRequest, match=r"m cannot be written as TOML"):
        write_toml([patched(PLAIN, {}), ModelSpec(name="m", path="p", parameters=_null())])


def _null() -> ParameterPolicy:
    return ParameterPolicy(forced={"stop": None})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[model]", "not TOML"),
        ("[model]\nname='a'", "two brackets"),
        ("model=[1]", "is not a table"),
        ("[[models]]", "'models'"),
        (
            "[[model]]\nname='a'",
            "Model 1 of the file (a): a is not valid: Object missing required field `path`",
        ),
        ("[[model]]\nname='a b'\npath='x'", "is not a model name"),
        ("[[model]]\nname='a'\npath='x'\nctx=1", "Model 1 of the file (a): A model has no field 'ctx'"),
        ("[[model]]\nname='a'\npath='x'\n[[model]]\nname='a'\npath='x'", "two models called 'a'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_toml(text)
    assert said in refused.value.message


def test_a_put_is_its_spec_and_what_is_expected() -> None:
    assert plain(PutModel(**msgspec.structs.asdict(FULL), revision=3)) == FULL


@pytest.mark.parametrize(
    ("aliases", "keep", "after"),
    [
        ((), False, ()),
        ((), True, ("new", "old")),
        (("first",), True, ("first", "old")),
        (("first", "new"), False, ("first",)),
        (("old", "x"), False, ("x",)),
        (("old", "x"), True, ("x", "old")),
    ],
)
def test_a_renamed_model_keeps_its_other_names(
    aliases: tuple[str, ...], keep: bool, after: tuple[str, ...]
) -> None:
    new = renamed(ModelSpec(name="old", path="x", aliases=aliases), "new", keep_alias=keep)
    assert (new.name, new.aliases) == ("new", after)
    assert clashing(new, {}) is None


@pytest.mark.parametrize(
    ("name", "error"),
    [("free", None), ("x", None), ("a", Conflict), ("b", Conflict), ("y", Conflict), ("a b", BadRequest)],
)
def test_a_model_can_be_renamed_to_what_is_free_or_its_own(name: str, error: type[Exception] | None) -> None:
    models = {
        "1": ModelSpec(name="a", path="p", aliases=("x",)),
        "2": ModelSpec(name="b", path="p", aliases=("y",)),
    }
    if error is None:
        check_new_name(name, models["1"], models)
        return
    with pytest.raises(error):
        check_new_name(name, models["1"], models)


def test_an_alias_twice_is_a_clash() -> None:
    assert "twice" in (clashing(ModelSpec(name="a", path="p", aliases=("x", "x")), {}) or "")


def _spec(n_ctx: int) -> ModelSpec:
    return ModelSpec(name="m", path="p", n_ctx=n_ctx)


def _history(*values: int | None) -> list[Revision[ModelSpec]]:
    """Newest first, as it is read; numbered from the oldest."""
    numbered = [
        Revision(number, 0.0, "operator", _spec(value) if value else None)
        for number, value in enumerate(reversed(values), 1)
    ]
    return numbered[::-1]


@pytest.mark.parametrize(
    ("values", "to", "n_ctx"),
    [
        ((200, 100), None, 100),
        ((None, 200, 100), None, 200),
        ((200, 200, 100), None, 100),
        ((200, None, 200, 100), None, 100),
        ((300, 200, 100), 1, 100),
        ((300, 200, 100), 3, 300),
    ],
)
def test_undo_goes_to_what_differs_or_to_what_is_named(
    values: tuple[int | None, ...], to: int | None, n_ctx: int
) -> None:
    assert earlier("m", _history(*values), to).n_ctx == n_ctx


def test_undo_says_when_there_is_nothing_to_go_back_to() -> None:
    with pytest.raises(Conflict, match="no earlier spec"):
        earlier("m", _history(100), None)
    with pytest.raises(NotFound, match="kept are 3, 1"):
        earlier("m", _history(300, None, 100), 2)
