"""Errors: stable codes, one shape."""

import pytest

from schemas.errors import BY_CODE, ErrorBody, ErrorDetail, InternalError, ModelNotFound, YardError, from_body


@pytest.mark.parametrize("error", list(BY_CODE.values()), ids=list(BY_CODE))
def test_every_error_round_trips(error: type[YardError]) -> None:
    raised = error("It did not work.", param="model")
    again = from_body(raised.body())
    assert type(again) is error
    assert (again.message, again.param) == ("It did not work.", "model")
    assert 400 <= error.status < 600
    assert error.__doc__


def test_the_error_shape_is_that_of_openai() -> None:
    assert ModelNotFound("No.", param="model").encode() == (
        b'{"error":{"message":"No.","type":"invalid_request_error","code":"model_not_found","param":"model"}}'
    )


def test_an_unknown_code_becomes_an_internal_error() -> None:
    body = ErrorBody(error=ErrorDetail(message="New.", type="t", code="from_the_future"))
    assert type(from_body(body)) is InternalError


def test_codes_are_unique() -> None:
    def leaves(base: type[YardError]) -> list[type[YardError]]:
        return [leaf for sub in base.__subclasses__() for leaf in (leaves(sub) or [sub])]

    codes = [error.code for error in leaves(YardError)]
    assert sorted(codes) == sorted(set(codes))
