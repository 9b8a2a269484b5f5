"""The official client libraries over every endpoint: equal texts, streamed or not."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anthropic
import msgspec
import ollama
import openai
import pytest
import pytest_asyncio

from modelyard.files.tinymodels import DEMO_SENTENCE
from tests.e2e.chat_client import HELLO, post
from tests.e2e.models import put_vectors
from tests.e2e.yard_process import YardProcess, running_yard

pytestmark = pytest.mark.asyncio(loop_scope="module")
STATUS_ERRORS = (openai.APIStatusError, anthropic.APIStatusError, ollama.ResponseError)
FIRST_WORDS = DEMO_SENTENCE.split(",")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        await put_vectors(yard)
        yield yard


@pytest_asyncio.fixture(loop_scope="module")
async def client(yard: YardProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def claude(yard: YardProcess) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=yard.url, api_key="none", max_retries=0) as client:
        yield client


async def test_models_are_listed_and_retrieved_by_name_and_alias(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"demo", "vectors", "rerank"} <= set(names), "the first alias is the id that is shown"
    assert (await client.models.retrieve("demo")).id == "demo"
    assert (await client.models.retrieve("embed")).id == "vectors"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("no-such-model")


async def test_chat_completions(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="demo", messages=HELLO)  # type: ignore[call-overload]
    assert whole.choices[0].message.content == DEMO_SENTENCE
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = await client.chat.completions.create(  # type: ignore[call-overload]
        model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == DEMO_SENTENCE
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_text_completions(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="demo", prompt="Hello", max_tokens=8)
    stream = await client.completions.create(model="demo", prompt="Hello", max_tokens=8, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert text == whole.choices[0].text
    assert f"Hello{text}".startswith(FIRST_WORDS)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8


async def test_responses(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="demo", input="Hello!")
    assert whole.output_text == DEMO_SENTENCE
    assert whole.usage is not None
    assert whole.usage.output_tokens > 20
    stream = await client.responses.create(model="demo", input="Hello!", stream=True)
    events = [event async for event in stream]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == DEMO_SENTENCE
    assert events[-1].type == "response.completed"
    assert events[-1].response.status == "completed"


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="embed", input=["fetch a model", "fetch a model", "no"])
    one, same, other = [entry.embedding for entry in answer.data]
    assert one == pytest.approx(same)
    assert one != other
    assert answer.usage.prompt_tokens > 0


async def test_messages(claude: anthropic.AsyncAnthropic) -> None:
    whole = await claude.messages.create(model="demo", messages=HELLO, max_tokens=100)  # type: ignore[call-overload]
    assert whole.content[0].text == DEMO_SENTENCE
    assert whole.stop_reason == "end_turn"
    assert whole.usage.output_tokens > 20
    async with claude.messages.stream(model="demo", messages=HELLO, max_tokens=100) as stream:  # type: ignore[arg-type]
        text = "".join([piece async for piece in stream.text_stream])
        last = await stream.get_final_message()
    assert text == DEMO_SENTENCE
    assert last.usage.output_tokens == whole.usage.output_tokens
    counted = await claude.messages.count_tokens(model="demo", messages=HELLO)  # type: ignore[arg-type]
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached


@pytest_asyncio.fixture(loop_scope="module")
async def llama(yard: YardProcess) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=yard.url) as client:
        yield client


async def test_ollamas_chat(llama: ollama.AsyncClient) -> None:
    whole = await llama.chat(model="demo:latest", messages=HELLO)
    assert whole.message.content == DEMO_SENTENCE
    assert whole.done_reason == "stop"
    assert whole.eval_count
    parts = [part async for part in await llama.chat(model="demo", messages=HELLO, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == DEMO_SENTENCE
    assert [part.done for part in parts[-2:]] == [False, True]
    assert (parts[-1].eval_count, parts[-1].prompt_eval_count) == (whole.eval_count, whole.prompt_eval_count)
    short = await llama.chat(model="demo", messages=HELLO, options={"num_predict": 2})
    assert short.done_reason == "length"


async def test_ollamas_generate(llama: ollama.AsyncClient) -> None:
    assert (await llama.generate(model="demo", prompt="Hello!", system="Be brief.")).response == DEMO_SENTENCE
    parts = [part async for part in await llama.generate(model="demo", prompt="Hello!", stream=True)]
    assert "".join(part.response for part in parts) == DEMO_SENTENCE
    raw = await llama.generate(model="demo", prompt="Hello", raw=True, options={"num_predict": 8})
    assert f"Hello{raw.response}".startswith(FIRST_WORDS)


async def test_ollamas_embed(llama: ollama.AsyncClient) -> None:
    one, same = (await llama.embed(model="embed", input=["fetch a model", "fetch a model"])).embeddings
    assert one == pytest.approx(same)
    assert (await llama.embeddings(model="embed", prompt="fetch a model")).embedding == pytest.approx(one)


async def test_ollamas_lists(llama: ollama.AsyncClient) -> None:
    assert {"demo", "vectors", "rerank"} <= {model.model for model in (await llama.list()).models}
    assert "demo" in {model.model for model in (await llama.ps()).models}
    assert (await llama.show("demo")).capabilities == ["completion"]
    with pytest.raises(ollama.ResponseError, match="no-such-model") as caught:
        await llama.chat(model="no-such-model", messages=HELLO)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="embedding"):
        await llama.embed(model="demo", input="x")


async def test_paths_of_the_engine(yard: YardProcess) -> None:
    status, scores = await post(
        yard.url,
        "/v1/rerank",
        b'{"model":"rerank","query":"fetch a model","documents":["bananas","fetch the model"]}',
    )
    assert (status, len(scores["results"])) == (200, 2)
    _, tokens = await post(yard.url, "/tokenize", b'{"model":"demo","content":"Hello from Modelyard,"}')
    assert tokens["tokens"]
    body = msgspec.json.encode({"model": "demo", "tokens": tokens["tokens"]})
    _, text = await post(yard.url, "/detokenize", body)
    assert text["content"].strip() == "Hello from Modelyard,"
    _, prompt = await post(
        yard.url, "/apply-template", msgspec.json.encode({"model": "demo", "messages": HELLO})
    )
    assert "Hello!" in prompt["prompt"]
    status, refused = await post(yard.url, "/v1/no/such/path", b'{"model":"demo"}')
    assert status == 404
    assert set(refused["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "model", "expected"),
    [
        ("/v1/embeddings", "demo", "/v1/chat/completions"),
        ("/v1/chat/completions", "embed", "/v1/embeddings"),
        ("/v1/messages", "rerank", "/v1/rerank"),
        ("/v1/audio/transcriptions", "demo", "/v1/responses"),
    ],
)
async def test_a_wrong_mode_is_refused_with_the_right_path(
    yard: YardProcess, path: str, model: str, expected: str
) -> None:
    status, answer = await post(yard.url, path, msgspec.json.encode({"model": model, "input": "x"}))
    assert (status, answer["error"]["code"]) == (400, "wrong_mode")
    assert expected in answer["error"]["message"]


async def test_errors_of_messages_have_anthropics_shape(claude: anthropic.AsyncAnthropic) -> None:
    async def refused(model: str, message: dict[str, str]) -> anthropic.APIStatusError:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await claude.messages.create(model=model, messages=[message], max_tokens=3)  # type: ignore[list-item]
        return caught.value

    for error, status, kind in (
        (await refused("no-such-model", HELLO[0]), 404, "not_found_error"),
        (await refused("embed", HELLO[0]), 400, "invalid_request_error"),
        # The engine refuses this one.
        (await refused("demo", {"role": "user"}), 400, "invalid_request_error"),
    ):
        assert isinstance(error.body, dict)
        assert (error.status_code, error.body["type"], error.body["error"]["type"]) == (status, "error", kind)
        assert error.body["error"]["message"]


async def test_several_prompts_and_several_choices(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="demo", prompt=["Hello", "Hello from"], max_tokens=3)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].text.endswith(whole.choices[1].text.rsplit(maxsplit=1)[0])
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    stream = await client.chat.completions.create(  # type: ignore[call-overload]
        model="demo", messages=HELLO, n=2, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    usages = [chunk.usage async for chunk in stream if chunk.usage]
    assert [usage.completion_tokens for usage in usages] == [8]


class Clients(NamedTuple):
    """One of each library."""

    gpt: openai.AsyncOpenAI
    claude: anthropic.AsyncAnthropic
    llama: ollama.AsyncClient


@pytest_asyncio.fixture(loop_scope="module")
async def clients(
    client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, llama: ollama.AsyncClient
) -> Clients:
    return Clients(client, claude, llama)


async def _gpt_chat(to: Clients, model: str) -> str:
    return (await to.gpt.chat.completions.create(model=model, messages=HELLO)).choices[0].message.content


async def _gpt_chat_stream(to: Clients, model: str) -> str:
    stream = await to.gpt.chat.completions.create(model=model, messages=HELLO, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def _gpt_responses(to: Clients, model: str) -> str:
    return (await to.gpt.responses.create(model=model, input="Hello!")).output_text


async def _gpt_responses_stream(to: Clients, model: str) -> str:
    stream = await to.gpt.responses.create(model=model, input="Hello!", stream=True)
    return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])


async def _claude(to: Clients, model: str) -> str:
    return (await to.claude.messages.create(model=model, messages=HELLO, max_tokens=100)).content[0].text


async def _claude_stream(to: Clients, model: str) -> str:
    async with to.claude.messages.stream(model=model, messages=HELLO, max_tokens=100) as stream:
        return "".join([piece async for piece in stream.text_stream])


async def _llama_chat(to: Clients, model: str) -> str:
    return (await to.llama.chat(model=model, messages=HELLO)).message.content


async def _llama_chat_stream(to: Clients, model: str) -> str:
    stream = await to.llama.chat(model=model, messages=HELLO, stream=True)
    return "".join([part.message.content async for part in stream])


async def _llama_generate(to: Clients, model: str) -> str:
    return (await to.llama.generate(model=model, prompt="Hello!")).response


async def _llama_generate_stream(to: Clients, model: str) -> str:
    stream = await to.llama.generate(model=model, prompt="Hello!", stream=True)
    return "".join([part.response async for part in stream])


CHATS = [
    _gpt_chat,
    _gpt_chat_stream,
    _gpt_responses,
    _gpt_responses_stream,
    _claude,
    _claude_stream,
    _llama_chat,
    _llama_chat_stream,
    _llama_generate,
    _llama_generate_stream,
]


async def _gpt_completions(to: Clients, model: str) -> str:
    answer = await to.gpt.completions.create(model=model, prompt="Hello", max_tokens=12)
    return answer.choices[0].text


async def _gpt_completions_stream(to: Clients, model: str) -> str:
    stream = await to.gpt.completions.create(model=model, prompt="Hello", max_tokens=12, stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def _llama_raw(to: Clients, model: str) -> str:
    options = {"num_predict": 12}
    return (await to.llama.generate(model=model, prompt="Hello", raw=True, options=options)).response


async def _llama_raw_stream(to: Clients, model: str) -> str:
    options = {"num_predict": 12}
    stream = await to.llama.generate(model=model, prompt="Hello", raw=True, options=options, stream=True)
    return "".join([part.response async for part in stream])


TEXTS = [_gpt_completions, _gpt_completions_stream, _llama_raw, _llama_raw_stream]


async def _gpt_embed(to: Clients, model: str) -> list[float]:
    return (await to.gpt.embeddings.create(model=model, input="fetch a model")).data[0].embedding


async def _llama_embed(to: Clients, model: str) -> list[float]:
    return (await to.llama.embed(model=model, input="fetch a model")).embeddings[0]


async def _llama_old_embed(to: Clients, model: str) -> list[float]:
    return (await to.llama.embeddings(model=model, prompt="fetch a model")).embedding


VECTORS = [_gpt_embed, _llama_embed, _llama_old_embed]


async def _gpt_model(to: Clients, model: str) -> object:
    return await to.gpt.models.retrieve(model)


async def _claude_count(to: Clients, model: str) -> object:
    return await to.claude.messages.count_tokens(model=model, messages=HELLO)


async def _llama_show(to: Clients, model: str) -> object:
    return await to.llama.show(model)


OTHERS = [_gpt_model, _claude_count, _llama_show]
Call = Callable[[Clients, str], Awaitable[Any]]


def call_name(call: Call) -> str:
    return call.__name__.strip("_")


async def test_every_api_returns_the_same(clients: Clients) -> None:
    assert {call_name(call): await call(clients, "demo") for call in CHATS} == {
        call_name(call): DEMO_SENTENCE for call in CHATS
    }
    texts = {call_name(call): await call(clients, "demo") for call in TEXTS}
    assert len(set(texts.values())) == 1, texts
    first, *others = [await call(clients, "vectors") for call in VECTORS]
    assert others == [pytest.approx(first)] * 2


@pytest.mark.parametrize("call", CHATS + TEXTS + VECTORS + OTHERS, ids=call_name)
async def test_an_unknown_model_is_404(clients: Clients, call: Call) -> None:
    with pytest.raises(STATUS_ERRORS, match="no-such-model") as caught:
        await call(clients, "no-such-model")
    assert caught.value.status_code == 404


@pytest.mark.parametrize("call", CHATS + TEXTS + VECTORS + [_claude_count], ids=call_name)
async def test_a_model_of_another_mode_is_400_with_the_right_path(clients: Clients, call: Call) -> None:
    with pytest.raises(STATUS_ERRORS, match="/v1/rerank") as caught:
        await call(clients, "rerank")
    assert caught.value.status_code == 400
