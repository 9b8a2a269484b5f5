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
from services.supervisor.registry.ledger import check_new_name, earlier, name_conflict, renamed, spec_of

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
def test_a_merge_patch_follows_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


def test_a_patch_keeps_other_fields() -> None:
    after = patched(FULL, {"n_ctx": 1024, "mmproj": None, "parameters": {"forced": {"seed": None}}})
    assert after == msgspec.structs.replace(
        FULL,
        n_ctx=1024,
        mmproj=None,
        parameters=msgspec.structs.replace(FULL.parameters, forced={}),
    )


@pytest.mark.parametrize(
    ("patch", "sentence"),
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
def test_an_invalid_patch_is_refused_with_the_field(patch: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        patched(PLAIN, patch)
    assert sentence in refused.value.message


def test_free_form_fields_are_not_checked_for_misspelt_names() -> None:
    after = patched(PLAIN, {"env": {"ANY": "1"}, "parameters": {"defaults": {"any": {"thing": 1}}}})
    assert after.env == {"ANY": "1"}


CHANGED: dict[str, Any] = {
    name: getattr(FULL, name) for name in ModelSpec.__struct_fields__ if name not in ("name", "path")
} | {"name": "n", "path": "n.gguf"}


@pytest.mark.parametrize("field", ModelSpec.__struct_fields__)
def test_a_change_restarts_only_affected_instances(field: str) -> None:
    new = msgspec.structs.replace(PLAIN, **{field: CHANGED[field]})
    assert new != PLAIN
    assert (fingerprint(PLAIN) != fingerprint(new)) == (field not in LIVE_FIELDS)


def test_every_field_is_declared_as_live_or_restarting() -> None:
    """A new field needs a restart unless it is listed."""
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


def test_a_spec_document_leaves_out_defaults() -> None:
    assert without_defaults(PLAIN) == {"name": "m", "path": "m.gguf"}


def test_toml_round_trip() -> None:
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
    ("text", "sentence"),
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
def test_an_invalid_file_is_refused_with_the_place(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_toml(text)
    assert sentence in refused.value.message


def test_a_put_is_its_spec_and_the_expected_revision() -> None:
    assert spec_of(PutModel(**msgspec.structs.asdict(FULL), revision=3)) == FULL


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
    assert name_conflict(new, {}) is None


@pytest.mark.parametrize(
    ("name", "error"),
    [("free", None), ("x", None), ("a", Conflict), ("b", Conflict), ("y", Conflict), ("a b", BadRequest)],
)
def test_a_model_can_be_renamed_to_a_free_name_or_its_own_alias(
    name: str, error: type[Exception] | None
) -> None:
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
    assert "twice" in (name_conflict(ModelSpec(name="a", path="p", aliases=("x", "x")), {}) or "")


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
def test_undo_restores_the_last_different_or_the_given_revision(
    values: tuple[int | None, ...], to: int | None, n_ctx: int
) -> None:
    assert earlier("m", _history(*values), to).n_ctx == n_ctx


def test_undo_without_an_earlier_revision_is_refused() -> None:
    with pytest.raises(Conflict, match="no earlier spec"):
        earlier("m", _history(100), None)
    with pytest.raises(NotFound, match="stored are 3, 1"):
        earlier("m", _history(300, None, 100), 2)
