"""Metrics of real engines, and token rates."""

import msgspec
import pytest

from services.supervisor.runner.metrics import TokenRates, parse_kv_used_ratio, parse_metrics

LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 24
llamacpp:prompt_tokens_cached_total 3
llamacpp:tokens_predicted_total 20
llamacpp:predicted_tokens_seconds 1079.91
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
"""
VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/a} b"} 2.0
vllm:num_requests_running{engine="1",model_name="org/a} b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03 1795259143000
vllm:request_success_total{finished_reason="stop"} 9.0
"""


def test_metrics_of_llama_cpp_are_parsed() -> None:
    assert parse_metrics(LLAMA) == {
        "prompt_tokens": 24,
        "cached_tokens": 3,
        "completion_tokens": 20,
        "busy": 2,
        "waiting": 1,
    }


def test_metrics_of_vllm_are_parsed_and_summed_over_its_engines() -> None:
    assert parse_metrics(VLLM) == {"busy": 3, "waiting": 4, "kv_used_ratio": 0.25, "completion_tokens": 1500}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "llamacpp:requests_processing",
        "llamacpp:requests_processing x",
        "vllm:num_requests_running NaN",
        "<html>",
    ],
)
def test_invalid_lines_are_ignored(text: str) -> None:
    assert parse_metrics(text) == {}


def test_the_shared_kv_cache_has_the_tokens_of_all_slots() -> None:
    slots = [
        {"id": 0, "n_ctx": 1024, "is_processing": False},
        {"id": 1, "n_ctx": 1024, "n_prompt_tokens": 100, "next_token": [{"n_decoded": 28}], "params": {}},
        {"id": 2, "n_ctx": 1024, "n_prompt_tokens": 128, "next_token": [{"n_decoded": 0}]},
    ]
    assert parse_kv_used_ratio(msgspec.json.encode(slots).decode()) == 0.25
    assert parse_kv_used_ratio("[]") is None
    assert parse_kv_used_ratio('{"error": 1}') is None


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = TokenRates()
    assert rates.update(0.0, 0, 0) == (0.0, 0.0)
    assert rates.update(1.0, 100, 10) == (100.0, 10.0)
    for second in range(2, 6):
        rate = rates.update(float(second), 100, 10 * second)
    assert rate == (20.0, 10.0)
    assert rates.update(6.0, 100, 50) == (0.0, 8.0), "older samples are dropped"
